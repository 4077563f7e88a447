"""Versions of the libraries behind vendors' kernels, for `Kernel.version`."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable


def module_version(name: str, said: str = "{}") -> Callable[[], str]:
    """What module `name` calls its `__version__`, in place of the braces of `said`."""
    return lambda: said.format(importlib.import_module(name).__version__)


def package_version(name: str, said: str = "{}") -> Callable[[], str]:
    """The same of an installed distribution, whose module does not tell."""
    return lambda: said.format(importlib.metadata.version(name))


vllm_version = module_version("vllm", "vllm {}")
flashinfer_version = module_version("flashinfer")
