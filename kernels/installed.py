"""The libraries behind vendors' kernels: their versions, for `Kernel.version`, and what they are told."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable


def module_version(name: str, said: str = "{}") -> Callable[[], str]:
    """What module `name` calls its `__version__`, in place of the braces of `said`."""
    return lambda: said.format(importlib.import_module(name).__version__)


def package_version(name: str, said: str = "{}") -> Callable[[], str]:
    """The same of an installed distribution, whose module does not tell."""
    return lambda: said.format(importlib.metadata.version(name))


vllm_version = module_version("vllm", "vllm {}")
flashinfer_version = module_version("flashinfer")

ENVIRONMENT = {"VLLM_USE_DEEP_GEMM_E8M0": "0"}
"""Variables of processes that run kernels. Where DeepGEMM can be imported, vLLM rounds the scales of what it quantises
up to powers of two, on Hopper as well: its fp8 MoE layer was 6.4% off (relative RMS), as that rounding is by itself."""
