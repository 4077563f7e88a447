"""In the worker: what OpenMP and MKL were told of threads past PyTorch, for all that is computed with them.

PyTorch does not know all: with nested regions forbidden at the first level, or MKL's threads set for the calling one
alone, its number of threads is what it was, and products take twice as long.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

ASKED = (
    "omp_get_max_threads", "omp_get_dynamic", "omp_get_max_active_levels", "omp_get_thread_limit",
    "MKL_Get_Max_Threads", "MKL_Get_Dynamic",
)  # fmt: skip


def told() -> dict[str, int]:
    """Function of theirs -> what it says to this thread; without those that PyTorch was not built with."""
    return {name: int(function()) for name, function in _functions().items()}


def settle_libraries() -> None:
    """Have MKL and oneDNN choose their instructions now, before any candidate is imported.

    They choose once, when they are first used, by variables and calls. A file that forbids them the
    wider instructions when it is imported made its rival take 1.5 times as long with MKL, and products in bf16 a
    thousand times with oneDNN; its variables are put back, what was chosen by them is not.
    """
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        square = torch.ones(64, 64, dtype=dtype)
        torch.exp(square @ square)


@functools.cache
def _functions() -> dict[str, Callable[[], int]]:
    found: dict[str, Callable[[], int]] = {}
    for path in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        with suppress(OSError):
            library = ctypes.CDLL(str(path))  # it is loaded, and so is what it uses
            found |= {name: getattr(library, name) for name in ASKED if hasattr(library, name)}
    return found
