"""Many checks at once: until something is timed, several processes may share the device.

A lane is a campaign with workers of its own. What is correct or skipped in one is settled; whatever goes wrong in
company (for lack of memory that others held, say) is left to be asked again alone: no kernel answers for a neighbour.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

from .measure.campaign import Appends, Campaign
from .measure.crew import Crew

T = TypeVar("T")

MAX_LANES, CASES_PER_LANE = 4, 4
"""Fewer cases than that do not pay for the start of another lane's processes."""
CORES_PER_LANE = {"cpu": 1, "cuda": 4, "hip": 4}
"""On a GPU a lane waits mostly for compilers; on a CPU for Triton's interpreter, which takes one core."""
SETTLED = ("correct", "skipped")
LOOK_EVERY_S = 1.0


def lanes_for(num_cases: int, device_kind: str) -> int:
    """How many lanes pay for so many cases, and have cores here."""
    cores = (os.cpu_count() or 1) // CORES_PER_LANE[device_kind]
    return max(1, min(MAX_LANES, cores, num_cases // CASES_PER_LANE))


@dataclass
class _SettledOnly:
    """The run's journal as lanes see it."""

    journal: Appends
    is_open: bool = True
    _one_writes: threading.Lock = field(default_factory=threading.Lock)

    def append(self, event: dict[str, Any]) -> None:
        """Write a check that is settled; forget others, and all once the run was interrupted."""
        with self._one_writes:
            if self.is_open and event["status"] in SETTLED:
                self.journal.append(event)


def check_side_by_side(
    campaign: Campaign,
    asked: Sequence[T],
    num_lanes: int,
    check: Callable[[Campaign, T], None],
    say: Callable[[str], None],
    kept_together: Callable[[T], Hashable],
    what: str = "cases",
) -> None:
    """`check(lane, case)` for all that is asked. Those that `kept_together` is the same for share a lane.

    `what` they are is for `say`. What a lane raises (RunError: the device is lost, say) ends all and is raised here, as
    is Ctrl-C.
    """
    groups: dict[Hashable, list[T]] = {}
    for case in asked:
        groups.setdefault(kept_together(case), []).append(case)
    with _lanes(campaign, min(num_lanes, len(groups))) as lanes:
        free: SimpleQueue[Campaign] = SimpleQueue()
        for lane in lanes:
            free.put(lane)
        finished: list[T] = []

        def work(group: list[T]) -> None:
            lane = free.get()
            try:
                for case in group:
                    check(lane, case)
                    finished.append(case)
            finally:
                free.put(lane)

        with ThreadPoolExecutor(len(lanes)) as threads:
            futures = [threads.submit(work, group) for group in groups.values()]
            try:
                while _wait(futures):
                    say(f"checked {len(finished)} of {len(asked)} {what}, {len(lanes)} at a time")
            except BaseException:
                for lane in lanes:
                    lane.crew.stop()
                threads.shutdown(wait=True, cancel_futures=True)
                raise


def _wait(futures: list[Future[None]]) -> bool:
    """Whether any is still at work after a moment; raises what one of them raised."""
    done, pending = wait(futures, LOOK_EVERY_S, FIRST_EXCEPTION)
    for future in done:
        future.result()
    return bool(pending)


@contextmanager
def _lanes(campaign: Campaign, count: int) -> Iterator[list[Campaign]]:
    """Campaigns that draw what `campaign` draws and write to its journal, each with its own workers and their log."""
    journal, log_path = _SettledOnly(campaign.journal), campaign.crew.log_path
    lanes: list[Campaign] = []
    try:
        for number in range(1, count + 1):
            own_log = log_path.with_name(f"{log_path.stem}-{number}{log_path.suffix}")
            crew = Crew(campaign.crew.root, campaign.crew.chosen, own_log, campaign.crew.base_root, doubts=False)
            crew.expect("referee")
            run_id = f"{campaign.run_id}-lane-{number}"
            lanes.append(Campaign(crew, journal, run_id, campaign.seed, campaign.interpreter_device, campaign.factors))
        yield lanes
    finally:
        journal.is_open = False
        for lane in lanes:
            lane.close()
