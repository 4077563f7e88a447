"""In the worker: run one kernel on one problem's inputs, and hand its outputs over for judgement.

Outputs cross to the referee's process as raw bytes in files beside a JSON reply; nothing is pickled. What the reply
says of them (dtype, shape, strides) is judged there as well.
"""

from __future__ import annotations

import errno
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kernels import discover
from kernels.device import Device
from kernels.kernel import Kernel
from kernels.problem import Inputs, Outputs, Problem
from kernels.updates import spoil_updates, taken_updates

from ..judge.digest import digest, write_digested
from .blame import culprit
from .held import is_dense, second_call_fault
from .tampering import Tampered, keeps_computing, load_watched, module_of, untouched

STICKY_DEVICE_ERRORS = (
    "illegal memory access", "device-side assert", "misaligned address", "unspecified launch failure", "ECC error",
    "illegal instruction", "hardware stack error", "launch timed out", "unknown error", "HSA_STATUS_ERROR",
    "hipErrorLaunchFailure",
)  # fmt: skip
MEMORY_ERRORS = ("out of memory", "can't allocate memory", "cannot allocate memory")
POOL_POISON_BYTES = 256 << 20
CHECKSUM_WORDS = 16 << 20
LATE_S = 0.005
"""How long a call's outputs are watched after it returned: another thread or stream may still be writing them."""


def run_case(
    kernel: str,
    problem: str,
    device: dict[str, Any],
    tensors_on: str,
    seed: int,
    distribution: str,
    output_dir: str,
    library: bool,
) -> dict[str, Any]:
    """One correctness case: fresh inputs, plan, run, outputs to files in `output_dir`.

    `device` is what the kernel plans for; `tensors_on` differs from it in Triton's interpreter only, which runs on the
    CPU what a GPU's plan decided. A `library` is a vendor's kernel: see `tampering.untouched`.
    """
    load_watched(kernel, library)  # before there is anything that its import could look at
    case, own_case = discover.load_problem(problem), discover.problem_as_seen_by(kernel, problem)
    place = Place(kernel, Device(**device), tensors_on, library, Path(output_dir))
    inputs = case.make_inputs(seed, tensors_on, distribution)  # a base's kernel too: the referee draws the same
    return run_once(place, case, own_case, inputs)


@dataclass(frozen=True)
class Place:
    """Which kernel is called, where, and where its outputs go; fields as `run_case` takes them."""

    kernel: str
    device: Device
    tensors_on: str
    library: bool
    folder: Path


def run_once(place: Place, case: Problem, own_case: Problem, inputs: Inputs, prefix: str = "") -> dict[str, Any]:
    """One call on these inputs, judged as far as only the process that it ran in can. `own_case` is `case` as the
    kernel's own tree knows it; files of outputs begin with `prefix`."""
    implementation = load_watched(place.kernel, place.library)
    spoil_updates(case, inputs)
    before, given = checksums(inputs), handles(inputs)
    with untouched("when it was run", module_of(place.kernel), place.library):
        reason = why_not(implementation, own_case, place.device)
        if reason:
            return {"status": "skipped", "reason": "not_supported", "sentence": reason}
        with torch.inference_mode():
            state = implementation.plan(own_case, plan_inputs(case, given), place.device)
            poison_pool(place.tensors_on, case)
            outputs = implementation.run(given, state)
            require_tensors(outputs, place.tensors_on)
            updates = taken_updates(case, inputs)
            if returned := outputs.keys() & updates.keys():
                raise WrongFormError(f"run must not return what it updates in place: {', '.join(sorted(returned))}")
            at_once = copies(outputs) | updates
            synchronize(place.tensors_on)
            fault = _fault(case, inputs, before, outputs, at_once, place.tensors_on == "cpu")
            if not fault and place.tensors_on == place.device.torch_name:  # Triton's interpreter is too slow for two
                fault = second_call_fault(outputs, lambda: implementation.run(given, state))
            synchronize(place.tensors_on)
    if fault:
        return {"status": "incorrect", "reason": fault[0], "sentence": fault[1]}
    return {"status": "ran", "outputs": save_outputs({**outputs, **updates}, place.folder, prefix)}


def _fault(
    problem: Problem, inputs: Inputs, checksums_before: dict[str, int], outputs: Outputs, at_once: Outputs, is_cpu: bool
) -> tuple[str, str] | None:
    """(reason, sentence) where a call did what no call may. `at_once` are copies made right behind it.

    Busy host threads count on a CPU only: beside a GPU they are compilers' and libraries', and compute no output.
    """
    time.sleep(LATE_S)
    now = outputs | taken_updates(problem, inputs)
    late = [name for name, output in now.items() if not torch.equal(_words(output), _words(at_once[name]))]
    if late:
        return (
            "outside_interval",
            f"Outputs were written after the call, by another stream or thread: {', '.join(late)}.",
        )
    spoil_updates(problem, inputs)
    changed = [name for name, value in checksums(inputs).items() if value != checksums_before[name]]
    if changed:
        return "inputs_changed", f"It changed its inputs: {', '.join(changed)}."
    shared = shared_memory(inputs, outputs)
    if shared:
        return "wrong_form", f"Its outputs share memory: {shared}."
    if is_cpu and keeps_computing():
        return "outside_interval", "It keeps computing after the call has returned."
    return None


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
    reason = problem.unsupported_by(device) or kernel.supports(problem, device)
    if reason is not None and not (isinstance(reason, str) and reason):  # True and False could mean either
        raise TypeError(f"supports returned {said(reason)}; it must return None, or the sentence that says why not")
    return reason


def plan_inputs(problem: Problem, inputs: Inputs) -> Inputs:
    """The part of the inputs that `Kernel.plan` may see."""
    return {name: inputs[name] for name in problem.plan_inputs}


def handles(inputs: Inputs) -> Inputs:
    """Other tensors of the same memory, in a dictionary of their own: what is done to these objects is no matter."""
    return {
        name: torch.empty(0, dtype=t.dtype, device=t.device).set_(
            t.untyped_storage(), t.storage_offset(), t.size(), t.stride()
        )
        for name, t in inputs.items()
    }


def save_outputs(outputs: Outputs, folder: Path, prefix: str) -> dict[str, dict[str, Any]]:
    """Write each output's bytes; returns {name: {dtype, shape, dense, file, sha256}}. A name may be no file's."""
    described = {}
    for number, (name, tensor) in enumerate(outputs.items()):
        path = folder / f"{prefix}{number}.bin"
        described[name] = {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "dense": is_dense(tensor),
            "file": str(path),
            "sha256": write_digested(path, _bytes(tensor)),
        }
    return described


def digests(outputs: Outputs) -> dict[str, str]:
    """As `save_outputs` would tell them."""
    return {name: digest(_bytes(tensor)) for name, tensor in outputs.items()}


def _bytes(tensor: torch.Tensor) -> Any:
    """On the host; from a device by way of memory that PyTorch keeps for copies, which is ten times as fast."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    if flat.is_cpu:
        return flat.numpy()
    return torch.empty(flat.shape, dtype=torch.uint8, pin_memory=True).copy_(flat).numpy()


class WrongFormError(TypeError):
    """What `run` returned is not what a kernel returns."""


def require_tensors(outputs: object, torch_device: str) -> None:
    """WrongFormError where `run` returned anything but plain tensors: a lazy one would be computed after the call."""
    if type(outputs) is not dict or any(type(name) is not str for name in outputs):
        raise WrongFormError(f"run must return a dict of tensors by output name, not {type(outputs).__name__}")
    for name, value in outputs.items():
        fault = _not_plain(value, torch_device)
        if fault:
            raise WrongFormError(
                f"run must return plain dense tensors on {torch_device} by output name; {name} {fault}"
            )


def _not_plain(value: Any, torch_device: str) -> str | None:
    if type(value) is not torch.Tensor:
        return f"is {type(value).__name__}"
    if value.layout != torch.strided:
        return f"has the layout {value.layout}"
    if value.is_conj() or value.is_neg():
        return "is a lazy conjugate or negative"
    if value.device.type != torch.device(torch_device).type:
        return f"is on {value.device}"
    hidden = [name for name in vars(value) if hasattr(torch.Tensor, name)]
    return f"hides {', '.join(sorted(hidden))} of torch.Tensor behind attributes of its own" if hidden else None


def shared_memory(inputs: Inputs, outputs: Outputs) -> str | None:
    """Names of an output and the input whose storage it lies in, or the output that it overlaps; None where each has
    memory of its own. Outputs may be parts of one allocation."""
    owners = {t.untyped_storage().data_ptr(): name for name, t in inputs.items() if t.numel()}
    spans: list[tuple[int, int, str]] = []
    for name, tensor in ((name, tensor) for name, tensor in outputs.items() if tensor.numel()):
        other = owners.get(tensor.untyped_storage().data_ptr(), name)
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        begin, end = tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
        other = next((kin for first, behind, kin in spans if first < end and begin < behind), other)
        if other != name:
            return f"{name} with {other}"
        spans.append((begin, end, name))
    return None


def copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In memory of their own."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def fixed_checksums(problem: Problem, inputs: Inputs) -> dict[str, int]:
    """Checksums of what stays the same throughout a launch; what calls update in place is spoilt."""
    spoil_updates(problem, inputs)
    return checksums({name: tensor for name, tensor in inputs.items() if name not in problem.activations})


def checksums(tensors: Inputs) -> dict[str, int]:
    """A sum over each tensor's words, each weighted by its place: different after nearly any change or exchange."""
    return {name: _checksum(_words(tensor)) for name, tensor in tensors.items()}


def _checksum(words: torch.Tensor) -> int:
    places = torch.arange(1, min(words.numel(), CHECKSUM_WORDS) + 1, dtype=torch.int64, device=words.device)
    total = 0
    for number, part in enumerate(words.split(CHECKSUM_WORDS), start=1):
        total += (2 * number + 1) * int((part * places[: part.numel()]).sum())  # wraps around, which is as good
    return total


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


def said(value: object) -> str:
    """The text of a value of anyone's class, an exception's message for one; its `__str__` may itself raise."""
    try:
        return " ".join(str(value)[:5000].split())[:500] or "no message"
    except BaseException as another:  # noqa: BLE001 - see above
        return f"no message, as its __str__ raised {type(another).__name__}"


def failure(error: BaseException) -> dict[str, Any]:
    """An exception as a reply. `poisoned` where the device is of no further use to this process.

    The reason `disk_full` is no kernel's fault: it ends the run (crew.py).
    """
    text = said(error)
    poisoned = any(s in text for s in STICKY_DEVICE_ERRORS) or isinstance(error, Tampered)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return {"status": "failed", "reason": "disk_full", "sentence": f"The disk is full: {text}", "poisoned": False}
    told = any(s in text.lower() for s in MEMORY_ERRORS)
    if isinstance(error, Tampered):
        return {"status": "incorrect", "reason": "tampered", "sentence": text, "poisoned": True} | culprit(error)
    if isinstance(error, WrongFormError):
        return {"status": "incorrect", "reason": "wrong_form", "sentence": text, "poisoned": False}
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
