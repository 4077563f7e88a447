"""In the worker: the blocks of one measurement, each call drawn when its turn comes."""

from __future__ import annotations

import functools
import gc
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kernels.device import Device
from kernels.problem import Inputs, Outputs, Problem
from kernels.updates import spoil_updates, taken_updates

from ..device.device_records import OutsideWorkError
from ..device.timer import Step, TimedCall
from .blame import blamed, blaming
from .caches import reset_persisting_lines
from .drawn import Drawn, InputsChangedError
from .execute import WrongFormError, copies, digests, fixed_checksums, require_tensors, save_outputs
from .given_back import GivenBack
from .held import poison, rewritten, same_memory
from .helpers import HELPERS
from .malloc import keep_blocks
from .possessions import Possessions, of_others, refuse_changes
from .process_settings import hooks
from .tampering import Snapshot, Tampered, module_of

MOST_COLLECTIONS = 10
"""Garbage that holds garbage whose finalisers hold it takes two or three."""
Ask = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(slots=True)  # an instance's methods cannot be replaced
class Sequence:
    """Every kernel once in a block, in an order that is settled when the block begins."""

    number: int
    problem: Problem
    device: Device
    drawn: Drawn
    ask: Ask
    calls: dict[str, list[TimedCall]]
    """Kernel -> its calls: in different places of memory, or one."""
    blocks: int
    output_dir: Path
    look: Callable[[], None] = lambda: None
    """Raises where the process is not as it was before the first call; whenever the parent says so."""
    order: list[str] = field(default_factory=list)
    """Kernel of every call."""
    kept: list[dict[str, Any]] = field(default_factory=list)
    """{sequence, call, kernel, outputs} for the referee, as `save_outputs` describes them."""
    _keep_later: list[tuple[int, str, Outputs]] = field(default_factory=list)
    """(call, kernel, outputs) of replays: to wait for them would let the device run idle."""
    _stamps: list[Any] = field(default_factory=list)
    """Of what is kept, when it was."""
    _held: dict[str, Outputs] = field(default_factory=dict)
    """Kernel -> what its first call returned, as a caller may hold it: no later call may return it again."""
    _told_us: float = 0.0
    _latest: Outputs = field(default_factory=dict)
    """Copies of the latest call's outputs."""
    _changed: list[torch.Tensor] = field(default_factory=list)
    """Of each draw of inputs since it was last looked at, whether activations were changed."""
    _checksums: dict[str, int] = field(default_factory=dict)
    """Of the fixed inputs, in calls that are looked at one by one."""
    _before: Snapshot | None = None
    """The process, in calls that are looked at one by one: so that the one who changes it is named."""
    _hooks: dict[str, Any] = field(default_factory=dict)
    """What was to be told of Python's doings before the call."""
    _given_back: GivenBack = field(default_factory=GivenBack)
    _others: Possessions = field(default_factory=dict)
    """What all other kernels hold, in the same calls."""

    def steps(self) -> Iterator[Step]:
        """Every timed call."""
        chance, inspected = secrets.SystemRandom(), secrets.randbelow(self.blocks)
        ask = self.ask
        called = [(call, (call.run, call.before, call.replay)) for calls in self.calls.values() for call in calls]
        for call, _ in called:
            self._spoil(call)
        for block in range(self.blocks):
            self.drawn.renew(self._renewal_of(block))  # before the flush
            reset_persisting_lines(self.device)  # each kernel is called once until the next time
            order = chance.sample(sorted(self.calls), len(self.calls))
            for kernel in order:
                call = chance.choice(self.calls[kernel])
                # What replays share, nobody draws again within a block: a change to it is still there at its end.
                last_with_inputs = not call.replay or kernel == order[-1]
                yield Step(
                    call,
                    setup=functools.partial(self._set_up, kernel, call, block == inspected, block in (0, inspected)),
                    told=self._tell,
                    after=functools.partial(self._look, kernel, call, last_with_inputs),
                )
                replaced = any((call.run, call.before, call.replay) != functions for call, functions in called)
                if replaced or self.ask is not ask:
                    raise blamed(kernel, Tampered("In a timed call it replaced what the harness calls."))
                if self._stamps != [_stamp(entry) for entry in self.kept]:
                    raise blamed(kernel, Tampered("In a timed call it changed what was kept of earlier ones."))
            self._refuse_changed_activations()
        self._turn("")
        if guilty := HELPERS.culprit():
            sentence = "Threads or processes that it started computed in other kernels' calls, or ahead of its own."
            raise blamed(guilty, OutsideWorkError(sentence))
        if guilty := self._given_back.culprit():
            sentence = "In its calls it gave memory back to the system which others then had to get anew."
            raise blamed(guilty, Tampered(sentence))

    def save_kept(self) -> None:
        """Save what could wait."""
        self.kept += [self._saved(*entry) for entry in self._keep_later]

    @property
    def _is_shared(self) -> bool:
        """Whether the calls of a block have the same inputs: see blocks.py."""
        return all(call.replay for calls in self.calls.values() for call in calls)

    def _renewal_of(self, block: int) -> int:
        question = {"ask": "renew", "sequence": self.number, "block": block, "blocks": self.blocks,
                    "calls": self.blocks * len(self.calls), "shared": self._is_shared}  # fmt: skip
        return int(self.ask(question)["seed"])

    def _turn(self, kernel: str) -> int:
        """End the latest call, and have the seed of the next."""
        turn = self.ask({"ask": "call", "sequence": self.number, "index": len(self.order), "kernel": kernel})
        if turn["keep_previous"]:
            self._keep(later=self._is_shared)
        self._latest = {}
        if kernel:
            self.order.append(kernel)
        return int(turn["seed"])

    def _keep(self, later: bool) -> None:
        """Hand the latest call's outputs over; at once where kernels' own code runs in calls, and could change them."""
        entry = (len(self.order) - 1, self.order[-1], self._latest)
        if later:
            self._keep_later.append(entry)
            return
        self.kept.append(self._saved(*entry))
        self._stamps.append(_stamp(self.kept[-1]))
        if self.device.kind != "cpu":
            self.ask({"ask": "kept", "sequence": self.number, "call": entry[0], "sha256": digests(self._latest)})

    def _saved(self, call: int, kernel: str, outputs: Outputs) -> dict[str, Any]:
        described = save_outputs(outputs, self.output_dir, f"{self.number}.{call}.")
        return {"sequence": self.number, "call": call, "kernel": kernel, "outputs": described}

    def _set_up(self, kernel: str, call: TimedCall, checked: bool, watched: bool) -> None:
        if self.device.kind == "cpu":
            HELPERS.rest_ends()
            keep_blocks()
            HELPERS.draw_begins()
        is_compared = self.device.kind == "cpu" or (watched and not call.replay)
        self._before = Snapshot(module_of(kernel), names=watched) if is_compared else None
        self.drawn.draw(self._turn(kernel))
        self._checksums = fixed_checksums(self.problem, self.drawn.inputs) if checked else {}
        self._others = of_others(kernel, self.calls) if self._before else {}
        if self.device.kind == "cpu":
            self._given_back.call_begins(kernel)
            self._hooks = hooks()
            # Observers of operators, which nothing lists: they slow whoever is called next.
            torch._C._autograd._clear_callbacks()  # type: ignore[attr-defined] # noqa: SLF001 - it has no public name
            self.ask({"ask": "ready", "undo": self.drawn.entrust()})  # from here on the parent waits for the call alone
            HELPERS.call_begins(kernel)

    def _tell(self, time_us: float) -> None:
        """At once, so that nothing in this process can change it, and the parent's clock stops.

        Whoever left a hook would work when outputs are copied, and take it off in time: of a short call the parent's
        clock tells nothing.
        """
        self._told_us, now = time_us, hooks()
        if left := [name for name, before in self._hooks.items() if now[name] != before]:
            raise blamed(self.order[-1], Tampered(f"A timed call returned and left on: {', '.join(left)}."))
        self.ask({"ask": "told", "sequence": self.number, "time_us": time_us})

    def _look(self, kernel: str, call: TimedCall, last_with_inputs: bool) -> None:
        """Right behind the call: what other streams or threads write later comes too late."""
        if not call.replay:  # whose outputs are those of its capture
            with blaming(kernel):
                require_tensors(call.outputs, self.device.torch_name)
        self._latest = copies(call.outputs) | taken_updates(self.problem, self.drawn.inputs)
        if self.device.kind == "cpu":
            question = {"ask": "handed", "sequence": self.number, "sha256": digests(self._latest)}
            handed = self.ask(question)  # until here the parent's clock looked on
            self.drawn.take_back(handed["undo"])
            HELPERS.call_ended(kernel, self._told_us)
            if handed["look"]:
                self.look()
        refuse_changes(kernel, self._others, self.calls, "in a timed call")
        if not call.replay:
            self._refuse_held_memory(kernel, call.outputs)
        self._spoil(call)  # the next kernel shall not find the answer there
        if last_with_inputs:
            self._changed.append(self.drawn.changed_activations())
        if self._checksums and fixed_checksums(self.problem, self.drawn.inputs) != self._checksums:
            raise blamed(kernel, InputsChangedError("In a timed call its inputs were changed."))
        if self._before:
            with blaming(kernel):
                self._before.refuse_changes("in a timed call")
        if self.device.kind == "cpu":
            with blaming(kernel):
                collect()
            HELPERS.rest_begins()

    def _refuse_held_memory(self, kernel: str, outputs: Outputs) -> None:
        held = self._held.get(kernel, {})
        if again := same_memory(held, outputs) or rewritten(held):
            sentence = f"In a timed call it returned memory that an earlier one had returned: {', '.join(again)}."
            raise blamed(kernel, WrongFormError(sentence))
        self._held.setdefault(kernel, outputs)

    def _refuse_changed_activations(self) -> None:
        if self._changed and bool(torch.stack(self._changed).any()):
            raise InputsChangedError("In timed calls its activations were changed.")
        self._changed = []

    def _spoil(self, call: TimedCall) -> None:
        poison(call.outputs)
        spoil_updates(self.problem, self.drawn.inputs)


def collect() -> None:
    """Run finalisers of what a call left, before the next block's signs are drawn and in no other kernel's call.

    Tampered where they leave garbage in their turn, so that they would run again and again between calls.
    """
    if all(gc.collect() for _ in range(MOST_COLLECTIONS)):
        raise Tampered("Finalisers of what it left leave garbage again, without end.")


def _stamp(entry: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Of an entry of `Sequence.kept`: changes whenever somebody writes to one of its files, or exchanges it."""
    found = []
    for output in entry["outputs"].values():
        path = Path(output["file"])
        file = path.lstat() if path.exists() else None
        found.append((output["sha256"], file and (file.st_ino, file.st_size, file.st_ctime_ns)))
    return found


def surroundings(problem: Problem, drawn: Drawn, inputs: Inputs, calls: list[TimedCall]) -> None:
    """Everything that stands around timed calls, and no call."""
    for seed, call in enumerate(calls):
        call.before()
        poison(call.outputs)
        drawn.renew(seed)
        drawn.draw(seed)
        copies(call.outputs)
        taken_updates(problem, inputs)
        bool(torch.stack([drawn.changed_activations()] * 2).any())  # read by the host, as at the end of a block
        fixed_checksums(problem, inputs)
    drawn.restore()
