"""PyTorch's settings that hold for a whole process: a kernel that changes one changes its rival's conditions too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


class StateChanged(RuntimeError):
    """A kernel changed a setting of the process that it shares with others."""


def process_state() -> dict[str, Any]:
    """Setting -> value."""
    matmul = torch.backends.cuda.matmul
    return {
        "num_threads": torch.get_num_threads(),
        "default_dtype": torch.get_default_dtype(),
        "default_device": str(torch.get_default_device()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "matmul.allow_bf16_reduced_precision_reduction": matmul.allow_bf16_reduced_precision_reduction,
        "matmul.allow_fp16_reduced_precision_reduction": matmul.allow_fp16_reduced_precision_reduction,
        "flash_sdp": torch.backends.cuda.flash_sdp_enabled(),
        "mem_efficient_sdp": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "math_sdp": torch.backends.cuda.math_sdp_enabled(),
        "cudnn_sdp": torch.backends.cuda.cudnn_sdp_enabled(),
    }  # fmt: skip


@contextlib.contextmanager
def unchanged_state() -> Iterator[None]:
    """StateChanged, naming the settings, where the block leaves any of them other than it found them.

    What could be changed is not put back: the process is of no further use for fair timing.
    """
    before = process_state()
    yield
    after = process_state()
    changed = [f"{name} from {before[name]} to {after[name]}" for name in before if before[name] != after[name]]
    if changed:
        raise StateChanged(f"it changed settings of the whole process: {', '.join(changed)}")
