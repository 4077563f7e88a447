"""AITER's fused experts for AMD GPUs. Untested: needs an MI300X (or MI325X, MI350X, MI355X).

Written from AITER's source, aiter/fused_moe.py: `fused_moe(hidden, w1, w2, topk_weight, topk_ids, ...)` with weights
as they are, not shuffled, gate before up; 8-bit weights with scales of 128 x 128 blocks (`QuantType.per_1x128`).
"""

from __future__ import annotations

import torch

from ..device import Device
from ..installed import package_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._torch_tasks import routed
from .problem import MoELayer

ARCHS = ("gfx942", "gfx950")


def supports(problem: MoELayer, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.arch not in ARCHS:
        return f"AITER's fused experts are written for {' and '.join(ARCHS)}; this is {device.arch}"
    if problem.num_local_experts:
        return "AITER marks experts that are elsewhere by a mask over global ids, which this problem does not have"
    if problem.hidden_size % 128 or problem.intermediate_size % 128:
        return "AITER's fused experts are tried with sizes in multiples of 128"
    return None


def run(inputs: Inputs, problem: MoELayer) -> Outputs:
    """torch's router, where there is one, and one call of AITER's experts."""
    from aiter import ActivationType, QuantType
    from aiter.fused_moe import fused_moe

    ids, weights = routed(inputs, problem)
    out: torch.Tensor = fused_moe(
        inputs["hidden"],
        inputs["w13"],
        inputs["w2"],
        weights,
        ids,
        activation=ActivationType.Silu,
        quant_type=QuantType.per_1x128 if problem.is_fp8 else QuantType.No,
        w1_scale=inputs.get("w13_scale"),
        w2_scale=inputs.get("w2_scale"),
    )
    return {"out": out}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("layer",),
    supports=supports,
    requires=("aiter.fused_moe",),
    run=run,
    version=package_version("aiter"),
)
