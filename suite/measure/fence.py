"""The fence around a worker process: what it may take of the machine, and what it cannot reach.

A fence against accidents and cheating, not a sandbox against malware: the worker has its user's files and the device.
Whoever runs code of strangers runs it on a machine that is thrown away afterwards.

`enter` is called by the worker before it loads anything of others; the parent watches what no limit of the system can
bound, as an address-space limit breaks CUDA (watch.py). `python -m suite.measure.fence LIMITS` prints
what is not possible here.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import socket
import struct
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from ..device.cpu import find_cpu

MEMORY_FRACTION = 0.75
"""Of the machine's memory, or its container's: the rest is for the parent, the referee and the system."""
PROCESSES, PROCESSES_PER_CORE = 256, 8
"""A compiler of CUDA code runs several processes for each of its jobs, of which there is one a core."""
THREADS, THREADS_PER_CORE = 512, 32
"""Of one process. OpenMP, MKL and PyTorch have a thread a core each; what a call leaves behind adds up."""
PRINTED_BYTES = 8 << 20
"""For each request: the log keeps this much."""
FILE_BYTES = 64 << 30
OPEN_FILES = 16384
THREADS_OF_USER = 16384
"""How many more threads the user may have, all processes together, than when the worker started."""

PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWNET, CLONE_NEWUSER = 0x40000000, 0x10000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
OOM_SCORE = "500"
"""Where memory runs out, Linux ends a process of this score before others."""


@dataclass(frozen=True)
class Limits:
    """What one worker and all processes that it starts may take together."""

    memory_bytes: int
    """Resident memory; watched."""
    processes: int
    """Watched."""
    threads: int
    """Of one process; watched."""
    printed_bytes: int
    """Written to the log while one request is answered; watched."""
    file_bytes: int
    """Size of one file; the system refuses more."""
    open_files: int
    """Of one process; the system refuses more."""
    user_namespace: bool = False
    """Whether the network may be left through a user namespace. Never where a GPU's device files are needed."""

    def to_json(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Limits:
        """Inverse of `to_json`."""
        return Limits(**json.loads(text))


def limits_here(user_namespace: bool = False) -> Limits:
    """The limits of a worker on this machine."""
    cpu = find_cpu()
    return Limits(
        memory_bytes=int(MEMORY_FRACTION * cpu.memory_bytes),
        processes=PROCESSES + PROCESSES_PER_CORE * cpu.cores,
        threads=THREADS + THREADS_PER_CORE * cpu.cores,
        printed_bytes=PRINTED_BYTES,
        file_bytes=FILE_BYTES,
        open_files=OPEN_FILES,
        user_namespace=user_namespace,
    )


def enter(limits: Limits) -> list[str]:
    """Close the fence around this process and all that it starts. Returns sentences on what is not possible here.

    Must come before any thread: a namespace is a thread's.
    """
    missing = []
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, limits.file_bytes)  # Python ignores the signal: a write fails with EFBIG
    _lower(resource.RLIMIT_NOFILE, limits.open_files)
    _lower(resource.RLIMIT_NPROC, _threads_of_user() + THREADS_OF_USER)  # the system does not hold root to it
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    if not leave_network(limits.user_namespace):
        missing.append("Workers can reach the network: leaving it takes root, or on the CPU a user namespace.")
    if not _adopt_orphans():
        missing.append("A process that a worker detached from itself is found by its environment only.")
    return missing


def leave_network(user_namespace: bool) -> bool:
    """Move this process into a network of its own, which holds a loopback device and nothing else."""
    if sys.platform != "linux":
        return False
    libc, uid, gid = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET) != 0:
        if not user_namespace or libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            return False
        with contextlib.suppress(OSError):  # files keep their owner's name
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with contextlib.suppress(OSError):  # without a loopback device, libraries that talk to themselves would wait
        _raise_loopback()
    return True


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _adopt_orphans() -> bool:
    """Have processes that a descendant abandons become this process's children: they stay in its tree."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def _lower(which: int, bound: int) -> None:
    """Lower a limit, hard and soft, to `bound`; never raise it."""
    _, hard = resource.getrlimit(which)
    bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
    resource.setrlimit(which, (bound, bound))


def _threads_of_user() -> int:
    """Threads that this user's processes have now."""
    uid, threads = os.getuid(), 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            if folder.stat().st_uid == uid:
                threads += int((folder / "stat").read_text().rpartition(")")[2].split()[17])
    return threads


def what_is_possible(root: Path, user_namespace: bool) -> list[str]:
    """In a child process: sentences on what a worker's fence lacks on this machine; none where it is whole."""
    command = [sys.executable, "-m", "suite.measure.fence", limits_here(user_namespace).to_json()]
    path = {"PYTHONPATH": str(root)}
    try:
        done = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, timeout=60, check=True)
        return [str(sentence) for sentence in json.loads(done.stdout)]
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        return [f"A worker's fence could not be tried: {type(error).__name__}: {error}"]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(enter(Limits.from_json(sys.argv[1]))) + "\n")
