"""Other signs for the inputs that stay throughout a launch: what a kernel kept of them is of no use in the next block.

A few replaced rows (`Problem.edits`) are found by whoever looks at a part of every row, or learns which they are, and
the rest of what was kept stays right. Where the sign of every element is drawn anew, all has to be read again. The
process that kernels are called in and the referee's do the same from the same seed.
"""

from __future__ import annotations

import math

import torch

from kernels.problem import Inputs, Problem

SIGN_BYTES = {
    torch.float32: (0, 0, 0, 0x80), torch.bfloat16: (0, 0x80), torch.float16: (0, 0x80),
    torch.float8_e4m3fn: (0x80,), torch.float8_e5m2: (0x80,), torch.float8_e4m3fnuz: (0x80,),
    torch.float8_e5m2fnuz: (0x80,),
}  # fmt: skip
"""Sign bits in the bytes of an element."""
UNSIGNED_ZERO = frozenset({torch.float8_e4m3fnuz, torch.float8_e5m2fnuz})
"""Types of one byte in which a zero with a sign is NaN: it keeps what it has."""
MAGNITUDES, SIGNS = 0x7F7F7F7F7F7F7F7F, -0x7F7F7F7F7F7F7F80
"""Of the eight bytes of a word, all bits but the highest, and the highest alone; as a signed number."""
WORD_BYTES = 8
SAMPLED = 1 << 16
"""Elements that show whether an input has signs at all: scales have none."""
CPU_TILE_WORDS, GPU_TILE_WORDS = 1 << 20, 1 << 23
"""Signs repeat after so many words: to draw them is slower than to change them."""


class Renewal:
    """The signs of one problem's inputs; `renew` changes them in place, `restore` puts them back."""

    __slots__ = ("_generator", "_masks", "_signs", "_sparing", "_words")  # an instance's methods cannot be replaced

    def __init__(self, problem: Problem, inputs: Inputs) -> None:
        self._words: list[torch.Tensor] = []
        self._masks: list[torch.Tensor] = []
        """[words until they repeat] int64 sign bits, shifted by one."""
        self._signs: list[torch.Tensor] = []
        self._sparing: list[bool] = []
        """Whether a zero has no sign."""
        device = next(iter(inputs.values())).device
        self._generator = torch.Generator(device)
        for name in sorted({edit.name for edit in problem.edits(inputs, self._generator.manual_seed(0))}):
            tensor = inputs[name]
            sign_bytes = problem.sign_bytes.get(name) or _sign_bytes(tensor)
            if name not in problem.activations and sign_bytes:
                data = tensor.view(-1).view(torch.uint8)
                words = data[: data.numel() // WORD_BYTES * WORD_BYTES].view(torch.int64)
                most = CPU_TILE_WORDS if words.is_cpu else GPU_TILE_WORDS
                masks = [mask >> 1 for mask in _masks(sign_bytes)]
                repeats = max(1, min(words.numel(), most) // len(masks))
                self._words.append(words)
                self._masks.append(torch.tensor(masks, device=words.device))
                self._signs.append(words.new_zeros(repeats * len(masks)))
                self._sparing.append(tensor.dtype in UNSIGNED_ZERO)

    def renew(self, seed: int) -> None:
        """Signs drawn from `seed`, whatever they were; does not wait for the device."""
        self._generator.manual_seed(seed)
        for words, masks, signs, sparing in zip(self._words, self._masks, self._signs, self._sparing, strict=True):
            drawn = torch.empty_like(signs).random_(generator=self._generator)  # 63 bits
            drawn.view(-1, len(masks)).bitwise_and_(masks).bitwise_left_shift_(1)
            _flip(words, signs.bitwise_xor_(drawn), sparing)
            signs.copy_(drawn)

    def restore(self) -> None:
        """The signs that the inputs were drawn with."""
        for words, signs, sparing in zip(self._words, self._signs, self._sparing, strict=True):
            _flip(words, signs, sparing)
            signs.zero_()


def _sign_bytes(tensor: torch.Tensor) -> tuple[int, ...]:
    """Of an input's type; empty where it has no signs."""
    known = SIGN_BYTES.get(tensor.dtype, ())
    return known if known and bool((tensor.view(-1)[:SAMPLED].float() < 0).any()) else ()


def _masks(sign_bytes: tuple[int, ...]) -> list[int]:
    """Sign bits of as many words as it takes until bytes and words begin together."""
    repeated = bytes(sign_bytes) * WORD_BYTES
    period = math.lcm(len(sign_bytes), WORD_BYTES)
    return [int.from_bytes(repeated[i : i + WORD_BYTES], "little") for i in range(0, period, WORD_BYTES)]


def _flip(words: torch.Tensor, signs: torch.Tensor, sparing: bool) -> None:
    for part in words.split(max(1, signs.numel())):
        own = signs[: part.numel()]
        part.bitwise_xor_(own & _not_zero(part) if sparing else own)


def _not_zero(words: torch.Tensor) -> torch.Tensor:
    """The sign bit of every byte of a word that is neither zero nor NaN: there the other seven carry into it."""
    return ((words & MAGNITUDES) + MAGNITUDES).bitwise_and_(SIGNS)
