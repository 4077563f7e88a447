"""What kernels by torch.compile share: Inductor writes C++ on the CPU, and Triton beside cuBLAS or hipBLAS on a GPU."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """A compiled copy of a Python function, for one problem: its shapes are constants.

    Dynamo limits recompilations per code object, hence a code object of its own. Compilation waits for the first call.
    """
    assert isinstance(function, types.FunctionType)
    own = types.FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__
    )
    result: Function = torch.compile(own, fullgraph=True, dynamic=False)  # type: ignore[assignment]
    return result


def warm_up() -> None:
    """Dynamo and Inductor take seconds to import. Imports only: with a trivial function compiled for the CPU as well,
    launches on an H200's server took 48 s instead of 24 (Inductor's probing of the CPU is the likely cause)."""
    from torch._inductor import compile_fx  # noqa: F401 - imported to be there
    from torch._inductor.codegen import cuda_combined_scheduling, triton  # noqa: F401 - likewise
    from torch._inductor.runtime import triton_heuristics  # noqa: F401 - likewise
