"""What all selftests rest on."""

from __future__ import annotations

import signal

# A shell that starts all this in the background has Ctrl-C ignored, which processes hand down; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)
