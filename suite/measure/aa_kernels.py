"""Kernels whose slowdown is known because it was planted: the files that `aa_launches` adds to a copy of the project.

On a GPU every variant is the hand-tuned MLA decode, followed by a chain of dependent multiply-adds in one thread. All
carry a chain, so all pay for its launch; a slowed variant's is longer by steps worth x% of the kernel's own time, which
a pilot launch measured. Counted work, unlike a spin until a clock says so, needs no vendor's instruction.

On a CPU every variant multiplies the same matrices UNITS times over; a slowed one x% more times. Their rival does so
by another operator. As a product of transposed matrices it had two modes, 42 and 62 ms, and by halves 5.5 and 7.1 ms,
since a call costs 8 us more in a third of the launches; then nothing is claimed, and nothing is learnt of the gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

PLANTED_PERCENT = (1, 2, 3, 5, 10)
GPU_FAMILY, CPU_FAMILY = "mla", "planted"
ORIGINAL = "triton_split_kv"
BASE, TWIN, RIVAL, PROBE = "planted_base", "planted_twin", "planted_rival", "planted_probe"
BASE_STEPS = 64
"""Steps that every variant's chain has, so that a slowed one differs in their number only."""
UNITS = 100
"""Products in the base on a CPU: 1% is one more."""
CPU_ROWS = (64, 128, 256, 512, 1024, 2048)


def slowed(percent: int) -> str:
    """The name of the variant that is slower by `percent`."""
    return f"planted_slow_{percent}"


SLOWED = {percent: slowed(percent) for percent in PLANTED_PERCENT}

_CHAIN = '''"""A chain of dependent multiply-adds: exactly `steps` of them, one after another, in one thread."""

import torch
import triton
import triton.language as tl


@triton.jit(do_not_specialize=["steps"])
def _chain(out, steps):
    value = steps.to(tl.float32)
    for _ in range(steps):
        value = value * 0.999 + 1.0
    tl.store(out, value)


def chain(steps, device):
    """Enqueue the chain."""
    _chain[(1,)](torch.empty(1, dtype=torch.float32, device=device), steps, num_warps=1)
'''

_WITH_CHAIN = """

from ._planted_chain import chain

STEPS = {steps}


def _plan_both(problem, plan_inputs, device):
    return ORIGINAL.plan(problem, plan_inputs, device), STEPS[problem.id]


def _run_both(inputs, state):
    outputs = ORIGINAL.run(inputs, state[0])
    chain(state[1], inputs["q"].device)
    return outputs


KERNEL = Kernel(
    origin=Origin.HAND, tasks=("decode",), run=_run_both, plan=_plan_both, supports=ORIGINAL.supports,
    requires=ORIGINAL.requires, uses_triton=True,
)
"""


def gpu_files(kernels: Path, steps: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """Files for variants of the Triton MLA decode; `steps`: variant -> {problem id without family: steps}."""
    source = (kernels / GPU_FAMILY / f"{ORIGINAL}.py").read_text(encoding="utf-8")
    head, declaration, rest = source.rpartition("\nKERNEL = Kernel(")
    if not declaration:
        raise RuntimeError(f"kernels/{GPU_FAMILY}/{ORIGINAL}.py no longer declares KERNEL = Kernel(...): adapt this.")
    copy = f"{head}\nORIGINAL = Kernel({rest}"
    files = {
        f"kernels/{GPU_FAMILY}/{variant}.py": copy + _WITH_CHAIN.format(steps=dict(own))
        for variant, own in steps.items()
    }
    return files | {f"kernels/{GPU_FAMILY}/_planted_chain.py": _CHAIN}


_PROBLEM = '''"""out = x . w with x [rows, 128] and w [128, 128], all float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..problem import Cost, Inputs, Problem, Residency, TensorSpec, Tier, Tolerance, tagged

WIDTH = 128


@dataclass(frozen=True)
class Product(Problem):
    rows: int = tagged("n")
    family: ClassVar[str] = "planted"
    task: ClassVar[str] = "product"
    residency = {"x": Residency.WARM, "w": Residency.COLD}
    activations = ("x",)
    plan_inputs = ()

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        generator = torch.Generator().manual_seed(seed)
        shapes = {"x": (self.rows, WIDTH), "w": (WIDTH, WIDTH)}
        return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}

    def redraw(self, inputs, generator) -> None:
        inputs["x"].normal_(generator=generator)

    def output_specs(self):
        return {"out": TensorSpec((self.rows, WIDTH), "float32")}

    def tolerances(self):
        return {"out": Tolerance(rtol=1e-3, relative_rms=1e-3, atol_rms=1e-3)}

    def cost(self, inputs: Inputs) -> Cost:
        return Cost(2 * self.rows * WIDTH * WIDTH, 4 * WIDTH * WIDTH, 4 * self.rows * WIDTH, "float32")

    def memory_bytes(self) -> int:
        return 4 * (2 * self.rows * WIDTH + WIDTH * WIDTH)

    def null_kernels(self):
        return {}


PROBLEMS = {tier: tuple(Product(rows) for rows in ROWS) for tier in Tier}
HARD_CASES = ()
'''

_REFERENCE = '''"""x . w."""
from ..kernel import Kernel, Origin


def run(inputs, state):
    return {"out": inputs["x"] @ inputs["w"]}


KERNEL = Kernel(origin=Origin.REFERENCE, tasks=("product",), run=run)
'''

_UNITS = '''"""x . w, `UNITS` times over."""
import torch

from ..kernel import Kernel, Origin

UNITS = {units}


def run(inputs, state):
    x, w = inputs["x"], inputs["w"]
    out = torch.empty(x.shape[0], w.shape[1])
    for _ in range(UNITS):
        torch.mm(x, w, out=out)
    return {{"out": out}}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
'''

_OTHER_WAY = '''"""x . w added to nothing, `UNITS` times over: the rival, whose operator no variant shares."""
import torch

from ..kernel import Kernel, Origin

UNITS = {units}


def run(inputs, state):
    x, w = inputs["x"], inputs["w"]
    out, nothing = torch.empty(x.shape[0], w.shape[1]), torch.zeros(w.shape[1])
    for _ in range(UNITS):
        torch.addmm(nothing, x, w, out=out)
    return {{"out": out}}


KERNEL = Kernel(origin=Origin.VENDOR, tasks=("product",), run=run)
'''


def cpu_files(percents: Sequence[int] = PLANTED_PERCENT) -> dict[str, str]:
    """Files of a family of repeated products: reference, base, twin, rival and the slowed ones."""
    units = {BASE: UNITS, TWIN: UNITS} | {slowed(x): UNITS * (100 + x) // 100 for x in percents}
    files = {name: _UNITS.format(units=number) for name, number in units.items()}
    files |= {"__init__": "", "problem": _PROBLEM.replace("for rows in ROWS", f"for rows in {CPU_ROWS}"),
              "reference": _REFERENCE, RIVAL: _OTHER_WAY.format(units=UNITS)}  # fmt: skip
    return {f"kernels/{CPU_FAMILY}/{name}.py": text for name, text in files.items()}


def cpu_problem(rows: int) -> str:
    """The id of the product of that many rows, as records use it."""
    return f"{CPU_FAMILY}/product-n{rows}"
