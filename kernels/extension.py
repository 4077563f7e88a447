"""C++, CUDA and HIP through torch's extension loader, built once a machine and source."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from pathlib import Path
from types import ModuleType

import torch

ERRORS = re.compile(r"error:|undefined reference")
MOST_ERRORS = 3


class BuildError(RuntimeError):
    """The source does not compile."""


def built(source: str) -> ModuleType:
    """The module that a source file defines by PYBIND11_MODULE(TORCH_EXTENSION_NAME, m).

    Needs ninja and a compiler for C++, for .cu also nvcc (hipcc on ROCm): raises what torch's loader raises where these
    are not here. BuildError, with the compiler's first errors, where the source does not compile; it is tried once.
    """
    module = _built(source)
    if isinstance(module, str):
        raise BuildError(module)
    return module


@functools.cache
def _built(source: str) -> ModuleType | str:
    """The module, or what the compiler had against it."""
    digest = hashlib.sha256(Path(source).read_bytes() + torch.__version__.encode()).hexdigest()[:24]
    name = f"kernelgate_{digest}"
    library = Path(tempfile.gettempdir()) / f"kernelgate-extensions-{os.getuid()}" / f"{name}.so"
    if not library.exists():
        try:
            _build(Path(source), name, library)
        except RuntimeError as error:
            told = [line[line.find("source.") :] for line in str(error).splitlines() if ERRORS.search(line)]
            if not told:
                raise
            return f"{Path(source).name} does not compile: {'; '.join(told[:MOST_ERRORS])}"
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _build(source: Path, name: str, library: Path) -> None:
    """Into a folder of its own, then moved at once: a worker that is killed leaves no half of it, and no lock."""
    from torch.utils import cpp_extension

    library.parent.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copy(source, Path(folder) / f"source{source.suffix.replace('.hip', '.cu')}")
        cpp_extension.load(name, [str(copied)], build_directory=folder, is_python_module=False)
        os.replace(shutil.copy(Path(folder) / f"{name}.so", library.with_suffix(f".{os.getpid()}")), library)
