"""Every Triton kernel x problem compiles for the device that `--gpu` names. Collected under `--compile-only`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from suite.compile_run import CompileRun
    from suite.selection import Case


def test_compile(compile_case: Case, compile_results: CompileRun) -> None:
    """Each launch compiles, and its block fits the device's shared memory (LDS)."""
    result = compile_results(compile_case.kernel.id, compile_case.problem)
    if result.status == "skipped":
        pytest.skip(result.sentence)
    if result.status == "failed":
        pytest.fail("\n".join(filter(None, [f"{result.reason}: {result.sentence}", result.detail])), pytrace=False)
    assert result.launches, f"{result.kernel} launched no Triton function, though it says uses_triton=True."
