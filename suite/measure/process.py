"""The parent's end of a worker: one child process that runs kernels, and what can go wrong with it.

Requests and replies are JSON lines over two inherited pipes, never stdout, so that what a kernel prints cannot be
mistaken for a result. The child leads its own process group, dies with its parent, and writes its output to a log file.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ENVIRONMENT_PREFIXES = (
    "CUDA", "NVIDIA", "HIP", "ROC", "HSA", "AMD", "TRITON", "TORCH", "PYTORCH", "OMP_", "MKL_", "LD_", "PYTHON", "LC_",
    "XDG_", "KERNELGATE_", "FLASHINFER", "VLLM", "AITER", "MPL",
)  # fmt: skip
ENVIRONMENT_NAMES = frozenset({"PATH", "HOME", "USER", "LANG", "TMPDIR", "VIRTUAL_ENV", "CC", "CXX", "TERM", "TZ"})
MAX_REPLY_BYTES = 64 << 20
LOG_TAIL_BYTES = 2000


class WorkerError(Exception):
    """The worker is gone, and with it the case that it worked on. `reason` is a reason code of the judge."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


class Worker:
    """A child process `python -m suite.measure.worker`. Replaced, not repaired, when anything goes wrong."""

    def __init__(self, root: Path, log_path: Path, extra_environment: dict[str, str] | None = None) -> None:
        self._log_path = log_path
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        self._buffer = b""
        child_in, self._requests = os.pipe()
        self._replies, child_out = os.pipe()
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "suite.measure.worker", str(child_in), str(child_out), str(os.getpid())],
                cwd=root,
                env=scrubbed_environment(root) | (extra_environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(child_in, child_out),
                start_new_session=True,
            )
        os.close(child_in)
        os.close(child_out)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def request(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request and wait for its reply. WorkerError where the child dies, hangs or babbles."""
        self.send(message)
        return self.receive(timeout_s)

    def send(self, message: dict[str, Any]) -> None:
        """Send one request without waiting; the reply is had with `receive`."""
        self._log_start = self._log_path.stat().st_size
        try:
            _write_all(self._requests, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise self._death() from None

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next reply. WorkerError `hung` after `timeout_s` seconds of silence; the child is then killed."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._replies], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.kill()
                raise WorkerError("hung", f"It did not finish within {timeout_s:.0f} s and was killed.")
            chunk = os.read(self._replies, 1 << 16)
            if not chunk:
                raise self._death()
            self._buffer += chunk
            if len(self._buffer) > MAX_REPLY_BYTES:
                self.kill()
                raise WorkerError("crashed", "Its worker sent a reply without end and was killed.")
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError:
            self.kill()
            raise WorkerError("crashed", "Its worker sent a reply that is not JSON and was killed.") from None
        return reply

    def kill(self) -> None:
        """End the child and everything in its process group, and reap it."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        for fd in (self._requests, self._replies):
            try:
                os.close(fd)
            except OSError:
                pass
        self._requests = self._replies = -1

    def _death(self) -> WorkerError:
        """The child closed its pipe: why, from its exit status and the end of its log."""
        try:
            status = self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            status = 0
        self.kill()
        last_words = self._last_words()
        if status == -signal.SIGKILL:
            return WorkerError(
                "out_of_memory", f"Its process was killed, as the kernel does when memory runs out.{last_words}"
            )
        if status < 0:
            return WorkerError("crashed", f"Its process died of {signal.Signals(-status).name}.{last_words}")
        return WorkerError("crashed", f"Its process exited with status {status}.{last_words}")

    def _last_words(self) -> str:
        """The last line that was written to the log since the latest request, in print."""
        with self._log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
        lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.splitlines()]
        spoken = [line for line in lines if line]
        return f" Its last words: {spoken[-1][:300]}" if spoken else ""


def scrubbed_environment(root: Path) -> dict[str, str]:
    """The variables that a worker may see: no credentials, nothing of CI; `root` first on the path."""
    kept = {k: v for k, v in os.environ.items() if k in ENVIRONMENT_NAMES or k.startswith(ENVIRONMENT_PREFIXES)}
    path = [str(root), *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    return kept | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
