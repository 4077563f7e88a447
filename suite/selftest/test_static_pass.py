"""What reading a kernel's source finds, what it leaves alone, and how the report shows it."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.discover import discover
from suite.judge.static_pass import MAX_FINDINGS, _findings, recorded_findings, static_findings
from suite.record.schema import validate
from suite.report.findings import findings_section
from suite.report.markdown import page
from suite.report.pool import Pool
from suite.selftest.synthetic_run import HOSTILE, make_run, num_cells, tables_of

pytestmark = pytest.mark.side_by_side

ROOT = Path(__file__).resolve().parents[2]
HEAD = "from __future__ import annotations\nimport torch\nfrom ..kernel import Kernel, Origin\n"

# Source -> the code of a finding that must be suspicious.
SUSPICIOUS = {
    "import subprocess as s\ns.run(['ls'])": "other_process",
    "import os\ndef run(i, s):\n    os.system('ls')": "other_process",
    "from os import fork as f\nf()": "other_process",
    "import socket": "network",
    "from concurrent.futures import ThreadPoolExecutor": "other_thread",
    "def run(i, s):\n    import threading": "other_thread",
    "import ctypes": "raw_memory",
    "import sys\nframe = sys._getframe(1)": "looks_around",
    "import gc": "looks_around",
    "def run(i, s):\n    globals()['x'] = 1": "looks_around",
    "import importlib\nimportlib.import_module('suite.judge')": "dynamic_import",
    "__import__('suite')": "dynamic_import",
    "exec('1')": "dynamic_code",
    "import pickle": "files",
    "def run(i, s):\n    open('answer', 'rb')": "files",
    "torch.save({}, 'x')": "files",
    "from time import perf_counter": "clock",
    "import atexit": "process_control",
    "torch.manual_seed(0)": "random_state",
    "g = torch.Generator('cuda')": "random_state",
    "import os\nos.environ['X'] = '1'": "environment",
    "torch.set_num_threads(1)": "global_setting",
    "torch.backends.cuda.matmul.allow_tf32 = True": "global_setting",
    "import torch.cuda as c\nc.synchronize = lambda: None": "patches_module",
    "setattr(torch, 'allclose', print)": "patches_module",
    "import time as t\nt.time = None": "patches_module",
    "from .problem import Toy\nToy.tolerances = lambda self: {}": "patches_module",
    "def run(i, s):\n    return torch.allclose(i['x'], LAST)": "compares_tensors",
    "import suite.judge.check": "knows_the_judge",
    "from .reference import decode": "reference",
    "import flash_attn": "library_call",
    "import torch.nn.functional as F\nx = F.scaled_dot_product_attention": "library_call",
    "mm = torch.matmul\ndef run(i, s):\n    return mm(i['x'], i['w'])": "library_product",
    "def run(i, s):\n    return i['x'] @ i['w']": "library_product",
    "def run(i, s):\n    return i['x'].mm(i['w'])": "library_product",
    "def run(i, s):\n    return getattr(torch, 'mm')(i['x'], i['w'])": "library_product",
    "def run(i, s):\n    return getattr(torch, 'm' + 'm')(i['x'], i['w'])": "indirect_call",
    "try:\n    import vllm\nexcept ImportError:\n    vllm = None": "fallback",
    "def run(i, s):\n    try:\n        f(i)\n    except Exception:\n        torch.bmm(i['x'], i['w'])": "fallback",
    "def run(i, s):\n    with torch.cuda.stream(torch.cuda.Stream()):\n        pass": "other_stream",
    "SEEN = {}\ndef run(i, s):\n    return SEEN.get(i['x'].data_ptr())": "remembers_inputs",
    "SEEN = {}\ndef run(i, s):\n    key = (id(i['x']), 1)\n    return SEEN[key]": "remembers_inputs",
    "SEEN = {}\ndef run(i, s):\n    key = float(i['x'].sum())\n    return SEEN[key]": "remembers_inputs",
    "SEEN = {}\ndef run(i, s):\n    return SEEN[i['x'].mean().item()]": "remembers_inputs",
    "import hashlib\ndef run(i, s, memory={}):\n    return memory[hashlib.md5(i['x'].cpu().numpy()).digest()]":
        "remembers_inputs",
    "LAST = 0\ndef run(i, s):\n    if i['x'].data_ptr() == LAST:\n        pass": "remembers_inputs",
    "import functools\n@functools.lru_cache\ndef f(x: torch.Tensor):\n    return x": "remembers_inputs",
    "CALLS = 0\ndef run(i, s):\n    global CALLS\n    CALLS += 1": "counts_calls",
    "calls = [0]\ndef run(i, s):\n    calls[0] += 1": "counts_calls",
    "def run(i, s):\n    run.calls += 1": "counts_calls",
    "class Late(torch.Tensor):\n    pass": "lazy_tensor",
    "class Late:\n    def __del__(self):\n        pass": "lazy_tensor",
    "def run(:": "unreadable",
    "x = '\0'": "unreadable",
}  # fmt: skip

# What honest kernels do.
HONEST = {
    "aligned": "def run(i, s):\n    if i['x'].data_ptr() % 16 == 0:\n        pass",
    "aliased": "def run(i, s):\n    return i['x'].data_ptr() == i['w'].data_ptr()",
    "workspace": "SPACE = {}\ndef run(i, s):\n    SPACE.setdefault(i['x'].shape, torch.empty(1))",
    "joined stream": "side = torch.cuda.Stream()\ndef run(i, s):\n    torch.cuda.current_stream().wait_stream(side)",
    "captured graph": "graph = torch.cuda.CUDAGraph()",
    "cached plan": "import functools\n@functools.cache\ndef tiles(rows: int, arch: str) -> int:\n    return rows",
    "own counter": "def run(i, s):\n    n = 0\n    n += 1\n    xs = []\n    xs.append(n)\n    return xs[n - 1]",
    "own product": "import triton\n@triton.jit\ndef f(a, b):\n    return a @ b",
    "dtype by name": "def run(i, s):\n    return torch.empty(1, dtype=getattr(torch, s.dtype))",
    "own names": "def open(x):\n    return x\ndef run(i, s):\n    id = 3\n    return open(s[id])",
    "odd escape": r"x = '\d'",
    "version": "from importlib.metadata import version\nv = version('triton')",
    "raises": "def run(i, s):\n    try:\n        f(i)\n    except ValueError as e:\n        raise TypeError from e",
    "plan on the host": "def plan(p, i, d):\n    n = int(i['seq_lens'].sum())\n    return [0, 1][n > 4], {4: 1}.get(n)",
}  # fmt: skip


def found(tmp_path: Path, source: str, origin: str = "hand") -> dict[str, str]:
    path = tmp_path / "candidate.py"
    path.write_text(HEAD + source + "\n")
    return {finding.code: finding.level for finding in reversed(static_findings(path, origin))}


@pytest.mark.parametrize("source", SUSPICIOUS)
def test_what_has_no_place_in_a_kernel_is_found(source: str, tmp_path: Path) -> None:
    assert found(tmp_path, source).get(SUSPICIOUS[source]) == "suspicious"


@pytest.mark.parametrize("name", HONEST)
def test_honest_kernels_are_not_suspected(name: str, tmp_path: Path) -> None:
    assert "suspicious" not in found(tmp_path, HONEST[name]).values()


def test_our_own_kernels_are_not_suspected() -> None:
    kernels = [kernel for kernel in discover(ROOT).values() if not kernel.broken]
    assert kernels
    for kernel in kernels:
        findings = recorded_findings(kernel, ROOT)
        assert not [finding for finding in findings if finding["level"] == "suspicious"], findings


def test_a_library_is_a_vendors_business(tmp_path: Path) -> None:
    source = "import vllm\nfrom .reference import decode\ny = torch.matmul\ndef run(i, s):\n    return i['x'] @ i['w']"
    assert found(tmp_path, source, "vendor") == {"reference": "note"}
    assert found(tmp_path, "y = torch.matmul", "generated") == {"library_product": "note"}
    assert found(tmp_path, source, "generated")["library_call"] == "suspicious"
    assert found(tmp_path, source, "unknown")["library_product"] == "suspicious"


def test_a_place_is_told_once_with_its_line_and_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "candidate.py"
    path.write_text(f"{HEAD}\nimport time\n\ndef run(i, s):\n    time.time()\n    time.sleep(1)\n")
    (finding,) = static_findings(path, "hand")
    assert (finding.file, finding.line, finding.code) == ("candidate.py", 5, "clock")
    assert finding.sentence.startswith("time: ")
    assert finding.sentence.endswith(".")


def test_helpers_are_read_but_not_what_all_kernels_share(tmp_path: Path) -> None:
    folder = tmp_path / "kernels" / "toy"
    folder.mkdir(parents=True)
    (folder / "hand.py").write_text("from . import _helper\nfrom .problem import Toy\nfrom ..kernel import Kernel\n")
    (folder / "_helper.py").write_text("import socket\n")
    (folder / "problem.py").write_text("from ._edits import edits\nimport random\n")
    for shared in (folder / "_edits.py", tmp_path / "kernels" / "kernel.py"):
        shared.write_text("import random\n")
    (finding,) = static_findings(folder / "hand.py", "hand", tmp_path)
    assert (finding.file, finding.code) == ("toy/_helper.py", "network")


def test_findings_are_bounded(tmp_path: Path) -> None:
    many = "\n".join(f"torch.x{i} = 1" for i in range(500))
    path = tmp_path / "candidate.py"
    path.write_text(f"import torch\nimport inspect\n{many}\n")
    findings = static_findings(path, "hand")
    assert len(findings) == MAX_FINDINGS
    assert {finding.level for finding in findings} == {"suspicious"}  # these are kept, notes go first
    path.write_text("x = " + "(" * 5000 + ")" * 5000)
    assert [finding.code for finding in static_findings(path, "hand")] == ["unreadable"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "candidate.py")
    assert [finding.code for finding in static_findings(tmp_path / "candidate.py", "hand")] == ["unreadable"]


@settings(max_examples=30, deadline=None, database=None)
@given(st.data())
def test_any_source_is_read_without_raising(data: st.DataObject) -> None:
    """Our own files with statements swapped, repeated and dropped: whatever parses is read."""
    path = data.draw(st.sampled_from(sorted((ROOT / "kernels").rglob("*.py"))))
    tree = ast.parse(path.read_text())
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    chosen = data.draw(st.lists(st.sampled_from(statements), min_size=1, max_size=6)) if statements else []
    for found_here in _findings(ast.Module(body=chosen, type_ignores=[]), "hand"):
        assert found_here.sentence.endswith(".")


def test_the_report_shows_findings_and_nothing_where_there_are_none() -> None:
    run = make_run()
    assert findings_section(Pool([run])) == ""
    assert "What the source shows" not in page(Pool([run]), [], {})
    finding = {"file": "mla/x.py", "line": 3, "code": "files", "level": "suspicious", "sentence": HOSTILE}
    for kernel in ("mla/triton_split_kv", "mla/generated/inductor"):
        run["kernels"][kernel]["findings"] = [finding, {**finding, "level": "note"}]
    validate(run, "run", "run")
    run["kernels"]["mla/aiter"]["findings"] = [{**finding, "file": HOSTILE, "code": HOSTILE}]
    content = page(Pool([run]), [], {})
    assert "## What the source shows" in content
    (table,) = tables_of(findings_section(Pool([run])))
    assert len(table) == 2 + 3  # a helper's finding is one row, however many kernels import it
    assert len({num_cells(line) for line in table}) == 1
    assert "<script" not in content
    assert "](http" not in content
