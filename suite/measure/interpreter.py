"""Triton's interpreter, mended for bfloat16.

The interpreter (3.6 to 3.9 seen) keeps bfloat16 as its bits in uint16. Its `dot` multiplies those bits as integers, and
its float32 to bfloat16 conversion truncates where GPUs round to nearest even; to e4m3 it carries a rounded-up
significand wrongly. Without these repairs no bf16 or fp8 kernel could be checked on a machine without a GPU; kernels
themselves stay free of special cases.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def mend() -> None:
    """Replace the functions, in this process. Does nothing where Triton is absent."""
    try:
        import triton.language as tl
        from triton.runtime import interpreter
    except ImportError:
        return
    original = interpreter._convert_float  # noqa: SLF001 - there is no public way in

    def convert(data: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
        if source == tl.float32 and target == tl.bfloat16:
            return bf16_bits(np.frombuffer(data.tobytes(), np.float32)).reshape(data.shape)
        if source == tl.bfloat16 and target == tl.float32:
            return (np.frombuffer(data.tobytes(), np.uint16).astype(np.uint32) << 16).reshape(data.shape)
        if source == tl.float32 and target in (tl.float8e4nv, tl.float8e4b8):
            return e4m3_bits(np.frombuffer(data.tobytes(), np.float32), target == tl.float8e4b8).reshape(data.shape)
        return original(data, source, target, rounding_mode)

    def as_float32(handle: Any) -> Any:
        scalar = handle.dtype.scalar
        if scalar in (tl.float32, tl.float16):
            return handle.data.astype(np.float32)
        return convert(handle.data, scalar, tl.float32, None).view(np.float32)

    def create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        if not a.dtype.scalar.is_floating():
            return original_dot(self, a, b, d, input_precision, max_num_imprecise_acc)
        product = np.matmul(as_float32(a), as_float32(b), dtype=np.float32)
        return interpreter.TensorHandle(product.astype(d.data.dtype) + d.data, d.dtype.scalar)

    original_dot = interpreter.InterpreterBuilder.create_dot
    interpreter._convert_float = convert  # noqa: SLF001
    interpreter.InterpreterBuilder.create_dot = create_dot


def bf16_bits(values: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """float32 rounded to nearest even bfloat16, as its bits."""
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).astype(np.uint16)


def e4m3_bits(values: np.ndarray[Any, np.dtype[np.float32]], is_fnuz: bool) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """float32 rounded to nearest even e4m3, as its bits; past the largest value, that value."""
    bias, largest, nan = (8, 240.0, 0x80) if is_fnuz else (7, 448.0, 0x7F)
    size = np.minimum(np.abs(np.nan_to_num(values.astype(np.float64), nan=0.0)), largest)
    exponent = np.maximum(np.frexp(np.maximum(size, 2.0**-20))[1] - 1, 1 - bias)
    steps = np.rint(np.ldexp(size, 3 - exponent)).astype(np.int64)  # 0 to 16: 16 is the next exponent's 8
    bits = ((exponent + bias - 1) << 3) + steps
    signs = np.where(np.signbit(values) & ((bits > 0) | (not is_fnuz)), 0x80, 0)
    return np.where(np.isnan(values), nan, bits | signs).astype(np.uint8)
