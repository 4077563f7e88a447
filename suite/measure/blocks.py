"""The parent's part in a launch: it hands out the timed calls one at a time, and looks at its own clock.

A worker learns what a call's inputs are drawn from right before the call, and whether its outputs are kept after it. It
does not choose, and what it reports must fit what it was given.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kernels.kernel import Origin

from .process import WorkerError

KEPT_BLOCKS = 2
"""Of each measurement, for the referee. A kernel that skips its work in so many calls that its median falls skips it in
half of them: it goes unseen with probability 1/4 in one launch, and 1/1000 in five."""
KEPT_BLOCKS_OF = {Origin.VENDOR.value: 1, Origin.REFERENCE.value: 0}
"""A library gains nothing from cheating, so it is only looked at for what might be wrong; the reference is what others
are held against. Handing outputs over and judging them is most of what the defences cost, and half of it theirs."""
OUTPACED = 0.9
"""Where calls are told one by one, one that took less than this share of every earlier one of its kernel is kept too:
the first that skips its work."""
MAX_CALLS = 100_000
HOST_SHARE, HOST_SLACK_US = 0.6, 1000.0
"""A call that the host times lies within what the parent waited for it, from the moment when its inputs were drawn: its
reported time must be this share of the parent's wait, less what asking takes; in the median of its calmer calls."""


@dataclass
class Sequence:
    """The calls of one measurement: blocks of one call of each kernel."""

    blocks: int
    calls: int
    shared: bool
    """Whether the calls of a block have the same inputs. Where Python runs in a call they must not: a kernel could
    take its rival's answer."""
    kept: tuple[int, ...]
    """Blocks whose outputs the referee sees."""
    origin: Callable[[str], str | None]
    """Of a kernel: of a library fewer of these blocks are kept."""
    seeds: list[int] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)
    told_us: list[float | None] = field(default_factory=list)
    waited_us: list[float] = field(default_factory=list)
    handed_us: list[float] = field(default_factory=list)
    """From then until the outputs were copied, and their digests told."""
    queued_us: dict[str, list[float]] = field(default_factory=lambda: {"told": [], "handed": []})
    """Of these two, call by call, what other programs had: `BlockSource.queued_us`."""
    sha256: dict[int, dict[str, str]] = field(default_factory=dict)
    """Call -> digests of its outputs, told before it was known whether they are kept, or anything else was called."""

    @property
    def complete(self) -> bool:
        return len(self.told_us) == self.calls

    def told(self, time_us: float | None, waited_us: float, queued_us: float = 0.0) -> None:
        """The latest call is over."""
        self.told_us.append(time_us)
        self.waited_us.append(waited_us)
        self.queued_us["told"].append(queued_us)

    def handed(self, waited_us: float, queued_us: float) -> None:
        """The latest call's outputs were handed over."""
        self.handed_us.append(waited_us)
        self.queued_us["handed"].append(queued_us)

    def digested(self, call: int, sha256: dict[str, str]) -> None:
        """A call's outputs are these, whatever comes. ValueError where others were told."""
        if call in self.sha256:
            raise ValueError("a call's outputs are told once")
        self.sha256[call] = {str(name): str(told) for name, told in sha256.items()}

    def block(self, call: int) -> int:
        """The block that a call belongs to."""
        return call * self.blocks // self.calls

    def kept_calls(self) -> list[tuple[int, str, int]]:
        """(call, kernel, seed) of all whose outputs must have been handed over."""
        rows = enumerate(zip(self.kernels, self.seeds, strict=True))
        return [(call, kernel, seed) for call, (kernel, seed) in rows if self.keeps(call)]

    def has_kept(self, call: int, outputs: dict[str, Any] | None) -> bool:
        """Whether outputs in a reply are those that were handed over at once, where they had to be."""
        if self.shared or outputs is None:
            return True
        return self.sha256.get(call) == {name: output["sha256"] for name, output in outputs.items()}

    def keeps(self, call: int) -> bool:
        """Whether the outputs of a call that is over go to the referee."""
        of_kernel = KEPT_BLOCKS_OF.get(self.origin(self.kernels[call]) or "", KEPT_BLOCKS)
        return self.block(call) in self.kept[:of_kernel] or (of_kernel > 0 and self._outpaces(call))

    def _outpaces(self, call: int) -> bool:
        told_us = self.told_us[call]
        earlier = zip(self.told_us[:call], self.kernels[:call], strict=True)
        earlier_us = [time_us for time_us, kernel in earlier if time_us and kernel == self.kernels[call]]
        return told_us is not None and bool(earlier_us) and told_us < OUTPACED * min(earlier_us)

    def told_by_kernel(self) -> dict[str, list[float]] | None:
        """Times as they were told call by call; None where they were not."""
        by_kernel: dict[str, list[float]] = {}
        for kernel, time_us in zip(self.kernels, self.told_us, strict=True):
            if time_us is None:
                return None
            by_kernel.setdefault(kernel, []).append(round(time_us, 4))
        return by_kernel

    def contradictions(self) -> dict[str, tuple[float, float]]:
        """Kernel -> (us as told, us as waited) where the parent waited longer than a call so short explains.

        Waited for is a call until it is told, and its outputs longer than any kernel's took to be copied: whoever is
        fast because it computes them then is so in the faster half of its calls. Time in line is nobody's; where there
        was little of it, in the calmer half of the calls, what was told has little of it, too. Medians, for the system
        tells of some waits late, and they are taken off a call too many.
        """
        found = {}
        waited_us, handed_us = (
            [max(0.0, time_us - queued) for time_us, queued in zip(part_us, self.queued_us[part], strict=True)]
            for part, part_us in (("told", self.waited_us), ("handed", self.handed_us))
        )
        for kernel, told_us in (self.told_by_kernel() or {}).items():
            own = [call for call, name in enumerate(self.kernels) if name == kernel]
            fast = sorted(own, key=lambda call: self.told_us[call] or 0.0)[: (len(own) + 1) // 2]
            late_us = min(
                min(self.handed_us[call] for call in fast) - min(self.handed_us),
                statistics.median(handed_us[call] for call in fast) - sorted(handed_us)[len(handed_us) // 4],
            )
            calm = sorted(range(len(own)), key=lambda place: self.queued_us["told"][own[place]])[: (len(own) + 1) // 2]
            median_us = statistics.median(told_us[place] for place in calm)
            own_us = statistics.median(waited_us[own[place]] for place in calm) + max(0.0, late_us)
            if median_us < HOST_SHARE * (own_us - HOST_SLACK_US):
                found[kernel] = (median_us, own_us)
        return found


@dataclass
class BlockSource:
    """Answers the questions of one worker about one problem. WorkerError where one does not fit those before it."""

    origin: Callable[[str], str | None]
    """Of a kernel, by its id."""
    sequences: dict[int, Sequence] = field(default_factory=dict)
    queued_us: Callable[[], float] = field(default=float)
    """How long this process and its worker have stood ready to run and were not: nobody waited for a call then."""
    _began: float = 0.0
    _queued_us: float = 0.0
    _undo: Any = None
    """What a worker wants back after the call: which rows of the inputs are new, its kernels shall not find there."""
    _rounds_us: dict[tuple[str, bool], list[float]] = field(default_factory=dict)
    """(kernel, whether without its calls) -> microseconds of a call's share of each round."""

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The reply to `prepare` (a kernel's turn has come), `call` (its seed, and whether the one before is kept),
        `ready` (inputs are drawn), `told` (the time), `handed` (outputs are copied), `kept` (outputs of a call that the
        host does not time) or `witness`."""
        now = time.monotonic()
        operations = {"prepare": self._prepare, "call": self._call, "ready": self._ready, "told": self._told,
                      "handed": self._handed, "kept": self._kept, "witness": self._witness}  # fmt: skip
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
        if index == 0:
            self._open(number, int(question["blocks"]), int(question["calls"]), bool(question["shared"]))
        sequence = self.sequences[number]
        if index != len(sequence.kernels) or index > sequence.calls or len(sequence.told_us) not in (index - 1, index):
            raise ValueError("calls come one after the other")
        if len(sequence.told_us) < index:
            sequence.told(None, 0.0)
        if len(sequence.handed_us) < index:
            sequence.handed(*self._since_us(now))
        keep_previous = bool(index) and sequence.keeps(index - 1)
        seed = 0
        if index < sequence.calls:
            same = sequence.shared and index and sequence.block(index) == sequence.block(index - 1)
            seed = sequence.seeds[-1] if same else secrets.randbelow(1 << 48)
            sequence.seeds.append(seed)
            sequence.kernels.append(str(question["kernel"]))
        self._begin()
        return {"seed": seed, "keep_previous": keep_previous}

    def _ready(self, question: dict[str, Any], now: float) -> dict[str, Any]:
        self._undo = question.get("undo")
        self._begin()
        return {}

    def _told(self, question: dict[str, Any], now: float) -> dict[str, Any]:
        sequence = self.sequences[int(question["sequence"])]
        if len(sequence.told_us) + 1 != len(sequence.kernels):
            raise ValueError("each call has one time")
        sequence.told(float(question["time_us"]), *self._since_us(now))
        self._begin()
        return {}

    def _handed(self, question: dict[str, Any], now: float) -> dict[str, Any]:
        sequence = self.sequences[int(question["sequence"])]
        if not len(sequence.handed_us) + 1 == len(sequence.told_us) == len(sequence.kernels):
            raise ValueError("outputs are handed over once, after the time was told")
        sequence.handed(*self._since_us(now))
        sequence.digested(len(sequence.kernels) - 1, question["sha256"])
        return {"undo": self._undo}

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

    def _witness(self, question: dict[str, Any], now: float) -> dict[str, Any]:
        kernel, calls = str(question["kernel"]), int(question["calls"])
        if question["when"] == "begin":
            self._begin()
        elif calls > 0:
            rounds_us = self._rounds_us.setdefault((kernel, bool(question["empty"])), [])
            rounds_us.append(self._since_us(now)[0] / calls)
        return {}

    def _begin(self) -> None:
        self._queued_us = self.queued_us()
        self._began = time.monotonic()

    def _since_us(self, now: float) -> tuple[float, float]:
        """From `_begin` until `now`, and how much of it this process or its worker stood in line."""
        return (now - self._began) * 1e6, self.queued_us() - self._queued_us
