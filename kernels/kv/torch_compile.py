"""The five tasks by torch.compile: Inductor's C++ on the CPU, its Triton on a GPU.

The maths is problem.py's, written naively. Shapes must not depend on slots, so that padding tokens write what the first
real token writes, to the same place. An e4m3 cache is written as bytes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..device import Device
from ..inductor import compiled, warm_up
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._append_problem import Append
from ._gather_problem import Gather
from ._mla_append_problem import MLAAppend
from ._rope_append_problem import RopeAppend
from ._rope_problem import Rope

Function = Callable[..., Any]


def turned(x: torch.Tensor, cos_sin_cache: torch.Tensor, positions: torch.Tensor, is_neox: bool) -> torch.Tensor:
    """[tokens, heads, head_dim] -> float32."""
    cos, sin = cos_sin_cache[positions].float()[:, None, :].chunk(2, dim=-1)
    rotary_dim = 2 * cos.shape[-1]
    turning, rest = x[..., :rotary_dim].float(), x[..., rotary_dim:].float()
    if is_neox:
        a, b = turning.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)
    a, b = turning[..., 0::2], turning[..., 1::2]
    return torch.cat((torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2), rest), dim=-1)


def write(cache: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor, scale: float, largest: float) -> None:
    """Rows [tokens, ...] into the cache, an e4m3 one seen as bytes; `largest` is 0 for all others."""
    if largest:
        fp8 = torch.float8_e4m3fn if largest > 400 else torch.float8_e4m3fnuz
        rows = (rows.float() / scale).clamp(-largest, largest).to(fp8).view(torch.uint8)
    first = (slots >= 0).int().argmax()
    token = torch.where(slots >= 0, torch.arange(len(slots), device=slots.device), first)
    cache.flatten(0, 1).index_put_((slots[token],), rows[token].to(cache.dtype))


def rope_append(
    inputs: Inputs, k_cache: torch.Tensor, v_cache: torch.Tensor, problem: RopeAppend, largest: float
) -> torch.Tensor:
    """q_out."""
    slots, angles = inputs["slot_mapping"], (inputs["cos_sin_cache"], inputs["positions"])
    write(k_cache, turned(inputs["k"], *angles, problem.is_neox), slots, problem.k_scale, largest)
    write(v_cache, inputs["v"], slots, problem.v_scale, largest)
    return turned(inputs["q"], *angles, problem.is_neox).to(inputs["q"].dtype)


def append(inputs: Inputs, k_cache: torch.Tensor, v_cache: torch.Tensor, problem: Append, largest: float) -> None:
    """Nothing is returned."""
    write(k_cache, inputs["k"], inputs["slot_mapping"], problem.k_scale, largest)
    write(v_cache, inputs["v"], inputs["slot_mapping"], problem.v_scale, largest)


def mla_append(inputs: Inputs, kv_cache: torch.Tensor, problem: MLAAppend, largest: float) -> torch.Tensor:
    """q_out."""
    q_rope, angles = inputs["q_rope"], (inputs["cos_sin_cache"], inputs["positions"])
    k_rope = turned(inputs["k_rope"][:, None], *angles, problem.is_neox)[:, 0]
    row = torch.cat((inputs["latent"].float(), k_rope), dim=-1)
    write(kv_cache, row, inputs["slot_mapping"], problem.kv_scale, largest)
    return turned(q_rope, *angles, problem.is_neox).to(q_rope.dtype)


def rope(inputs: Inputs, problem: Rope) -> tuple[torch.Tensor, ...]:
    """(q_out, k_out)."""
    angles = inputs["cos_sin_cache"], inputs["positions"]
    return tuple(turned(inputs[name], *angles, problem.is_neox).to(inputs[name].dtype) for name in ("q", "k"))


def gather(inputs: Inputs, problem: Gather, num_tokens: int) -> torch.Tensor:
    """out."""
    table, starts = inputs["block_table"], inputs["cu_seqlens"]
    token = torch.arange(num_tokens, device=table.device)
    sequence = (starts[None, 1:] <= token[:, None]).sum(1)
    place = token - starts[sequence]
    page = table[sequence, place // problem.page_size].long()
    rows = inputs["cache"].flatten(0, 1)[page * problem.page_size + place % problem.page_size]
    return (rows.float() * problem.kv_scale).to(getattr(torch, problem.dtype)) if problem.is_fp8 else rows


@functools.cache
def _compiled(problem: Problem, torch_device: str) -> Function:
    functions: dict[type[Problem], Function] = {
        RopeAppend: rope_append, Append: append, MLAAppend: mla_append, Rope: rope, Gather: gather
    }  # fmt: skip
    return compiled(functions[type(problem)])


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> tuple[Function, Problem]:
    """Compilation itself waits for the first `run`."""
    return _compiled(problem, device.torch_name), problem


def run(inputs: Inputs, state: tuple[Function, Any]) -> Outputs:
    """One call of the compiled function; the first one compiles."""
    function, problem = state
    if isinstance(problem, Gather):
        return {"out": function(inputs, problem, problem.tokens)}
    if isinstance(problem, Rope):
        return dict(zip(("q_out", "k_out"), function(inputs, problem), strict=True))
    rest = {name: tensor for name, tensor in inputs.items() if name not in problem.caches}
    caches = [inputs[name] for name in problem.caches]
    largest = torch.finfo(caches[0].dtype).max if problem.is_fp8 else 0.0
    q_out = function(rest, *(c.view(torch.uint8) if problem.is_fp8 else c for c in caches), problem, largest)
    return {} if q_out is None else {"q_out": q_out}


KERNEL = Kernel(
    origin=Origin.GENERATED,
    tasks=("rope_append", "append", "mla_append", "gather", "rope"),
    run=run,
    plan=plan,
    warm_up=warm_up,
)
