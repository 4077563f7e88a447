"""DeepGEMM's grouped product in the contiguous layout, bf16 and fp8, from its own package or the one in vLLM.

Source: DeepGEMM's README and `m_grouped_{bf16,fp8}_gemm_nt_contiguous(a, b, d, m_indices)`: every expert's rows begin
at a multiple of the block that the library asks for, and `m_indices` has the expert of every row, -1 where there is
none. Sorting, filling up, SwiGLU and quantisation are torch operations here; activations' scales have the layout that
the library transforms by itself.
"""

from __future__ import annotations

from types import ModuleType

import torch

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._layout import aligned_rows, sorted_slots, weighted_sum
from ._quant import quantize
from ._torch_tasks import routed
from .problem import MoEGroupedGEMM, MoELayer

ALIGNMENT = 128
"""Rows; what `get_mk_alignment_for_contiguous_layout` gives on sm_90."""


def _library() -> ModuleType:
    try:
        import deep_gemm as library
    except ImportError:
        from vllm.third_party import deep_gemm as library
    module: ModuleType = library
    return module


def supports(problem: MoEGroupedGEMM | MoELayer, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.arch != "sm_90":
        return f"DeepGEMM with float32 scales is written for sm_90; this is {device.arch}"
    if problem.dtype != "bfloat16":
        return f"DeepGEMM wants bfloat16 activations; these are {problem.dtype}"
    if problem.hidden_size % 64 or problem.intermediate_size % 64:
        return "DeepGEMM wants columns in multiples of 64"
    try:
        _library()
    except ImportError as error:
        return f"neither deep_gemm nor vllm.third_party.deep_gemm can be imported: {error}"
    return None


def run(inputs: Inputs, problem: MoEGroupedGEMM | MoELayer) -> Outputs:
    """One task or the other."""
    if isinstance(problem, MoEGroupedGEMM):
        places, owners = aligned_rows(inputs["expert_ends"], problem.rows, ALIGNMENT)
        x = _filled_up(inputs["x"], places, len(owners))
        scale = _filled_up(inputs["x_scale"], places, len(owners)) if problem.is_fp8 else None
        return {"h": _swiglu(_product(inputs, "w13", x, scale, owners))[places]}
    ids, weights = routed(inputs, problem)
    slots, ends = sorted_slots(ids, problem.stored_experts)
    places, owners = aligned_rows(ends, ids.numel(), ALIGNMENT)
    is_here = torch.arange(ids.numel(), device=ids.device) < ends[-1]
    places = torch.where(is_here, places, len(owners))  # choices that are elsewhere come last: to a row of their own
    hidden, scale = _seen(inputs["hidden"], inputs, problem)
    rows = slots // problem.slots
    x = _filled_up(_gathered(hidden, rows), places, len(owners) + 1)[:-1]
    x_scale = None if scale is None else _filled_up(scale[rows], places, len(owners) + 1)[:-1]
    h, h_scale = _seen(_swiglu(_product(inputs, "w13", x, x_scale, owners)), inputs, problem)
    y = _product(inputs, "w2", h, h_scale, owners)
    return {"out": weighted_sum(y[places.clamp_max(len(y) - 1)], slots, ids, weights).to(y.dtype)}


def _product(
    inputs: Inputs, name: str, x: torch.Tensor, scale: torch.Tensor | None, owners: torch.Tensor
) -> torch.Tensor:
    """[rows, rows of the weight] bfloat16; rows without an expert hold anything finite or not."""
    weight = inputs[name]
    out = torch.empty((len(x), weight.shape[1]), dtype=torch.bfloat16, device=x.device)
    if scale is None:
        _library().m_grouped_bf16_gemm_nt_contiguous(x, weight, out, owners)
    else:
        _library().m_grouped_fp8_gemm_nt_contiguous((x, scale), (weight, inputs[f"{name}_scale"]), out, owners)
    return out


def _seen(
    x: torch.Tensor, inputs: Inputs, problem: MoEGroupedGEMM | MoELayer
) -> tuple[torch.Tensor, torch.Tensor | None]:
    return quantize(x, inputs["w13"].dtype) if problem.is_fp8 else (x, None)


def _swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def _gathered(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    raw = x.view(torch.uint8) if x.dtype.itemsize == 1 else x  # 8-bit floats cannot be indexed
    return raw[rows].view(x.dtype)


def _filled_up(x: torch.Tensor, places: torch.Tensor, num_rows: int) -> torch.Tensor:
    """Rows at their places among zeros."""
    raw = x.view(torch.uint8) if x.dtype.itemsize == 1 else x
    return raw.new_zeros((num_rows, raw.shape[1])).index_copy_(0, places, raw).view(x.dtype)


def version() -> str:
    """The version of the package that serves."""
    library = _library()
    return f"{library.__name__} {getattr(library, '__version__', 'of unknown version')}"


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("grouped_gemm", "layer"),
    supports=supports,
    run=run,
    version=version,
)
