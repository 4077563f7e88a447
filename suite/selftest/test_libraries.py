"""What a library does when it is imported is no kernel's doing."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from kernels import discover  # noqa: E402 - after the skip
from suite.measure import tampering  # noqa: E402
from suite.measure.libraries import import_libraries  # noqa: E402

LIBRARY = "import signal\nsignal.signal(signal.SIGUSR2, print)\n"
KERNEL = """
from ..kernel import Kernel, Origin
from ._part import attend

KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=attend)
"""
PART = """
import not_here_at_all

def attend(inputs, state):
    import kernelgate_library_of_a_test
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tree with a kernel whose helper imports, in a function, a library that sets a signal's handler."""
    site, family = tmp_path / "site", tmp_path / "tree/kernels/toy"
    for folder in (site, family):
        folder.mkdir(parents=True)
    (site / "kernelgate_library_of_a_test.py").write_text(LIBRARY)
    (family / "lazy.py").write_text(KERNEL)
    (family / "_part.py").write_text(PART)
    monkeypatch.syspath_prepend(site)
    yield tmp_path / "tree"
    signal.signal(signal.SIGUSR2, signal.SIG_DFL)
    sys.modules.pop("kernelgate_library_of_a_test", None)


def test_libraries_are_there_before_the_process_is_looked_at(tree: Path) -> None:
    import_libraries(tree / "kernels/toy/lazy.py", tree)
    with tampering.untouched("when it was run"):
        importlib.import_module("kernelgate_library_of_a_test")  # as the kernel's function does


def test_without_that_its_kernel_is_blamed(tree: Path) -> None:
    with pytest.raises(tampering.Tampered, match="signal handlers"), tampering.untouched("when it was run"):
        importlib.import_module("kernelgate_library_of_a_test")


def test_the_compiler_is_there_for_who_will_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr("importlib.import_module", imported.append)
    root = Path(discover.__file__).parents[1]
    import_libraries(root / "kernels/mla/torch_compile.py", root)
    assert {"torch._dynamo", "torch"} <= set(imported)
    assert not [name for name in imported if name.startswith(("kernels", "suite"))]
