"""Compiles what host code launches, for a device that need not be here, instead of launching it.

`fn[grid](...)` runs through Triton's own binder and specialisation, so constexprs, divisibility and pointer ranges
are those of a real launch; only the last step is missing. Tensors on device `meta` have the storage sizes and the
alignment of real ones. Knows triton 3.6 to 3.9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from kernels.device import Device

from . import machine_code

Launch = dict[str, Any]


class AbsentDevice:
    """Stands where Triton's driver stands, with the properties of a device that is not here."""

    def __init__(self, device: Device) -> None:
        from triton.backends.compiler import GPUTarget

        arch = device.compute_capability if device.kind == "cuda" else device.arch
        self._target = GPUTarget(device.kind, arch, device.warp_size)
        properties = {
            "max_shared_mem": device.shared_memory_bytes,
            "multiprocessor_count": device.num_sms,
            "warpSize": device.warp_size,
        }
        self.utils = SimpleNamespace(get_device_properties=lambda _: properties)

    def get_current_target(self) -> Any:
        """What Triton compiles for."""
        return self._target

    def get_current_device(self) -> str:
        """Key of a function's in-process cache: one for each architecture, so that they never share code."""
        return str(self._target.arch)

    def get_current_stream(self, device: Any = None) -> int:
        """The default stream's handle."""
        return 0

    def get_active_torch_device(self) -> Any:
        """Where host code that asks Triton allocates."""
        import torch

        return torch.device("meta")


@contextmanager
def compile_instead_of_launch(device: Device) -> Iterator[list[Launch]]:
    """Within it every launch of a Triton or Gluon function only compiles. Yields the list that launches go to.

    A launch is {"function", "grid", "constexprs", "types"} (of the other arguments: `*bf16`; `constexpr` where Triton
    made a 1 or a None constant) and the figures of `machine_code.describe`. Autotuned functions
    compile every configuration that their pruning leaves, since which of them wins shows on the device only.
    """
    from triton.runtime import driver
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    launches: list[Launch] = []
    launch_function, launch_tuned = JITFunction.run, Autotuner.run
    driver.set_active(AbsentDevice(device))
    JITFunction.run = _compiling(launch_function, launches)
    Autotuner.run = _compiling_every_config(launches, device)
    try:
        yield launches
    finally:
        JITFunction.run, Autotuner.run = launch_function, launch_tuned


def excess(launch: Launch, device: Device) -> str | None:
    """Why `device` could not hold a launch's block, or None."""
    if launch["shared_memory_bytes"] <= device.shared_memory_bytes:
        return None
    config = ", ".join(f"{k}={v}" for k, v in [*launch["constexprs"].items(), ("num_stages", launch["num_stages"])])
    return (
        f"{launch['function']} needs {launch['shared_memory_bytes']} bytes of shared memory and {device.arch} "
        f"has {device.shared_memory_bytes} for a block ({config})."
    )


def _compiling(launch: Callable[..., Any], launches: list[Launch]) -> Callable[..., Any]:
    """`JITFunction.run` that stops after compilation and notes what it compiled."""
    figures: dict[str, dict[str, Any]] = {}

    def run(function: Any, *args: Any, grid: Any, warmup: bool = True, **kwargs: Any) -> Any:
        compiled = launch(function, *args, grid=grid, warmup=True, **kwargs)
        if compiled.hash not in figures:
            figures[compiled.hash] = machine_code.describe(compiled)
        arguments = _bind(function, args, kwargs)
        launches.append(
            {
                "function": function.__name__,
                "grid": _grid_size(grid, arguments),
                "constexprs": {p.name: _plain(arguments[p.name]) for p in function.params if p.is_constexpr},
                "types": {p.name: str(compiled.src.signature[p.name]) for p in function.params if not p.is_constexpr},
                **figures[compiled.hash],
            }
        )
        return compiled

    return run


def _compiling_every_config(launches: list[Launch], device: Device) -> Callable[..., Any]:
    """`Autotuner.run` that compiles all configurations; like the real one it passes over those that do not fit."""
    from triton.compiler.errors import CompileTimeAssertionFailure
    from triton.runtime.errors import PTXASError

    def run(tuner: Any, *args: Any, **kwargs: Any) -> Any:
        tuner.nargs = dict(zip(tuner.arg_names, args, strict=False))
        first, compiled, last_error = len(launches), None, None
        for config in tuner.prune_configs(kwargs):
            if config.pre_hook:
                config.pre_hook({**tuner.nargs, **kwargs, **config.all_kwargs()})
            try:
                compiled = tuner.fn.run(*args, **kwargs, **config.all_kwargs())
            except (CompileTimeAssertionFailure, PTXASError) as error:
                last_error = error
        if compiled is None and last_error is not None:
            raise last_error
        fitting = [launch for launch in launches[first:] if not excess(launch, device)]
        launches[first:] = fitting or launches[first:]
        tuner.nargs = None
        return compiled

    return run


def _bind(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A function's arguments by name, defaults included; launch options such as num_warps are none."""
    bound = function.signature.bind(*args, **{k: v for k, v in kwargs.items() if k in function.arg_names})
    bound.apply_defaults()
    return dict(bound.arguments)


def _grid_size(grid: Any, arguments: dict[str, Any]) -> list[int]:
    """Blocks in x, y and z."""
    size = tuple(grid(arguments)) if callable(grid) else tuple(grid)
    return [int(n) for n in (*size, 1, 1)[:3]]


def _plain(value: Any) -> Any:
    """A constexpr as a JSON value; functions and types by name, never by address."""
    value = getattr(value, "value", value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return getattr(value, "__name__", None) or str(value)
