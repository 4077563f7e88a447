"""An append-only file of JSON objects, one a line, synced line by line: what a run measured survives SIGKILL.

A line counts once its newline is on disk. A torn last line is dropped when read and cut off before the next append.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from .schema import MAX_BYTES, MAX_INTEGER, Document, RecordError, parse, read_bytes

MAX_TEXT_CHARS = 8000
"""Longest string kept, a kernel's error text for instance; the schemas' limit is a little higher."""
_CHUNK_BYTES = 1 << 16


class JournalError(RecordError):
    """A line that could not be written; everything before it is safe."""


class Journal:
    """Appends to one file, which one process at a time may hold open."""

    def __init__(self, path: str | Path, wait: bool = False) -> None:
        """Open or create `path` and cut off a torn last line. `wait` for another writer instead of refusing."""
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as error:
            raise JournalError(self._sentence("cannot be opened", error)) from error
        try:
            self._lock(wait)
            self._cut_torn_tail()
        except OSError as error:
            self.close()
            raise JournalError(self._sentence("cannot be opened", error)) from error
        except JournalError:
            self.close()
            raise

    def append(self, event: Mapping[str, Any]) -> None:
        """Write one event and return when it is on disk. Raises JournalError."""
        self.extend([event])

    def extend(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Write several events with one sync. Numbers that are not finite become null, overlong strings are cut."""
        data = b"".join(
            json.dumps(plain(event), allow_nan=False, separators=(",", ":")).encode() + b"\n" for event in events
        )
        try:
            self._cut_torn_tail()  # of an append that Ctrl-C interrupted
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._cut_torn_tail()
            raise JournalError(self._sentence("cannot be written", error)) from error

    def close(self) -> None:
        """Give up the file; also ends the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _lock(self, wait: bool) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            sentence = f"{self.path}: another process is writing to it. Wait for it, or end it first."
            raise JournalError(sentence) from None
        except OSError:
            pass  # a file system without locks

    def _cut_torn_tail(self) -> None:
        end = position = os.fstat(self._descriptor).st_size
        while position:
            start = max(0, position - _CHUNK_BYTES)
            newline = os.pread(self._descriptor, position - start, start).rfind(b"\n")
            position = start if newline < 0 else start + newline + 1
            if newline >= 0:
                break
        if position < end:
            os.ftruncate(self._descriptor, position)

    def _sentence(self, what: str, error: OSError) -> str:
        what_to_do = "Nothing before it is lost: make room or check permissions, then --resume."
        return f"{self.path}: {what} ({error.strerror or error}). {what_to_do}"


def read_journal(path: str | Path, max_bytes: int = MAX_BYTES) -> list[Document]:
    """All whole events of a run's journal; each has a string "event". Raises RecordError on a damaged line."""
    events = read_lines(path, max_bytes)
    for number, event in enumerate(events, 1):
        if not isinstance(event.get("event"), str):
            raise RecordError(f'{path}: line {number} has no "event". {_DAMAGED}')
    return events


def read_lines(path: str | Path, max_bytes: int = MAX_BYTES) -> list[Document]:
    """The objects of a file of lines, without a torn last line. Raises RecordError on any other damage."""
    lines = read_bytes(path, max_bytes).split(b"\n")[:-1]
    return [_parse_line(line, f"{path}: line {number}") for number, line in enumerate(lines, 1)]


_DAMAGED = "Only the last line of a journal may be damaged: remove that line if the rest is to be kept."


def _parse_line(line: bytes, where: str) -> Document:
    value = parse(line, where, _DAMAGED)
    if not isinstance(value, dict):
        raise RecordError(f"{where} is no JSON object. {_DAMAGED}")
    return value


def plain(value: Any) -> Any:
    """`value` as readers accept it: what is no finite number as null, long strings cut, with a note of it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return value if abs(value) <= MAX_INTEGER else None
    if isinstance(value, Mapping):
        return {_text(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _text(value: str) -> str:
    text = value.encode("utf-8", "replace").decode()  # a lone surrogate is no Unicode
    extra = len(text) - MAX_TEXT_CHARS
    return text if extra <= 0 else f"{text[:MAX_TEXT_CHARS]} ... ({extra} more characters)"
