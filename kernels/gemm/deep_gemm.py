"""DeepGEMM: https://github.com/deepseek-ai/DeepGEMM."""

from __future__ import annotations

from ..installed import package_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from . import _deep_gemm
from .problem import Linear, LinearFP8


def run(inputs: Inputs, problem: Linear | LinearFP8) -> Outputs:
    """One call."""
    import deep_gemm

    return _deep_gemm.run_with(deep_gemm, inputs, problem)


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("linear", "linear_fp8"),
    supports=_deep_gemm.supports,
    requires=("deep_gemm",),
    run=run,
    version=package_version("deep_gemm"),
)
