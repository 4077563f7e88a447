"""Wrong kernels that a lax tolerance would accept. In-place outputs come as the rows that `updated_rows` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from ..problem import Inputs, NullKernel, Outputs, Problem
from ._gather_problem import Gather
from ._paged import PagedAppend
from .reference import results, scales, stored

Change = Callable[[Inputs], Inputs]


def rows_left(inputs: Inputs, problem: Problem) -> Outputs:
    """What the reference leaves in all outputs, without writing anything."""
    found = results(inputs, problem)
    for name in problem.caches if isinstance(problem, PagedAppend) else ():
        written = found[name][inputs["slot_mapping"] >= 0]
        values = stored(written, scales(problem)[name], inputs[name].dtype).float()
        found[name] = values.reshape(-1, values.shape[-1])
    return found


def null_kernels(problem: Problem) -> Mapping[str, NullKernel]:
    """Name -> kernel."""
    if isinstance(problem, Gather):
        return _of_gather(problem)
    named: dict[str, NullKernel] = {
        "tokens_shifted": _on_changed(problem, lambda i: _each(i, problem, lambda x: x.roll(1, 0))),
        "a_token_forgotten": _on_changed(problem, lambda i: _each(i, problem, _last_token_zero)),
        "columns_swapped": _on_changed(problem, lambda i: _each(i, problem, lambda x: x.roll(1, -1))),
        "rounded_to_5_bits": _on_changed(problem, lambda i: _each(i, problem, _rounded)),
    }
    for name in problem.output_specs():
        named[f"{name}_zero"] = _with(problem, name, lambda output: output * 0)
        named[f"{name}_halved"] = _with(problem, name, lambda output: output / 2)
    if "positions" in problem.residency:
        named["not_turned"] = _on_changed(problem, lambda i: _angles(i, cos=1.0, sin=0.0))
        named["turned_backwards"] = _on_changed(problem, lambda i: _angles(i, sin=-1.0))
        named["sines_dropped"] = _on_changed(problem, lambda i: _angles(i, sin=0.0))
        named["position_zero"] = _on_changed(problem, lambda i: {**i, "positions": i["positions"] * 0})
        named["next_position"] = _on_changed(problem, lambda i: {**i, "positions": (i["positions"] - 1).clamp_min(0)})
    return named


def _of_gather(problem: Gather) -> Mapping[str, NullKernel]:
    def table(change: Callable[[torch.Tensor], torch.Tensor]) -> NullKernel:
        return _on_changed(problem, lambda i: {**i, "block_table": change(i["block_table"])})

    pages = problem.pages_in_cache
    return {
        "zeros": _with(problem, "out", lambda out: out * 0),
        "mean_of_all": _with(problem, "out", lambda out: out.mean(0, keepdim=True).expand_as(out)),
        "tokens_shifted": _with(problem, "out", lambda out: out.roll(1, 0)),
        "page_before": table(lambda t: (t - 1) % pages),
        "one_page_for_all": table(lambda t: t[:, :1].expand_as(t).contiguous()),
        "pages_in_order": table(lambda t: torch.arange(t.numel(), dtype=t.dtype).view_as(t) % pages),
        "first_half_of_the_cache": table(lambda t: t % max(1, pages // 2)),
    }


def _on_changed(problem: Problem, change: Change) -> NullKernel:
    return lambda inputs: rows_left(change(inputs), problem)


def _with(problem: Problem, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> NullKernel:
    def run(inputs: Inputs) -> Outputs:
        right = rows_left(inputs, problem)
        return {**right, name: change(right[name])}

    return run


def _each(inputs: Inputs, problem: Problem, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
    """Inputs with every activation changed."""
    return {**inputs, **{name: change(inputs[name]) for name in problem.activations}}


def _last_token_zero(x: torch.Tensor) -> torch.Tensor:
    return torch.cat((x[:-1], x[-1:] * 0))


def _rounded(x: torch.Tensor) -> torch.Tensor:
    """Four bits of a mantissa are kept where bf16 has seven: far from what the cache's type would lose."""
    if x.dtype != torch.bfloat16:
        return x
    bits = x.view(torch.int16)
    return ((bits + 4) & ~7).view(torch.bfloat16)


def _angles(inputs: Inputs, cos: float | None = None, sin: float = 1.0) -> Inputs:
    """Inputs with cosines all of one value, and sines times a factor."""
    table = inputs["cos_sin_cache"].clone()
    half = table.shape[-1] // 2
    if cos is not None:
        table[:, :half] = cos
    table[:, half:] *= sin
    return {**inputs, "cos_sin_cache": table}
