"""In the worker: outputs that a caller still holds, and that no later call may return or write to."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kernels.problem import Outputs


def second_call_fault(outputs: Outputs, run: Callable[[], Outputs]) -> tuple[str, str] | None:
    """(reason, sentence) where a second call returns what the first one's caller holds, or writes to it."""
    held = {name: output.clone() for name, output in outputs.items()}
    dense = {name: output for name, output in outputs.items() if is_dense(output)}
    poison(dense)
    again = same_memory(outputs, run()) or rewritten(dense)
    for name, output in dense.items():
        output.copy_(held[name])
    sentence = f"Its second call returned the memory that the first had returned: {', '.join(again)}."
    return ("wrong_form", sentence) if again else None


def poison(outputs: Outputs) -> None:
    """What a call leaves unwritten must not hold an old answer."""
    for output in outputs.values():
        if output.is_floating_point():
            output.fill_(float("nan"))


def rewritten(poisoned: Outputs) -> list[str]:
    """Outputs that somebody has written to since; two addresses may be the same memory."""
    return [name for name, t in poisoned.items() if t.is_floating_point() and not bool(t.float().isnan().all())]


def same_memory(first: Outputs, second: Outputs) -> list[str]:
    """Outputs of a second call that lie in memory which the first one's caller holds."""
    held = {output.untyped_storage().data_ptr() for output in first.values() if output.numel()}
    return [name for name, output in second.items() if output.numel() and output.untyped_storage().data_ptr() in held]


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether every element has memory of its own, without gaps, in any order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
