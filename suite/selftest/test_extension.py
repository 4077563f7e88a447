"""C++ through torch's extension loader: built once, and what a compiler says is heard."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from kernels.extension import BuildError, built

WRONG = """#include <torch/extension.h>
torch::Tensor run(torch::Tensor x) { return x + nonsense; }
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) { m.def("run", &run, py::arg("x")); }
"""


def told(command: str) -> str:
    """As ninja does: the command first, which is longer than anything that is shown."""
    return f"Error building extension 'e': [1/2] {command}\nFAILED: source.o\n{command}\n"


def test_the_compilers_errors_are_told_without_its_command_and_it_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils import cpp_extension

    asked = []

    def load(*arguments: object, **named: object) -> None:
        asked.append(arguments)
        raise RuntimeError(told("c++ " * 500) + "/x/source.cpp:2:49: error: ‘nonsense’ was not declared\n  2 | x\n")

    monkeypatch.setattr(cpp_extension, "load", load)
    source = tmp_path / "mine.cpp"
    source.write_text(f"{WRONG}// {tmp_path}")
    for _ in range(2):
        with pytest.raises(BuildError) as raised:
            built(str(source))
        assert str(raised.value) == "mine.cpp does not compile: source.cpp:2:49: error: ‘nonsense’ was not declared"
    assert len(asked) == 1


@pytest.mark.thorough
@pytest.mark.skipif(not (shutil.which("c++") and shutil.which("ninja")), reason="needs a C++ compiler and ninja")
def test_what_a_real_compiler_says_is_told(tmp_path: Path) -> None:
    source = tmp_path / "mine.cpp"
    source.write_text(f"{WRONG}// {tmp_path}")
    with pytest.raises(BuildError, match="nonsense"):
        built(str(source))
