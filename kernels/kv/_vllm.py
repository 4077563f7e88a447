"""What the adapters of vLLM's compiled operators share: `torch.ops._C` and `torch.ops._C_cache_ops`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..installed import package_version

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs

LIBRARIES = ("_C.*.so", "_C_stable_libtorch*.so")
"""Operators move from the first to the second from version to version."""


@functools.cache
def load() -> None:
    """Load the operators. ImportError where there are none."""
    import vllm

    folder = Path(str(vllm.__file__)).parent
    libraries = [path for pattern in LIBRARIES for path in sorted(folder.glob(pattern))]
    if not libraries:
        raise ImportError("vllm has no compiled operators here")
    for library in libraries:
        torch.ops.load_library(str(library))


def missing(operator: str, device: Device) -> str | None:
    """None, or why `operator` of `torch.ops._C_cache_ops` is not here."""
    if device.kind == "cpu":
        return "vLLM's operators want a GPU"
    try:
        load()
        getattr(torch.ops._C_cache_ops, operator)  # noqa: SLF001 - its public name
    except (ImportError, OSError, AttributeError) as error:
        return f"vLLM's operator {operator} cannot be loaded: {error}"
    return None


def scale_tensor(scale: float, plan_inputs: Inputs) -> torch.Tensor:
    """[1] float32 on the device."""
    return torch.tensor([scale], dtype=torch.float32, device=next(iter(plan_inputs.values())).device)


def cache_kind(is_fp8: bool) -> str:
    """vLLM's name for a cache's type."""
    return "fp8" if is_fp8 else "auto"


def as_stored(cache: torch.Tensor) -> torch.Tensor:
    """vLLM wants an fp8 cache as bytes."""
    return cache.view(torch.uint8) if cache.dtype.itemsize == 1 else cache


version = package_version("vllm", "vllm {}")
