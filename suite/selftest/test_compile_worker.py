"""Compiling without a GPU, on a tiny tree of its own: what compiles, what does not, and what counts as unchanged."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import pytest

from kernels.device import Device
from suite.measure.compile import PROJECT_ROOT, CompileResult, compile_all
from suite.measure.fingerprint import fingerprints
from suite.measure.machine_code import amd_figures, matrix_instructions, nvidia_figures
from suite.report.compile_table import compile_report, resource_table, resource_text
from suite.report.tables import MISSING

MI300X = Device("hip", "gfx942", 304, 65536, 64, "float8_e4m3fnuz")
H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
PROBLEM = "toy/product-n64"
TIMEOUT_S = 120

TOY_PROBLEM = """
    from __future__ import annotations
    from dataclasses import dataclass
    from ..problem import Problem, Tier, tagged

    @dataclass(frozen=True)
    class Product(Problem):
        n: int = tagged("n")
        family = "toy"; task = "product"; residency = {}; activations = (); plan_inputs = ()
        def make_inputs(self, seed, device, distribution="normal"):
            import torch
            return {"a": torch.empty((self.n, self.n), dtype=torch.bfloat16, device=device)}
        def redraw(self, inputs, generator): raise NotImplementedError
        def output_specs(self): return {}
        def tolerances(self): return {}
        def cost(self, inputs): raise NotImplementedError
        def memory_bytes(self): return 0
        def null_kernels(self): return {}

    PROBLEMS = {Tier.SMOKE: (Product(n=64),), Tier.CI: (Product(n=64), Product(n=128)), Tier.FULL: ()}
    HARD_CASES = (Product(n=256),)
"""
TOY_KERNEL = """
    '''Squares a matrix in one block.'''
    from __future__ import annotations
    import torch, triton, triton.language as tl
    from ..kernel import Kernel, Origin
    from .problem import Product

    @triton.jit
    def square(a, out, N: tl.constexpr):
        rows = tl.arange(0, N)
        at = rows[:, None] * N + rows[None, :]
        tile = tl.load(a + at)
        tl.store(out + at, tl.dot(tile, tile))

    def run(inputs, state):
        # launches once
        n = inputs["a"].shape[0]
        out = torch.empty((n, n), dtype=torch.float32, device=inputs["a"].device)
        square[lambda meta: (triton.cdiv(n, meta["N"]),)](inputs["a"], out, N=n, num_warps=state)
        return {"out": out}

    def plan(problem, plan_inputs, device):
        assert isinstance(problem, Product)
        return 4

    KERNEL = Kernel(
        origin=Origin.HAND, tasks=("product",), run=run, plan=plan, uses_triton=True,
        supports=lambda problem, device: "it knows 64 and 128 only" if problem.n == 256 else None,
    )
"""
TUNED_KERNEL = (
    TOY_KERNEL.replace(
        "@triton.jit",
        "@triton.autotune([triton.Config({'BIAS': 1}, num_warps=w) for w in (1, 4)], key=[])\n    @triton.jit",
    )
    .replace("N: tl.constexpr", "N: tl.constexpr, BIAS: tl.constexpr")
    .replace(", num_warps=state", "")
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose kernels/ holds one family, toy, with one kernel, toy/square. Nothing is compiled yet."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    return make_tree(tmp_path / "head", TOY_KERNEL)


def make_tree(root: Path, kernel: str) -> Path:
    family = root / "kernels" / "toy"
    family.mkdir(parents=True)
    shutil.copytree(PROJECT_ROOT / "suite", root / "suite", ignore=shutil.ignore_patterns("selftest", "__pycache__"))
    for module in ("__init__", "device", "problem", "kernel", "property", "updates", "discover"):
        shutil.copy(PROJECT_ROOT / "kernels" / f"{module}.py", family.parent)
    (family / "__init__.py").touch()
    (family / "problem.py").write_text(textwrap.dedent(TOY_PROBLEM))
    write_kernel(root, "square", kernel)
    return root


def write_kernel(root: Path, name: str, source: str) -> None:
    (root / "kernels" / "toy" / f"{name}.py").write_text(textwrap.dedent(source))


def compile_toys(tree: Path, device: Device, *cases: tuple[str, str]) -> dict[tuple[str, str], CompileResult]:
    results = compile_all(cases, device, jobs=1, timeout_s=TIMEOUT_S, root=tree)
    return {(result.kernel, result.problem): result for result in results}


@pytest.mark.parametrize(("device", "matrix_kind"), [(MI300X, "mfma"), (H200, "wgmma")], ids=["gfx942", "sm_90"])
def test_resources_are_those_of_the_device(tree: Path, device: Device, matrix_kind: str) -> None:
    write_kernel(tree, "tuned", TUNED_KERNEL)
    results = compile_toys(tree, device, ("toy/square", PROBLEM), ("toy/tuned", PROBLEM))
    result, tuned = results["toy/square", PROBLEM], results["toy/tuned", PROBLEM]
    assert (result.status, result.sentence) == ("compiled", "")
    (launched,) = result.launches
    assert (launched["function"], launched["grid"], launched["constexprs"]) == ("square", [1, 1, 1], {"N": 64})
    assert launched["matrix_instructions"].keys() == {matrix_kind}
    assert (launched["num_warps"], launched["spilled_registers"]) == (4, 0)
    assert launched["types"] == {"a": "*bf16", "out": "*fp32"}
    assert 0 < launched["registers"] <= 512
    assert 0 < launched["shared_memory_bytes"] <= device.shared_memory_bytes
    assert len(launched["binary_sha256"]) == 64
    assert [tried["num_warps"] for tried in tuned.launches] == [1, 4], tuned.detail  # which one wins is not known here


def test_each_failure_costs_its_own_case(tree: Path) -> None:
    write_kernel(tree, "mistyped", TOY_KERNEL.replace("tl.load(a + at)", "tl.load(a + tl.arange(0, 48))"))
    write_kernel(tree, "broken", TOY_KERNEL.replace("def run(inputs, state):", "def run(inputs, state:"))
    write_kernel(tree, "deadly", TOY_KERNEL.replace("# launches once", "import os; os.abort()"))
    kernels = ("mistyped", "broken", "deadly", "square")
    device = Device("hip", "gfx942", 304, 4096, 64, None)
    too_large = ("toy/square", "toy/product-n256")
    results = compile_toys(tree, device, too_large, *((f"toy/{kernel}", PROBLEM) for kernel in kernels))
    by_kernel = {kernel: results[f"toy/{kernel}", PROBLEM] for kernel in kernels}
    assert {k: r.reason for k, r in by_kernel.items()} == {
        "mistyped": "does_not_compile",
        "broken": "does_not_compile",
        "deadly": "crashed",
        "square": "exceeds_shared_memory",
    }
    assert "gfx942 has 4096 for a block (N=64, num_stages=2)" in by_kernel["square"].sentence
    assert by_kernel["mistyped"].sentence.startswith("ValueError at `tile = tl.load(a + tl.arange(0, 48))`: ")
    assert by_kernel["broken"].sentence.startswith("SyntaxError: ")
    assert "SIGABRT" in by_kernel["deadly"].sentence
    assert results[too_large].status == "skipped"


def test_fingerprint_follows_the_code_and_not_its_text(tree: Path, tmp_path: Path) -> None:
    renamed = TOY_KERNEL.replace("tile", "block").replace("# launches once", "# once").replace("Squares", "It squares")
    base = make_tree(tmp_path / "base", renamed)
    write_kernel(tree, "slower", TOY_KERNEL.replace("tl.dot(tile, tile)", "tl.dot(tile, tile) + tl.sin(1.0 * tile)"))
    write_kernel(tree, "hostile", TOY_KERNEL.replace("n = inputs", "torch.empty(1); n = inputs"))
    write_kernel(tree, "broken", TOY_KERNEL.replace("tl.dot(tile, tile)", "tl.dot(tile)"))
    kernels = ["toy/square", "base:toy/square", "toy/slower", "toy/hostile", "toy/broken", "toy/absent"]
    found = fingerprints(
        [(kernel, PROBLEM) for kernel in kernels], H200, 1, TIMEOUT_S, root=tree, base_root=base, uses_triton=kernels
    )
    assert (found["toy/broken"], found["toy/absent"]) == (None, None)
    assert found["toy/square"] is not None
    assert found["base:toy/square"] == found["toy/square"]
    assert len({found["toy/square"], found["toy/slower"], found["toy/hostile"]}) == 3


def test_closing_the_iterator_ends_the_workers(tree: Path) -> None:
    write_kernel(tree, "endless", TOY_KERNEL.replace("# launches once", "import time; time.sleep(3600)"))
    results = compile_all([("toy/broken", PROBLEM), ("toy/endless", PROBLEM)], H200, 1, TIMEOUT_S, root=tree)
    assert next(results).reason == "does_not_compile"  # toy/broken was never written
    results.close()  # waits for the worker, so an hour if it were not killed


def test_figures_are_read_from_the_compilers_text() -> None:
    note = "s_endpgm\n\t.amdgpu_metadata\n---\namdhsa.kernels:\n  - .agpr_count:     16\n    .vgpr_count:     96\n"
    assert amd_figures(note) == {"accumulation_registers": 16, "registers": 96}
    usage = " Function f:\n  REG:62 STACK:24 SHARED:1024 LOCAL:8 CONSTANT[0]:576\n"
    assert nvidia_figures(usage) == {"registers": 62, "spilled_registers": 8, "scratch_bytes": 32}
    assert nvidia_figures("") == {}
    ptx = "\t@%p1 wgmma.mma_async.sync.aligned.m64n64k16\n\tmma.sync.aligned.m16n8k16\n// wgmma.mma_async in words\n"
    assert matrix_instructions({"ptx": ptx}) == {"wgmma": 1, "mma": 1}


def launch(block: int, grid: int) -> dict[str, object]:
    names = {
        "function": "f",
        "grid": [grid, 1, 1],
        "constexprs": {"BLOCK": block, "HEADS": 16},
        "types": {"q": "*bf16"},
    }
    figures = {"registers": block, "shared_memory_bytes": 4096, "num_warps": 4, "num_stages": 2}
    return {**names, **figures, "matrix_instructions": {"mfma": 8}, "binary_sha256": f"{block:064x}"}


def test_table_has_a_row_for_each_distinct_code() -> None:
    results = [
        CompileResult("toy/f", "toy/a", "gfx942", "compiled", launches=(launch(64, 1),)).to_json(),
        CompileResult("toy/f", "toy/b", "gfx942", "compiled", launches=(launch(64, 2), launch(128, 2))).to_json(),
        CompileResult("toy/f", "toy/c", "gfx942", "failed", "does_not_compile", "No | luck.").to_json(),
    ]
    rows = resource_table(results)
    assert [(row["constexprs"], row["problems"]) for row in rows] == [
        ({"BLOCK": 64, "HEADS": 16}, 2),
        ({"BLOCK": 128, "HEADS": 16}, 1),
    ]
    _, line = resource_text(rows).splitlines()
    assert line.split() == ["toy/f", "f", "2", "4", "2", "64-128", MISSING, "4096", "mfma:8"]
    page = compile_report(results, "mi300x", "gfx942", {"triton": "3.9.0"})
    assert "2 cases compiled, 1 failed, 0 skipped" in page
    assert f"| `toy/f` | `f` | BLOCK=128 | 4 | 2 | 128 | {MISSING} | 4096 | mfma:8 | 1 |" in page
    assert "No | luck" not in page  # a pipe would end the cell
    assert "pytest --gpu mi300x --compile-only" in page
