"""What a run is doing now: one line that is rewritten on a terminal, plain lines for launches in a log."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import nullcontext
from typing import Any

LOG_EVERY_S = 15.0


class Progress:
    """Callable with a text. Writes past pytest's capture, to the terminal that the user looks at."""

    def __init__(self, config: Any) -> None:
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._quiet = config.getoption("verbose", 0) < -1
        self._started = self._last_logged = time.monotonic()
        self._shown = False

    def __call__(self, text: str) -> None:
        """Show `text` with the seconds since the start; an empty text clears the line."""
        if self._quiet:
            return
        elapsed_s = time.monotonic() - self._started
        with self._capture.global_and_fixture_disabled() if self._capture else nullcontext():
            if sys.stderr is None:  # it was closed
                return
            if sys.stderr.isatty():
                self._rewrite(f"[{elapsed_s:4.0f} s] {text}" if text else "")
            elif text and time.monotonic() - self._last_logged >= LOG_EVERY_S:
                self._last_logged = time.monotonic()
                sys.stderr.write(f"[{elapsed_s:4.0f} s] {text}\n")

    def _rewrite(self, line: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r\x1b[K{line[:width]}")
        sys.stderr.flush()
