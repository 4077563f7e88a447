"""What a candidate for a task looks like, to start from: `python -m suite.candidate.example FAMILY TASK` prints it.

A process of its own, since shapes and dtypes are PyTorch's to tell.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

from kernels.discover import discover, load_problems, problem_key
from kernels.problem import Problem, Tier

_EXAMPLE = '''\
"""A candidate for {family}, task {task}. Write `run`, then: kernelgate judge FILE --family {family} --task {task}

{maths}

{summary}

One of its problems is {problem}, with the inputs

{inputs}

the outputs

{outputs}

and the fields

{fields}

Others have other sizes, dtypes and options. The maths in PyTorch: {reference}
"""

import torch


def run({arguments}):
    """Arguments are given what they are named after: inputs, fields, `problem` with all fields, outputs as memory to
    write to. Returned are the outputs that are not in place: one, a tuple in the order above, or a dict by name.

    It is called within torch.inference_mode(), which threads that it starts enter by themselves."""
    raise NotImplementedError("to be written")


def supports(problem, device):
    """Optional: None, or a sentence that says why it cannot solve this problem. What it solves must be right."""
    return None


# Instead of `run`, a file may have KernelBench's `class ModelNew(torch.nn.Module)`, its forward taking what run takes,
# or a `KERNEL = Kernel(origin=Origin.GENERATED, tasks=("{task}",), run=run, plan=plan)`: see kernels/kernel.py.
# C++, CUDA or HIP is a file of its own (.cpp, .cu, .hip) that ends in
#   PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {{ m.def("run", &run, {bound}); }}
'''


def example(root: Path, family: str, task: str) -> str:
    """The text of a file."""
    tiers, hard_cases = load_problems(family)
    problems = [p for p in (*tiers[Tier.SMOKE], *tiers[Tier.CI], *tiers[Tier.FULL], *hard_cases) if p.task == task]
    shown = problems[0]
    tensors = {name: (str(t.dtype), list(t.shape)) for name, t in shown.make_inputs(0, "meta").items()}
    in_place = {name for name in shown.output_specs() if name in tensors}
    outputs = [f"{name}: {'rows of it, in place' if name in in_place else f'{spec.dtype} {list(spec.shape)}'}"
               for name, spec in shown.output_specs().items()]  # fmt: skip
    return _EXAMPLE.format(
        family=family,
        task=task,
        maths=inspect.getdoc(sys.modules[type(shown).__module__]),
        summary=inspect.getdoc(type(shown)),
        problem=problem_key(shown),
        inputs=_listed(f"{name}: {dtype.removeprefix('torch.')} {shape}" for name, (dtype, shape) in tensors.items()),
        outputs=_listed(outputs),
        fields=_listed(f"{name} = {value!r}" for name, value in shown.field_values().items()),
        reference=_reference(root, family, task),
        arguments=", ".join(_arguments(problems)),
        bound=", ".join(f'py::arg("{name}")' for name in tensors),
    )


def _arguments(problems: list[Problem]) -> list[str]:
    """Inputs that all problems have, the problem, then inputs that only some have."""
    given = [list(problem.make_inputs(0, "meta")) for problem in problems]
    names = dict.fromkeys(name for names in given for name in names)
    always = [name for name in names if all(name in names for names in given)]
    return [*always, "problem", *(f"{name}=None" for name in names if name not in always)]


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


def _reference(root: Path, family: str, task: str) -> str:
    """The file that says what is right."""
    kernels = (k for k in discover(root).values() if k.family == family and k.origin == "reference")
    return next(f"kernels/{kernel.id}.py" for kernel in kernels if task in kernel.tasks)


if __name__ == "__main__":
    sys.stdout.write(example(Path.cwd(), *sys.argv[1:3]))
