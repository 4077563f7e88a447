"""The parent's part in a launch: it hands out the timed calls one at a time, and looks at its own clock.

A worker learns what a call's inputs are drawn from right before the call, and whether its outputs are kept after it. It
does not choose, and what it reports must fit what it was given.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .account import KEPT_BLOCKS, Sequence
from .process import WorkerError
from .run_queue import Load, Mark, RunQueue

LOOK_ONE_IN = 5
"""After so many calls on a CPU, one at random, the process is compared with what it was before all calls, which takes
20 ms: who changes something for half of its rival's 20 calls is found in nine launches of ten."""
MAX_CALLS = 100_000


@dataclass
class BlockSource:
    """Answers the questions of one worker about one problem. WorkerError where one does not fit those before it."""

    origin: Callable[[str], str | None]
    """Of a kernel, by its id."""
    sequences: dict[int, Sequence] = field(default_factory=dict)
    looks_always: bool = False
    """Whether the process is looked at after each call, not after a few."""
    run_queue: RunQueue | None = None
    """Of this process and its worker: while other programs ran instead of both, nobody waited for a call."""
    _began: float = 0.0
    _mark: Mark = (0.0, 0.0)
    _load: Load = (0.0, 0.0, 0.0)
    """When the sequence began."""
    _undo: Any = None
    """What a worker wants back after the call: which rows of the inputs are new, its kernels shall not find there."""
    _rounds_us: dict[tuple[str, bool], list[float]] = field(default_factory=dict)
    """(kernel, whether without its calls) -> microseconds of a call's share of each round."""

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The reply to `prepare` (a kernel's turn has come), `renew` (a block's seed), `call` (its seed, and whether
        the one before is kept), `ready` (inputs are drawn), `told` (the time), `handed` (outputs are copied), `kept`
        (outputs of a call that the host does not time) or `witness`."""
        now = time.monotonic()
        operations = {"prepare": self._prepare, "renew": self._renew, "call": self._call, "ready": self._ready,
                      "told": self._told, "handed": self._handed, "kept": self._kept,
                      "witness": self._witness}  # fmt: skip
        operation = operations.get(str(question.get("ask")))
        try:
            if operation:
                return operation(question, now)
        except (KeyError, TypeError, ValueError, IndexError):
            pass
        raise WorkerError("tampered", "Its worker asked the parent for what no launch asks for.")

    def witness_us(self) -> dict[str, float]:
        """Kernel -> microseconds of a call by this process's clock, calls back to back: the least of all rounds."""
        full = {kernel: min(times) for (kernel, empty), times in self._rounds_us.items() if not empty}
        return {kernel: time_us - min(self._rounds_us.get((kernel, True), [0.0])) for kernel, time_us in full.items()}

    def _prepare(self, question: dict[str, Any], now: float) -> dict[str, Any]:
        return {}

    def _call(self, question: dict[str, Any], now: float) -> dict[str, Any]:
        number, index = int(question["sequence"]), int(question["index"])
        sequence = self.sequences[number]
        if index != len(sequence.kernels) or index > sequence.calls or len(sequence.told_us) not in (index - 1, index):
            raise ValueError("calls come one after the other")
        if len(sequence.told_us) < index:
            sequence.told(None, 0.0)
        if len(sequence.handed_us) < index:
            sequence.handed_us.append(self._since_us(now))
        keep_previous = bool(index) and sequence.keeps(index - 1)
        seed = 0
        if index < sequence.calls:
            if len(sequence.renewals) != sequence.block(index) + 1:
                raise ValueError("a block begins with signs of its own")
            same = sequence.shared and index and sequence.block(index) == sequence.block(index - 1)
            seed = sequence.seeds[-1] if same else secrets.randbelow(1 << 48)
            sequence.seeds.append(seed)
            sequence.kernels.append(str(question["kernel"]))
        elif self.run_queue:
            sequence.is_calm = self.run_queue.is_calm(self._load)
        self._begin()
        return {"seed": seed, "keep_previous": keep_previous}

    def _renew(self, question: dict[str, Any], now: float) -> dict[str, Any]:
        number, block = int(question["sequence"]), int(question["block"])
        if block == 0:
            self._open(number, int(question["blocks"]), int(question["calls"]), bool(question["shared"]))
        sequence = self.sequences[number]
        if block != len(sequence.renewals) or block >= sequence.blocks or number != len(self.sequences):
            raise ValueError("blocks come one after the other")
        sequence.renewals.append(secrets.randbelow(1 << 48))
        return {"seed": sequence.renewals[-1]}

    def _ready(self, question: dict[str, Any], now: float) -> dict[str, Any]:
        sequence = self.sequences[max(self.sequences)]
        if not len(sequence.drawn_us) + 1 == len(sequence.told_us) + 1 == len(sequence.kernels):
            raise ValueError("inputs are drawn once, before the time is told")
        sequence.drawn_us.append(self._since_us(now))
        self._undo = question.get("undo")
        self._begin()
        return {}

    def _told(self, question: dict[str, Any], now: float) -> dict[str, Any]:
        sequence = self.sequences[int(question["sequence"])]
        if len(sequence.told_us) + 1 != len(sequence.kernels):
            raise ValueError("each call has one time")
        sequence.told(float(question["time_us"]), self._since_us(now))
        self._begin()
        return {}

    def _handed(self, question: dict[str, Any], now: float) -> dict[str, Any]:
        sequence = self.sequences[int(question["sequence"])]
        if not len(sequence.handed_us) + 1 == len(sequence.told_us) == len(sequence.kernels):
            raise ValueError("outputs are handed over once, after the time was told")
        sequence.handed_us.append(self._since_us(now))
        sequence.digested(len(sequence.kernels) - 1, question["sha256"])
        return {"undo": self._undo, "look": self.looks_always or secrets.randbelow(LOOK_ONE_IN) == 0}

    def _kept(self, question: dict[str, Any], now: float) -> dict[str, Any]:
        sequence, call = self.sequences[int(question["sequence"])], int(question["call"])
        if call != len(sequence.kernels) - (1 if sequence.complete else 2):
            raise ValueError("only the latest call is kept")
        sequence.digested(call, question["sha256"])
        return {}

    def _open(self, number: int, blocks: int, calls: int, shared: bool) -> None:
        if number != len(self.sequences) + 1 or not 0 < blocks <= calls <= MAX_CALLS or calls % blocks:
            raise ValueError("measurements come one after the other")
        kept = secrets.SystemRandom().sample(range(blocks), min(KEPT_BLOCKS, blocks))
        self.sequences[number] = Sequence(blocks, calls, shared, tuple(kept), self.origin)
        if self.run_queue:
            self._load = self.run_queue.load()

    def _witness(self, question: dict[str, Any], now: float) -> dict[str, Any]:
        kernel, calls = str(question["kernel"]), int(question["calls"])
        if question["when"] == "begin":
            self._begin()
        elif calls > 0:
            rounds_us = self._rounds_us.setdefault((kernel, bool(question["empty"])), [])
            rounds_us.append(self._since_us(now) / calls)
        return {}

    def _begin(self) -> None:
        if self.run_queue:
            self._mark = self.run_queue.mark()
        self._began = time.monotonic()

    def _since_us(self, now: float) -> float:
        """From `_begin` until `now`, without the time that other programs had."""
        lost_us = self.run_queue.lost_us(self._mark) if self.run_queue else 0.0
        return max(0.0, (now - self._began) * 1e6 - lost_us)
