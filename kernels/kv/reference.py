"""The maths in plain fp32 PyTorch: what every other kernel is held against. See problem.py.

`results` computes; `run` then writes in place what belongs into caches.
"""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._append_problem import Append
from ._gather_problem import Gather
from ._mla_append_problem import MLAAppend
from ._paged import PagedAppend
from ._rope_append_problem import RopeAppend
from ._rope_problem import Rope


def rotated(x: torch.Tensor, inputs: Inputs, is_neox: bool) -> torch.Tensor:
    """[tokens, heads, head_dim] -> the same in float32, with the first rotary_dim values of each head turned."""
    angles = inputs["cos_sin_cache"][inputs["positions"]].float()[:, None]  # [tokens, 1, rotary_dim]
    cos, sin = angles.chunk(2, dim=-1)
    rotary_dim = angles.shape[-1]
    turning, rest = x.float().split((rotary_dim, x.shape[-1] - rotary_dim), dim=-1)
    if is_neox:
        a, b = turning.chunk(2, dim=-1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    else:
        a, b = turning[..., 0::2], turning[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    return torch.cat((turned, rest), dim=-1)


def stored(x: torch.Tensor, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """What a cache of this type holds of x, in that type."""
    if dtype.itemsize > 1:
        return x.to(dtype)
    largest = torch.finfo(dtype).max
    return (x.float() / scale).clamp(-largest, largest).to(dtype)


def results(inputs: Inputs, problem: Problem) -> Outputs:
    """Every output by name. Those in place as the rows that all tokens would leave, [tokens, ...], padding as well."""
    if isinstance(problem, RopeAppend):
        return {
            "q_out": rotated(inputs["q"], inputs, problem.is_neox),
            "k_cache": rotated(inputs["k"], inputs, problem.is_neox),
            "v_cache": inputs["v"],
        }
    if isinstance(problem, MLAAppend):
        k_rope = rotated(inputs["k_rope"][:, None], inputs, problem.is_neox)[:, 0]
        row = torch.cat((inputs["latent"].float(), k_rope), dim=-1)
        return {"q_out": rotated(inputs["q_rope"], inputs, problem.is_neox), "kv_cache": row}
    if isinstance(problem, Rope):
        return {f"{name}_out": rotated(inputs[name], inputs, problem.is_neox) for name in ("q", "k")}
    if isinstance(problem, Gather):
        return {"out": gathered(inputs, problem)}
    assert isinstance(problem, Append)
    return {"k_cache": inputs["k"], "v_cache": inputs["v"]}


def gathered(inputs: Inputs, problem: Gather) -> torch.Tensor:
    """[tokens, num_kv_heads, head_dim] float32."""
    cache, table, starts = inputs["cache"], inputs["block_table"].long(), inputs["cu_seqlens"].tolist()
    parts = []
    for b in range(problem.batch):
        length = starts[b + 1] - starts[b]
        pages = table[b, : (length + problem.page_size - 1) // problem.page_size]
        parts.append(cache.view(torch.uint8)[pages].view(cache.dtype).flatten(0, 1)[:length].float())
    return torch.cat(parts) * (problem.kv_scale if problem.is_fp8 else 1.0)


def scales(problem: Problem) -> dict[str, float]:
    """Of every cache by name."""
    if isinstance(problem, MLAAppend):
        return {"kv_cache": problem.kv_scale}
    return {"k_cache": getattr(problem, "k_scale", 1.0), "v_cache": getattr(problem, "v_scale", 1.0)}


def run(inputs: Inputs, problem: Problem) -> Outputs:
    """Writes what belongs into caches, returns the rest in float32."""
    found = results(inputs, problem)
    for name in problem.caches if isinstance(problem, PagedAppend) else ():
        cache, slots = inputs[name], inputs["slot_mapping"]
        values = stored(found.pop(name)[slots >= 0], scales(problem)[name], cache.dtype).contiguous()
        bytes_of_slots = cache.view(-1, values[0].numel()).view(torch.uint8)
        bytes_of_slots[slots[slots >= 0]] = values.flatten(1).view(torch.uint8)
    return found


KERNEL = Kernel(origin=Origin.REFERENCE, tasks=("rope_append", "append", "mla_append", "gather", "rope"), run=run)
