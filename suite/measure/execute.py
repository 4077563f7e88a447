"""In the worker: run one kernel on one problem's inputs, and hand its outputs over for judgement.

Outputs cross to the referee's process as raw bytes in files beside a JSON reply; nothing is pickled. What the reply
says of them (dtype, shape, strides) is judged there as well.
"""

from __future__ import annotations

import errno
import math
from pathlib import Path
from typing import Any

import torch

from kernels import discover
from kernels.device import Device
from kernels.kernel import Kernel
from kernels.problem import Inputs, Outputs, Problem

from .torch_state import StateChanged, unchanged_state

STICKY_DEVICE_ERRORS = (
    "illegal memory access", "device-side assert", "misaligned address", "unspecified launch failure", "ECC error",
    "illegal instruction", "hardware stack error", "launch timed out", "unknown error", "HSA_STATUS_ERROR",
    "hipErrorLaunchFailure",
)  # fmt: skip
MEMORY_ERRORS = ("out of memory", "can't allocate memory", "cannot allocate memory")
POOL_POISON_BYTES = 256 << 20
ORDERED_WORDS = 4 << 20


def run_case(
    kernel: str, problem: str, device: dict[str, Any], tensors_on: str, seed: int, distribution: str, output_dir: str
) -> dict[str, Any]:
    """One correctness case: fresh inputs, plan, run, outputs to files in `output_dir`.

    `device` is what the kernel plans for; `tensors_on` differs from it in Triton's interpreter only, which runs on the
    CPU what a GPU's plan decided.
    """
    target = Device(**device)
    case, own_case = discover.load_problem(problem), discover.problem_as_seen_by(kernel, problem)
    implementation = discover.load_kernel(kernel)
    reason = why_not(implementation, own_case, target)
    if reason:
        return {"status": "skipped", "reason": "not_supported", "sentence": reason}
    inputs = case.make_inputs(seed, tensors_on, distribution)  # a base's kernel too: the referee draws the same
    before = checksums(inputs)
    with unchanged_state(), torch.inference_mode():
        state = implementation.plan(own_case, plan_inputs(case, inputs), target)
        poison_pool(tensors_on, case)
        outputs = implementation.run(inputs, state)
        synchronize(tensors_on)
    require_tensors(outputs)
    changed = [name for name, value in checksums(inputs).items() if value != before[name]]
    if changed:
        sentence = f"It changed its inputs: {', '.join(changed)}."
        return {"status": "incorrect", "reason": "inputs_changed", "sentence": sentence}
    shared = shared_memory(inputs, outputs)
    if shared:
        return {"status": "incorrect", "reason": "wrong_form", "sentence": f"Its outputs share memory: {shared}."}
    return {"status": "ran", "outputs": save_outputs(outputs, Path(output_dir), "")}


def why_not(kernel: Kernel, problem: Problem, device: Device) -> str | None:
    """None, or why this kernel cannot run this problem here: a missing module, a limit, the device itself."""
    if problem.task not in kernel.tasks:
        return f"it does not solve the task {problem.task}"
    for module in kernel.requires:
        try:
            __import__(module)
        except Exception as error:  # noqa: BLE001 - a broken installation raises anything
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            return f"module {module} cannot be imported: {first_line}"
    return problem.unsupported_by(device) or kernel.supports(problem, device)


def plan_inputs(problem: Problem, inputs: Inputs) -> Inputs:
    """The part of the inputs that `Kernel.plan` may see."""
    return {name: inputs[name] for name in problem.plan_inputs}


def save_outputs(outputs: Outputs, folder: Path, prefix: str) -> dict[str, dict[str, Any]]:
    """Write each output's bytes; returns {name: {dtype, shape, dense, file}}."""
    require_tensors(outputs)
    described = {}
    for name, tensor in outputs.items():
        path = folder / f"{prefix}{name}.bin"
        tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tofile(path)
        described[name] = {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "dense": is_dense(tensor),
            "file": str(path),
        }
    return described


def require_tensors(outputs: object) -> None:
    """TypeError where `run` returned anything but tensors by name."""
    if not isinstance(outputs, dict):
        raise TypeError(f"run must return a dict of tensors by output name, not {type(outputs).__name__}")
    for name, value in outputs.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"run must return a dict of tensors by output name; {name} is {type(value).__name__}")


def shared_memory(inputs: Inputs, outputs: Outputs) -> str | None:
    """Names of an output and the input or output that it shares its storage with, or None."""
    owners = {t.untyped_storage().data_ptr(): name for name, t in inputs.items() if t.numel()}
    for name, tensor in outputs.items():
        other = owners.setdefault(tensor.untyped_storage().data_ptr(), name)
        if tensor.numel() and other != name:
            return f"{name} with {other}"
    return None


def fixed_inputs(problem: Problem, inputs: Inputs) -> Inputs:
    """The inputs that stay the same throughout a launch."""
    return {name: tensor for name, tensor in inputs.items() if name not in problem.activations}


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether every element has memory of its own, without gaps, in any order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def checksums(tensors: Inputs) -> dict[str, int]:
    """A sum over each tensor's bytes as integers: cheap, and different after nearly any change.

    Of tensors of up to 16 MB, tables and lengths among them, each word counts by its place, so that order matters.
    """
    return {name: _checksum(_words(tensor)) for name, tensor in tensors.items()}


def _checksum(words: torch.Tensor) -> int:
    if words.numel() > ORDERED_WORDS:
        return int(words.sum(dtype=torch.int64))
    places = torch.arange(1, words.numel() + 1, dtype=torch.int64, device=words.device) % 65521
    return int((words * places).sum())


def _words(tensor: torch.Tensor) -> torch.Tensor:
    flat = tensor.contiguous().view(-1).view(torch.uint8)
    return flat.view(torch.int32) if flat.numel() % 4 == 0 else flat


def poison_pool(torch_device: str, problem: Problem) -> None:
    """Fill the allocator's free blocks with NaN: what a kernel leaves unwritten must not hold an old answer."""
    if torch_device == "cpu":
        return  # malloc has no pool that could be reached: the process runs with MALLOC_PERTURB_ (crew.py)
    sizes = [math.prod(s.shape) * getattr(torch, s.dtype).itemsize for s in problem.output_specs().values()]
    blocks = [torch.full((max(1, n // 4),), float("nan"), device="cuda") for n in (*sizes, *sizes, POOL_POISON_BYTES)]
    del blocks


def synchronize(torch_device: str) -> None:
    """Wait for the device; errors of asynchronous work surface here."""
    if torch_device != "cpu":
        torch.cuda.synchronize()


def failure(error: BaseException) -> dict[str, Any]:
    """An exception as a reply. `poisoned` where the device is of no further use to this process.

    The reason `disk_full` is no kernel's fault: it ends the run (crew.py).
    """
    text = " ".join(str(error).split())[:500] or "no message"
    poisoned = any(s in text for s in STICKY_DEVICE_ERRORS) or isinstance(error, StateChanged)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"status": "failed", "reason": "disk_full", "sentence": f"The disk is full: {text}", "poisoned": False}
    told = any(s in text.lower() for s in MEMORY_ERRORS)
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or told:
        return {
            "status": "failed",
            "reason": "out_of_memory",
            "sentence": f"It ran out of memory: {text}",
            "poisoned": True,
        }
    sentence = f"It raised {type(error).__name__}: {text}"
    return {
        "status": "failed",
        "reason": "crashed" if poisoned else "raised",
        "sentence": sentence,
        "poisoned": poisoned,
    }
