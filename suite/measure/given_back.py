"""In the worker, on a CPU: memory that a kernel gives back to the system whenever it is called.

What malloc holds free is everybody's scratch memory: who has it returned (malloc_trim) pays little for that, and the
next kernel gets it again page by page, at twice the time of its call.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from .resident import resident_bytes

NOTICED_BYTES = (1 << 20) + (os.cpu_count() or 1) * (128 << 10)
"""Each processor keeps so much back from Linux's account of a process."""


@dataclass(slots=True)
class GivenBack:
    """By the kernels of one process."""

    _kernel: str = ""
    _held_bytes: int = 0
    _fell: dict[str, list[bool]] = field(default_factory=dict)
    """Kernel -> of each of its calls, whether the process held less memory before the next call than before it."""

    def call_begins(self, kernel: str) -> None:
        """Right before a call: so that what is done behind one counts as its."""
        now_bytes = private_bytes()
        if self._kernel:
            self._fell.setdefault(self._kernel, []).append(now_bytes < self._held_bytes - NOTICED_BYTES)
        self._kernel, self._held_bytes = kernel, now_bytes

    def culprit(self) -> str | None:
        """The kernel behind most of whose calls others had to get their memory anew; where it is many, it was Linux."""
        guilty = [kernel for kernel, fell in self._fell.items() if 2 * sum(fell) > len(fell)]
        return guilty[0] if guilty and len(guilty) <= max(1, len(self._fell) // 2) else None


def private_bytes() -> int:
    """Memory that this process holds and shares with none; 0 where this is not Linux."""
    try:
        return resident_bytes()[0]
    except OSError:
        return 0
