"""What the parent knows of the calls of one measurement, and what of that contradicts the times that it was told."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from kernels.kernel import Origin

KEPT_BLOCKS = 2
"""Of each measurement, for the referee. A kernel that skips its work in so many calls that its median falls skips it in
half of them: it goes unseen with probability 1/4 in one launch, and 1/1000 in five."""
KEPT_BLOCKS_OF = {Origin.VENDOR.value: 1, Origin.REFERENCE.value: 0}
"""A library gains nothing from cheating, so it is only looked at for what might be wrong; the reference is what others
are held against. Handing outputs over and judging them is most of what the defences cost, and half of it theirs."""
OUTPACED = 0.9
"""Where calls are told one by one, one that took less than this share of every earlier one of its kernel is kept too:
the first that skips its work."""
HOST_SHARE, HOST_SLACK_US = 0.6, 1000.0
"""A call that the host times lies within what the parent waited for it, from the moment when its inputs were drawn: its
reported median must be this share of the parent's shortest wait, less what asking takes."""
BEYOND_SHARE, BEYOND_SLACK_US = 0.15, 500.0
"""A call may be told later than others are, beyond its own time, by this share of it and this much: nothing but a
process's waking up lies between."""
AROUND_SHARE, AROUND_SLACK_US = 0.25, 1000.0
"""Its inputs may be drawn, and its outputs be handed over, by so much more slowly than others': that is work, which
others disturb."""
CROWDED_TIMES = 4.0
"""Where other programs compute, the median of ten was up to 1.7 times another kernel's, and twenty times of one that
computed when its inputs were drawn."""


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
    renewals: list[int] = field(default_factory=list)
    """Of every block, the seed of its inputs' signs."""
    kernels: list[str] = field(default_factory=list)
    told_us: list[float | None] = field(default_factory=list)
    drawn_us: list[float] = field(default_factory=list)
    """From a call's seed until its inputs are drawn."""
    waited_us: list[float] = field(default_factory=list)
    handed_us: list[float] = field(default_factory=list)
    """From then until the outputs were copied, and their digests told."""
    sha256: dict[int, dict[str, str]] = field(default_factory=dict)
    """Call -> digests of its outputs, told before it was known whether they are kept, or anything else was called."""
    is_calm: bool = True
    """Whether other programs left the machine to it."""

    @property
    def complete(self) -> bool:
        return len(self.told_us) == self.calls

    def told(self, time_us: float | None, waited_us: float) -> None:
        """The latest call is over."""
        self.drawn_us += [0.0] * (len(self.told_us) + 1 - len(self.drawn_us))
        self.told_us.append(time_us)
        self.waited_us.append(waited_us)

    def digested(self, call: int, sha256: dict[str, str]) -> None:
        """A call's outputs are these, whatever comes. ValueError where others were told."""
        if call in self.sha256:
            raise ValueError("a call's outputs are told once")
        self.sha256[call] = {str(name): str(told) for name, told in sha256.items()}

    def block(self, call: int) -> int:
        """The block that a call belongs to."""
        return call * self.blocks // self.calls

    def kept_calls(self) -> list[tuple[int, str, tuple[int, int]]]:
        """(call, kernel, (its seed, its block's)) of all whose outputs must have been handed over."""
        rows = enumerate(zip(self.kernels, self.seeds, strict=True))
        return [(c, kernel, (seed, self.renewals[self.block(c)])) for c, (kernel, seed) in rows if self.keeps(c)]

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

        Waited for is a call until it is told. On a calm machine also its outputs, longer than any kernel's took to be
        copied; where other programs compute, all five of an honest kernel's faster calls were 6 ms late. On a calm one
        the parent looks closer: what lies around a call, from its seed until its outputs' digests, is the same for all
        kernels, and whoever computes there, or tells less than the call took, is later than others are. Whoever is fast
        because of it is late in the faster half of its calls. Where other programs compute too, only a kernel is seen
        with more around its calls than in them.
        """
        found = {}
        told = self.told_by_kernel() or {}
        for kernel, told_us in told.items():
            median_us = statistics.median(told_us)
            shortest_us = min(self.waited_us[call] for call in self._calls_of(kernel))
            shortest_us += self._handed_late_us(kernel) if self.is_calm else 0.0
            if median_us < HOST_SHARE * (shortest_us - HOST_SLACK_US):
                found[kernel] = (median_us, shortest_us)
            elif self.is_calm:
                beyond_us, around_us = self._late_us(kernel, [other for other in told if other != kernel])
                if beyond_us > BEYOND_SLACK_US:
                    found[kernel] = (median_us, (1 + BEYOND_SHARE) * median_us + beyond_us)
                elif around_us > AROUND_SLACK_US:
                    found[kernel] = (median_us, (1 + AROUND_SHARE) * median_us + around_us)
            elif (late_us := self._mostly_late_us(kernel, told.keys() - {kernel})) > median_us:
                found[kernel] = (median_us, median_us + late_us)
        return found

    def _handed_late_us(self, kernel: str) -> float:
        """How much longer a kernel's outputs took to be handed over, at least, than anybody's."""
        return min(self.handed_us[call] for call in self._fast_calls_of(kernel)) - min(self.handed_us)

    def _late_us(self, kernel: str, others: list[str]) -> tuple[float, float]:
        """By how much a kernel's calls are told later, and their inputs drawn and outputs handed over more slowly, than
        those of every other, beyond a share of the call itself; of work, noise aside."""
        others_us = list(zip(*map(self._around_us, others), strict=True)) or [()] * len(self._parts_us)
        own_us = self._around_us(kernel, (AROUND_SHARE, BEYOND_SHARE, AROUND_SHARE))
        parts = zip(own_us, others_us, self._parts_us, strict=True)
        drawn_us, beyond_us, handed_us = (own - max(rest, default=min(part)) for own, rest, part in parts)
        noise_us = [2 * (sorted(part)[len(part) // 4] - min(part)) for part in self._parts_us]
        return beyond_us, max(0.0, drawn_us - noise_us[0]) + max(0.0, handed_us - noise_us[2])

    def _mostly_late_us(self, kernel: str, others: Collection[str]) -> float:
        """How much longer a kernel's inputs and outputs took than any other's, in the median of all calls, where they
        took several times as long; else 0."""
        own_us, *others_us = (
            statistics.median(self.drawn_us[call] + self.handed_us[call] for call in self._calls_of(name))
            for name in (kernel, *others)
        )
        longest_us = max(others_us, default=own_us) + AROUND_SLACK_US
        return own_us - longest_us if own_us > CROWDED_TIMES * longest_us else 0.0

    def _calls_of(self, kernel: str) -> list[int]:
        return [call for call, name in enumerate(self.kernels) if name == kernel]

    def _fast_calls_of(self, kernel: str) -> list[int]:
        """The faster half."""
        own = sorted(self._calls_of(kernel), key=lambda call: self.told_us[call] or 0.0)
        return own[: (len(own) + 1) // 2]

    @property
    def _parts_us(self) -> tuple[list[float], ...]:
        """Microseconds that lie around every call, in parts: under load hardly a call has all without a delay."""
        beyond_us = [waited - (told or 0.0) for waited, told in zip(self.waited_us, self.told_us, strict=True)]
        return self.drawn_us, beyond_us, self.handed_us

    def _around_us(self, kernel: str, shares: tuple[float, ...] = (0.0, 0.0, 0.0)) -> list[float]:
        """The least of each part among the faster half of a kernel's calls, beyond a share of the call's time."""
        fast = [(call, self.told_us[call] or 0.0) for call in self._fast_calls_of(kernel)]
        parts = zip(self._parts_us, shares, strict=True)
        return [min(part[call] - share * told_us for call, told_us in fast) for part, share in parts]
