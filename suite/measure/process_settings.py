"""Settings that hold for a whole process: a kernel that changes one changes its rival's conditions, or the judge's."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import torch

from . import thread_pools
from .libraries import is_ours
from .malloc import keeps_content, large_blocks

CU_LIMIT_PERSISTING_L2_CACHE_SIZE = 6
"""NVIDIA's driver API, `CUlimit`."""
COMPILERS_OWN = ("TORCHINDUCTOR_", "_TORCHINDUCTOR_", "TRITON_CACHE_DIR", "TRITON_PTXAS_")
"""Variables that PyTorch's compiler sets when it is first used."""
OWN_OPERATORS, DEVICE_KEYS = ("aten/", "prim/", "prims/"), ("/CPU", "/CUDA", "/AutogradCPU", "/AutogradCUDA")
"""PyTorch's own operators, and where a kernel could put itself in their place. For shapes alone (`Meta`) and for
gradients PyTorch adds entries by itself."""
BACKENDS = [module for module in vars(torch.backends).values() if isinstance(module, ModuleType)]
"""What is there from the beginning: others come when they are first used."""
LITTLE = 1e-310
"""A denormal number in double precision."""
LIMITS = tuple(name for name in dir(resource) if name.startswith("RLIMIT_"))
IMPORT_PATHS = tuple((tuple(now), now) for now in (sys.path, sys.meta_path, sys.path_hooks))
"""What was there in the beginning, and where it must stay: libraries add to these lists."""
SIGNALS = sorted(signal.valid_signals())
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
OF_THE_PROCESS = re.compile(r"^(NoNewPrivs|Seccomp\w*|Speculation\w+|THP_enabled):\s*(.*)$", re.MULTILINE)
"""What Linux says of a process that one of its threads can change for all."""
CAUGHT = re.compile(r"^SigCgt:\s*(\w+)$", re.MULTILINE)
"""Signals that somebody handles, past Python too, as a mask in hexadecimal digits."""
OF_THE_C_LIBRARY = 3 << 31
"""Signals 32 and 33: glibc handles them once threads are started."""


def torch_settings() -> dict[str, Any]:
    """Setting of PyTorch -> value."""
    matmul = torch.backends.cuda.matmul
    return {
        "num_threads": torch.get_num_threads(),
        "default_dtype": torch.get_default_dtype(),
        "default_device": str(torch.get_default_device()),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "matmul.allow_bf16_reduced_precision_reduction": matmul.allow_bf16_reduced_precision_reduction,
        "matmul.allow_fp16_reduced_precision_reduction": matmul.allow_fp16_reduced_precision_reduction,
        "flash_sdp": torch.backends.cuda.flash_sdp_enabled(),
        "mem_efficient_sdp": torch.backends.cuda.mem_efficient_sdp_enabled(),
        "math_sdp": torch.backends.cuda.math_sdp_enabled(),
        "cudnn_sdp": torch.backends.cuda.cudnn_sdp_enabled(),
    }  # fmt: skip


def all_settings() -> dict[str, Any]:
    """Those of PyTorch, of Python and of the operating system, for this process and thread."""
    return torch_settings() | _modes() | _libraries() | _python() | _system() | _cuda()


@contextlib.contextmanager
def put_back(settings: Callable[[], dict[str, Any]] = all_settings) -> Iterator[None]:
    """What of `settings` can be set is afterwards as it was before the block.

    For a kernel's import: a file that sets them at its top, as scripts do, means itself. What of it is still changed
    afterwards (see `all_settings`), it answers for.
    """
    before = settings()
    try:
        yield
    finally:
        now = settings()
        for name, setter in _SETTERS.items():
            if name in before and now[name] != before[name]:
                with contextlib.suppress(RuntimeError, ValueError):
                    setter(before[name])


def _set_environment(variables: dict[str, str]) -> None:
    for name in [n for n in os.environ if n not in variables and not n.startswith(COMPILERS_OWN)]:
        del os.environ[name]
    os.environ.update(variables)


def _set_backends(settings: dict[str, bool | int | str]) -> None:
    for name, now in _backends():
        module, _, setting = name.rpartition(".")
        if settings.get(name, now) != now:
            setattr(sys.modules[module], setting, settings[name])


_SETTERS: dict[str, Callable[[Any], None]] = {
    "environment": _set_environment,
    "grad mode": lambda modes: torch._C._set_grad_enabled(modes[0]),  # noqa: SLF001 - as torch.set_grad_enabled does
    "default_device": lambda device: torch.set_default_device(None),
    "default_dtype": torch.set_default_dtype,
    "num_threads": torch.set_num_threads,
    "deterministic_algorithms": torch.use_deterministic_algorithms,
    "float32_matmul_precision": torch.set_float32_matmul_precision,
    **{
        f"matmul.{flag}": functools.partial(setattr, torch.backends.cuda.matmul, flag)
        for flag in ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    },
    "cudnn.allow_tf32": functools.partial(setattr, torch.backends.cudnn, "allow_tf32"),
    "cudnn.benchmark": functools.partial(setattr, torch.backends.cudnn, "benchmark"),
    "flash_sdp": torch.backends.cuda.enable_flash_sdp,
    "mem_efficient_sdp": torch.backends.cuda.enable_mem_efficient_sdp,
    "math_sdp": torch.backends.cuda.enable_math_sdp,
    "cudnn_sdp": torch.backends.cuda.enable_cudnn_sdp,
    "backends": _set_backends,
}
"""Setting, as `all_settings` names it -> what sets it."""


def hooks() -> dict[str, Any]:
    """Whatever of these settings has code run that nobody calls: a small part of what `all_settings` takes."""
    return _python() | _stacks()


def _modes() -> dict[str, Any]:
    """What stays switched on for whoever runs next."""
    return {
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "anomaly mode": torch.is_anomaly_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        "operators of PyTorch": _replaced_operators(),
        **_stacks(),
        "dispatch keys": str(torch._C._dispatch_tls_local_include_set()),  # noqa: SLF001 - it has no public name
        "dispatch keys left out": str(torch._C._dispatch_tls_local_exclude_set()),  # noqa: SLF001 - likewise
        "profiler": torch._C._autograd._profiler_enabled(),  # noqa: SLF001 - likewise
    }  # fmt: skip


def _stacks() -> dict[str, Any]:
    return {
        "torch function modes": torch._C._len_torch_function_stack(),  # noqa: SLF001 - it has no public name
        "torch dispatch modes": torch._C._len_torch_dispatch_stack(),  # noqa: SLF001 - likewise
    }


def _libraries() -> dict[str, Any]:
    """What torch.backends lets a process choose, and how the processor treats the smallest numbers."""
    little = torch.tensor([LITTLE], dtype=torch.float64, device="cpu")  # whatever the default is
    return {"backends": dict(_backends()), "denormal numbers": bool((little * 1.0 != 0).item())}


def _backends() -> Iterator[tuple[str, bool | int | str]]:
    for module in BACKENDS:
        for setting, kind in vars(type(module)).items():
            if type(kind).__name__ == "ContextProp":
                with contextlib.suppress(Exception):  # of a library that is not here
                    value = getattr(module, setting)
                    yield f"{module.__name__}.{setting}", value if isinstance(value, bool | int | str) else str(value)


def _replaced_operators() -> tuple[str, ...]:
    """Operators of PyTorch that something in this process implements anew."""
    known = torch.library._impls  # noqa: SLF001 - it has no public name
    return tuple(sorted(i for i in known if i.startswith(OWN_OPERATORS) and i.endswith(DEVICE_KEYS)))


def _python() -> dict[str, Any]:
    return {
        "trace function": (sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()),
        "garbage collection": (gc.isenabled(), gc.get_threshold(), tuple(gc.callbacks)),
        "switch interval": sys.getswitchinterval(),
        "import path": tuple(_is_in(entry, now) for then, now in IMPORT_PATHS for entry in then),
        "audit hooks": _audit_hooks,
        "monitoring tools": _monitoring_tools(),
        "signal handlers": {str(int(number)): signal.getsignal(number) for number in SIGNALS},
        "blocked signals": tuple(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "interval timers": (any(sum(signal.getitimer(t)) > 0 for t in TIMERS), _text("timers")),
    }


def _is_in(entry: object, entries: list[Any]) -> bool:
    return any(entry is one for one in entries)


def _monitoring_tools() -> tuple[Any, ...]:
    """Who is told of what Python executes, from Python 3.12 on."""
    monitoring = getattr(sys, "monitoring", None)
    return tuple(monitoring.get_tool(number) for number in range(6)) if monitoring else ()


def _count_audit_hooks(event: str, arguments: object) -> None:
    """An audit hook itself: Python tells it of others that are added, and of nothing else can one learn of them.

    Not counted are those of libraries, which add them when they are imported (filelock does, to see forks, and
    torch.compile imports it): no kernel is to blame for them.
    """
    global _audit_hooks  # noqa: PLW0603 - it is asked for without an object
    if event == "sys.addaudithook" and not _is_of_a_library(sys._getframe(1)):  # noqa: SLF001 - nothing else tells
        _audit_hooks += 1


def _is_of_a_library(frame: FrameType) -> bool:
    """Whether a module that is none of kernels' and none of ours runs code of its own file there."""
    names = frame.f_globals
    name, path = str(names.get("__name__")), str(names.get("__file__"))
    module = sys.modules.get(name)
    if module is None or vars(module) is not names or name == "__main__" or is_ours(name):
        return False
    try:
        return _holds(compile(Path(path).read_bytes(), path, "exec", dont_inherit=True), frame.f_code)
    except (OSError, SyntaxError, ValueError):
        return False


def _holds(code: CodeType, wanted: CodeType) -> bool:
    """Whether one is a part of the other. Compared by what they do: code that runs is no longer equal to itself."""
    same = (code.co_code, code.co_names, code.co_firstlineno) == (
        wanted.co_code,
        wanted.co_names,
        wanted.co_firstlineno,
    )
    return same or any(_holds(part, wanted) for part in code.co_consts if isinstance(part, CodeType))


_audit_hooks = 0
sys.addaudithook(_count_audit_hooks)


def thread_settings() -> dict[tuple[int, str], tuple[Any, ...]]:
    """(thread of this process, when it started) -> cores, niceness and scheduler; nothing where this is not Linux."""
    found: dict[tuple[int, str], tuple[Any, ...]] = {}
    for folder in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError, IndexError):
            thread = int(folder.name)
            started = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[19]
            cores = tuple(sorted(os.sched_getaffinity(thread)))
            found[thread, started] = (cores, os.getpriority(os.PRIO_PROCESS, thread), os.sched_getscheduler(thread))
    return found


def _system() -> dict[str, Any]:
    affinity = getattr(os, "sched_getaffinity", lambda pid: ())(0)
    return {
        "environment": {k: v for k, v in os.environ.items() if not k.startswith(COMPILERS_OWN)},
        "working directory": os.getcwd(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "CPU affinity": tuple(sorted(affinity)),
        "umask": _umask(),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in LIMITS},
    } | ({} if torch.cuda.is_available() else _of_the_host())


def _of_the_host() -> dict[str, Any]:
    """Where kernels run on the CPU. Beside a GPU compilers handle signals past Python."""
    status = _text("status")
    return {
        "malloc": (large_blocks(), keeps_content()),
        "process": dict(OF_THE_PROCESS.findall(status)),
        "signals that are caught": [int(mask, 16) & ~OF_THE_C_LIBRARY for mask in CAUGHT.findall(status)],
        "timer slack": _text("timerslack_ns"),
        "threads of OpenMP and MKL": thread_pools.told(),
    }


def _text(name: str) -> str:
    """What Linux says of this process under a name; nothing elsewhere."""
    try:
        return Path(f"/proc/self/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _cuda() -> dict[str, Any]:
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return {}
    return {
        "current device": torch.cuda.current_device(),
        "current stream": torch.cuda.current_stream().cuda_stream,
        "allocator": torch.cuda.get_allocator_backend(),
        "persisting L2 cache bytes": _persisting_l2_bytes(),
    }


def _persisting_l2_bytes() -> int:
    """How much of the L2 cache accesses may keep across a flush; 0 unless a kernel asked for it. -1 where unknown."""
    driver = cuda_driver()
    value = ctypes.c_size_t(0)
    if driver is None or driver.cuCtxGetLimit(ctypes.byref(value), CU_LIMIT_PERSISTING_L2_CACHE_SIZE):
        return -1
    return int(value.value)


@functools.cache
def cuda_driver() -> Any:
    """NVIDIA's driver library, or None."""
    try:
        return ctypes.CDLL("libcuda.so.1") if torch.version.cuda else None
    except OSError:
        return None
