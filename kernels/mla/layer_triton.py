"""The whole MLA layer in Triton: seven or eight launches, each bound by the weights or the cache that it reads.

The maths is _layer_problem.py's.

    project           W_qkv_a . hidden, its inner dimension split over programs: few columns, many rows to read
    norm_and_append   adds the parts; RMSNorm of both latents, RoPE of the new key, which goes into the cache
    queries           per head W_q_b, RoPE, and W_uk's product in the same program: the un-absorbed query stays in it
    decode            triton_split_kv's two kernels
    values            per head W_uv
    project           W_o, split where its columns alone would not fill the device
    add_parts         adds them

Sums of parts are in float32 and in a fixed order. Positions and pages are read on the device, so a captured graph
replays with other lengths.
"""

from __future__ import annotations

import torch
import triton

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from . import _layer_kernels as kernels
from ._dims import HEAD_DIM, KV_LORA_RANK, QK_NOPE_HEAD_DIM, QK_ROPE_HEAD_DIM, V_HEAD_DIM
from ._layer_plan import LayerPlan, Tile, plan
from ._split_kv import attend

ADDED_AT_ONCE = 1024
"""Elements of a program of `add_parts`."""


def run(inputs: Inputs, state: LayerPlan) -> Outputs:
    """See `_layer_plan.plan` for the choice of every block size."""
    kv_cache, block_table, seq_lens = inputs["kv_cache"], inputs["block_table"], inputs["seq_lens"]
    parts = _project(inputs["hidden"], inputs["w_qkv_a"], state.project, torch.float32, {"DEPENDENT_LAUNCH": False})
    normalised = _norm_and_append(parts, inputs, state)
    q = _queries(normalised, inputs, state)
    attended = attend(q, kv_cache, block_table, seq_lens, state.decode)["out"]
    heads = _values(attended, inputs, state)
    tile, options = state.output, _dependent_launch(heads, state)
    if tile.splits == 1:
        return {"out": _project(heads, inputs["w_o"], tile, heads.dtype, options)[0]}
    parts = _project(heads, inputs["w_o"], tile, torch.float32, options)
    out = heads.new_empty(parts.shape[1:])
    kernels.add_parts[(triton.cdiv(out.numel(), ADDED_AT_ONCE),)](
        parts, out, out.numel(), SPLITS=tile.splits, BLOCK=ADDED_AT_ONCE, num_warps=4, **options
    )
    return {"out": out}


def _project(
    x: torch.Tensor, weight: torch.Tensor, tile: Tile, dtype: torch.dtype, options: dict[str, bool]
) -> torch.Tensor:
    """Parts of x . W^T, [splits, batch, columns]."""
    batch, inner = x.shape
    columns = len(weight)
    parts = x.new_empty((tile.splits, batch, columns), dtype=dtype)
    kernels.project[(triton.cdiv(batch, tile.rows), triton.cdiv(columns, tile.columns), tile.splits)](
        x, weight, parts, batch, columns, inner,
        ROWS=tile.rows, COLUMNS=tile.columns, INNER=tile.inner, SPLITS=tile.splits, IS_EVEN=inner % tile.inner == 0,
        STAGES=tile.num_stages, num_warps=tile.num_warps, **options,
    )  # fmt: skip
    return parts


def _norm_and_append(parts: torch.Tensor, inputs: Inputs, state: LayerPlan) -> torch.Tensor:
    """The normalised latents of the queries, [batch, q_lora_rank]; the new rows go into the cache."""
    kv_cache, block_table = inputs["kv_cache"], inputs["block_table"]
    batch = len(block_table)
    normalised = kv_cache.new_empty((batch, state.q_lora_rank))
    kernels.norm_and_append[(batch, 2)](
        parts, inputs["q_norm"], inputs["kv_norm"], inputs["cos_sin"], block_table, inputs["seq_lens"], normalised,
        kv_cache, batch, block_table.shape[1], state.rms_norm_eps,
        Q_RANK=state.q_lora_rank, Q_RANK_BLOCK=triton.next_power_of_2(state.q_lora_rank), LATENT=KV_LORA_RANK,
        ROPE=QK_ROPE_HEAD_DIM, PAGE_SIZE=kv_cache.shape[1], SPLITS=state.project.splits, num_warps=4,
        **_dependent_launch(kv_cache, state),
    )  # fmt: skip
    return normalised


def _queries(normalised: torch.Tensor, inputs: Inputs, state: LayerPlan) -> torch.Tensor:
    """The absorbed queries, [batch, 1, num_heads, 576]."""
    batch, tile = len(normalised), state.queries
    q = normalised.new_empty((batch, 1, state.num_heads, HEAD_DIM))
    kernels.queries[(triton.cdiv(batch, tile.rows), state.num_heads)](
        normalised, inputs["w_q_b"], inputs["w_kv_b"], inputs["cos_sin"], inputs["seq_lens"], q, batch,
        HEADS=state.num_heads, Q_RANK=state.q_lora_rank, NOPE=QK_NOPE_HEAD_DIM, ROPE=QK_ROPE_HEAD_DIM,
        V_DIM=V_HEAD_DIM, LATENT=KV_LORA_RANK, ROWS=tile.rows, COLUMNS=tile.columns, INNER=tile.inner,
        STAGES=tile.num_stages, num_warps=tile.num_warps, **_dependent_launch(q, state),
    )  # fmt: skip
    return q


def _values(attended: torch.Tensor, inputs: Inputs, state: LayerPlan) -> torch.Tensor:
    """The heads' values side by side, [batch, num_heads * 128]."""
    batch, tile = len(attended), state.values
    heads = attended.new_empty((batch, state.num_heads * V_HEAD_DIM))
    kernels.values[(triton.cdiv(batch, tile.rows), state.num_heads)](
        attended, inputs["w_kv_b"], heads, batch,
        HEADS=state.num_heads, NOPE=QK_NOPE_HEAD_DIM, V_DIM=V_HEAD_DIM, LATENT=KV_LORA_RANK, ROWS=tile.rows,
        INNER=tile.inner, STAGES=tile.num_stages, num_warps=tile.num_warps, **_dependent_launch(heads, state),
    )  # fmt: skip
    return heads


def _dependent_launch(tensor: torch.Tensor, state: LayerPlan) -> dict[str, bool]:
    """Options of a launch, not the first, that may begin before the one before it has ended (NVIDIA, from sm_90)."""
    if state.decode.dependent_launch and not tensor.is_cpu:
        return {"DEPENDENT_LAUNCH": True, "launch_pdl": True}
    return {"DEPENDENT_LAUNCH": False}


KERNEL = Kernel(origin=Origin.HAND, tasks=("layer",), run=run, plan=plan, requires=("triton",), uses_triton=True)
