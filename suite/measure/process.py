"""The parent's end of a worker: one child process that runs kernels, and what can go wrong with it.

Requests and replies are JSON lines over two inherited pipes, never stdout, so that what a kernel prints cannot be
mistaken for a result. The child leads its own session, dies with its parent, writes its output to a log file and works
in an empty folder of its own, within the limits of fence.py.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kernels.installed import ENVIRONMENT

from .fence import Limits, limits_here
from .folders import new_folder, remove
from .janitor import JANITOR
from .watch import EVERY_S, TOKEN_NAME, Watch, descendants, memory_bytes

ENVIRONMENT_PREFIXES = (
    "CUDA", "NVIDIA", "HIP", "ROC", "HSA", "AMD", "TRITON", "TORCH", "PYTORCH", "OMP_", "MKL_", "LD_", "PYTHON", "LC_",
    "XDG_", "KERNELGATE_", "FLASHINFER", "VLLM", "AITER", "MPL",
)  # fmt: skip
ENVIRONMENT_NAMES = frozenset({"PATH", "HOME", "USER", "LANG", "TMPDIR", "VIRTUAL_ENV", "CC", "CXX", "TERM", "TZ"})
MODULE = "suite.measure.worker"
MAX_REPLY_BYTES = 16 << 20
MAX_LOG_BYTES = 256 << 20
"""Of a run's whole log; later output takes the place of what came last."""
LOG_TAIL_BYTES = 2000
STOOD_STILL_S = 5.0
"""Who looks every EVERY_S and finds that more has passed was stopped (Ctrl-Z, a container that is paused), and its
worker perhaps with it: no time of the worker's."""
BETWEEN_CALLS = ("prepare", "renew")
"""Questions of a launch that come while no call is timed: short calls leave no other moment to look at the worker."""
CONFIRM_TIMEOUT_S = 20.0
SEND_TIMEOUT_S = 60.0
REAP_TIMEOUT_S = 60.0
"""A process that a driver holds cannot be ended; then the run goes on without waiting."""


Answer = Callable[[dict[str, Any]], dict[str, Any]]
"""Question -> answer, both as JSON."""


class WorkerError(Exception):
    """The worker is gone, and with it the case that it worked on. `reason` is a reason code of the judge."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


class Worker:
    """A child process `python -m suite.measure.worker`. Replaced, not repaired, when anything goes wrong."""

    def __init__(
        self,
        root: Path,
        log_path: Path,
        extra_environment: dict[str, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or limits_here()
        self.environment = extra_environment or {}
        self._log_path = log_path
        self._buffer = b""
        self._next_look = 0.0
        """Between calls."""
        self._folder = new_folder("kernelgate-worker-")
        token = secrets.token_hex(16)
        child_in, self._requests = os.pipe()
        self._replies, child_out = os.pipe()
        arguments = [str(child_in), str(child_out), str(os.getpid()), self.limits.to_json()]
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE, *arguments],
                cwd=self._folder,
                env=scrubbed_environment(root) | self.environment | {TOKEN_NAME: token},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(child_in, child_out),
                start_new_session=True,
            )
        os.close(child_in)
        os.close(child_out)
        JANITOR.remember("worker", str(self._process.pid), token)
        self._watch = Watch(self._process.pid, token, self.limits, log_path, log_path.stat().st_size)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def request(self, message: dict[str, Any], timeout_s: float, answer: Answer | None = None) -> dict[str, Any]:
        """Send one request and wait for its reply. WorkerError where the child dies, hangs or babbles.

        `answer` replies to what the child asks on the way; without it, a question is not its due.
        """
        self.send(message)
        while "ask" in (reply := self.receive(timeout_s)):
            if answer is None:
                self.kill()
                raise WorkerError("tampered", "Its worker asked for what no case asks for and was killed.")
            if reply["ask"] in BETWEEN_CALLS and time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + EVERY_S
                self._end_for(self._watch.trouble())
            self.send(answer(reply))
        if answer is not None:
            self._end_for(self._watch.trouble())  # it answered in time, however short it was
        if not reply.get("poisoned"):
            self._confirm()
        return reply

    def _confirm(self) -> None:
        """Have the worker's own loop answer something that nobody could know: the reply before it was no forgery."""
        nonce = secrets.token_hex(16)
        try:
            self.send({"op": "echo", "nonce": nonce})
            confirmed = self.receive(CONFIRM_TIMEOUT_S).get("nonce") == nonce
        except WorkerError as error:
            if error.reason == "out_of_memory":  # killed from outside, whatever it had replied
                raise
            raise WorkerError("tampered", f"Its worker replied and was gone: {error.sentence}") from error
        if not confirmed:
            self.kill()
            raise WorkerError("tampered", "Its worker sent a reply that nothing had asked for: the channel was forged.")

    def send(self, message: dict[str, Any]) -> None:
        """Send one request without waiting; the reply is had with `receive`."""
        self._refuse_forgery()
        self._cut_log()
        self._watch.remember_network()
        try:
            _write_all(self._requests, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            raise self._death() from None
        except TimeoutError:
            self.kill()
            raise WorkerError("hung", f"It took no request for {SEND_TIMEOUT_S:.0f} s and was killed.") from None

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The next reply. WorkerError `hung` after `timeout_s` seconds of silence; the child is then killed."""
        now = time.monotonic()
        deadline, next_look = now + timeout_s, now + EVERY_S
        while b"\n" not in self._buffer:
            before, now = now, time.monotonic()
            if now - before > STOOD_STILL_S:
                deadline += now - before
            if now >= deadline:
                self.kill()
                raise WorkerError("hung", f"It did not finish within {timeout_s:.0f} s and was killed.")
            if now >= next_look:
                self._end_for(self._watch.trouble())
                next_look = time.monotonic() + EVERY_S
            ready, _, _ = select.select([self._replies], [], [], max(0.0, min(deadline, next_look) - time.monotonic()))
            if ready:
                self._read()
            elif self._process.poll() is not None:  # a process that it left behind may hold its end of the pipe open
                raise self._death()
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            reply: dict[str, Any] = json.loads(line)
        except (ValueError, RecursionError):
            reply = {}
        if not isinstance(reply, dict) or not reply:
            self.kill()
            raise WorkerError("crashed", "Its worker sent a reply that is no JSON object and was killed.")
        self._end_for(self._watch.printed_too_much())
        return reply

    def _read(self) -> None:
        """Take what the child has written of its reply."""
        chunk = os.read(self._replies, 1 << 16)
        if not chunk:
            raise self._death()
        self._buffer += chunk
        if len(self._buffer) > MAX_REPLY_BYTES:
            self.kill()
            raise WorkerError("crashed", "Its worker sent a reply without end and was killed.")

    def memory_bytes(self) -> int:
        """Resident memory of the child and all that it started, now."""
        return memory_bytes([self.pid, *descendants(self.pid)])

    def kill(self) -> None:
        """End the child and everything that it started, reap it, and remove its folder."""
        self._watch.end_all()
        try:
            self._process.wait(timeout=REAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pass
        for fd in (self._requests, self._replies):
            try:
                os.close(fd)
            except OSError:
                pass
        self._requests = self._replies = -1
        JANITOR.forget("worker", str(self._process.pid), self._watch.token)
        remove(self._folder)

    def _refuse_forgery(self) -> None:
        """A reply that nothing asked for was written by something other than the worker's own loop."""
        if not self._buffer and select.select([self._replies], [], [], 0)[0]:
            self._read()
        if self._buffer:
            self.kill()
            raise WorkerError("tampered", "Its worker sent a reply that nothing had asked for: the channel was forged.")

    def _end_for(self, trouble: tuple[str, str] | None) -> None:
        """Kill the child and raise, where there is trouble."""
        if trouble is not None:
            self.kill()
            raise WorkerError(*trouble)

    def _cut_log(self) -> None:
        """Keep the log bounded over all requests, and note where the next one's output begins."""
        size = self._log_path.stat().st_size if self._log_path.exists() else 0
        if size > MAX_LOG_BYTES:
            os.truncate(self._log_path, MAX_LOG_BYTES)
        self._watch.log_start_bytes = min(size, MAX_LOG_BYTES)

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
        try:
            log_file = self._log_path.open("rb")
        except OSError:  # it was removed
            return ""
        with log_file as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._watch.log_start_bytes, end - LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
        lines = ["".join(c for c in line if c.isprintable()).strip() for line in text.splitlines()]
        spoken = [line for line in lines if line]
        return f" Its last words: {spoken[-1][:300]}" if spoken else ""


def scrubbed_environment(root: Path) -> dict[str, str]:
    """The variables that a worker may see: no credentials, nothing of CI; `root` first on the path.

    What libraries are told, a user's own variables overrule where they are let through.
    """
    kept = {k: v for k, v in os.environ.items() if k in ENVIRONMENT_NAMES or k.startswith(ENVIRONMENT_PREFIXES)}
    path = [str(root), *(os.path.abspath(p) for p in kept.get("PYTHONPATH", "").split(os.pathsep) if p)]
    return ENVIRONMENT | kept | {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def _write_all(fd: int, data: bytes) -> None:
    """Write to a pipe whose reader may have stopped reading. TimeoutError where it takes nothing for too long."""
    while data:
        if not select.select([], [fd], [], SEND_TIMEOUT_S)[1]:
            raise TimeoutError
        data = data[os.write(fd, data[: select.PIPE_BUF]) :]  # of this size, a write to a ready pipe never waits
