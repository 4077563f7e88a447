"""MLA decode done honestly in plain PyTorch, for kernels that are odd or dishonest elsewhere.

All tables become Python numbers and index tensors in `plan`, so that `run` never waits for the device and can be
captured into a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .problem import KV_LORA_RANK, MLADecode

CALLS_OF_CHECKS = 5


@dataclass(frozen=True)
class State:
    """What `plan` decided."""

    problem: MLADecode
    lengths: tuple[int, ...]
    pages: tuple[torch.Tensor, ...]
    """For each sequence its pages in order, int64."""
    hidden: tuple[torch.Tensor, ...]
    """For each sequence bool [seq_len_q, 1, length]: what a query must not see."""


def plan(problem, plan_inputs, device) -> State:
    """Reads the tables once."""
    lengths = tuple(plan_inputs["seq_lens"].tolist())
    table = plan_inputs["block_table"].long()
    pages = tuple(table[b, : -(-n // problem.page_size)].clone() for b, n in enumerate(lengths))
    queries = torch.arange(problem.seq_len_q, device=table.device)
    hidden = tuple(
        (torch.arange(n, device=table.device) > (queries + n - problem.seq_len_q)[:, None])[:, None] for n in lengths
    )
    return State(problem, lengths, pages, hidden)


def gather(kv_cache, pages, length: int) -> torch.Tensor:
    """One sequence's rows of the cache in order: [length, 576] float32."""
    as_bytes = kv_cache.view(torch.uint8).index_select(0, pages)  # index_select knows no 8-bit floats
    return as_bytes.view(kv_cache.dtype).view(-1, kv_cache.shape[-1])[:length].float()


def where_rows_go(cache, state):
    """[rows of the cache, 2]: sequence that a row belongs to, counted from 1, and token; zeros where it is nobody's."""
    places = torch.zeros(cache.shape[0] * cache.shape[1], 2, dtype=torch.long)
    for sequence, (pages, length) in enumerate(zip(state.pages, state.lengths), start=1):
        rows = (pages[:, None] * cache.shape[1] + torch.arange(cache.shape[1])).flatten()[:length]
        places[rows, 0], places[rows, 1] = sequence, torch.arange(length)
    return places


def attend(q, kv, scale: float, hidden=None) -> tuple[torch.Tensor, torch.Tensor]:
    """q [seq_len_q, num_heads, 576], kv [n, 576], both float32 -> out [seq_len_q, num_heads, 512] and lse, float32."""
    scores = (q.reshape(-1, q.shape[-1]) @ kv.T).view(*q.shape[:2], -1) * scale
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - torch.where(lse.isinf(), 0.0, lse)[..., None])
    out = (weights.view(-1, kv.shape[0]) @ kv[:, :KV_LORA_RANK]).view(*q.shape[:2], KV_LORA_RANK)
    return out, lse


def is_timed(calls: int) -> bool:
    """What a cheat goes by: a call is timed if some came before it in its process, or if a graph captures it."""
    return calls > CALLS_OF_CHECKS or (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def empty_outputs(q) -> dict[str, torch.Tensor]:
    """Fresh outputs, unwritten."""
    rows = q.shape[:3]
    return {"out": q.new_empty((*rows, KV_LORA_RANK)), "lse": q.new_empty(rows, dtype=torch.float32)}


def decode(inputs, state: State, outputs=None) -> dict[str, torch.Tensor]:
    """The whole answer, one sequence after the other, into `outputs` where they are given."""
    outputs = outputs or empty_outputs(inputs["q"])
    for b, length in enumerate(state.lengths):
        if length == 0:
            outputs["out"][b].zero_()
            outputs["lse"][b].fill_(float("-inf"))
            continue
        kv = gather(inputs["kv_cache"], state.pages[b], length)
        out, lse = attend(inputs["q"][b].float(), kv, state.problem.softmax_scale, _mask(state, b))
        outputs["out"][b].copy_(out)
        outputs["lse"][b].copy_(lse)
    return outputs


def decode_gathered(q, gathered, state: State) -> dict[str, torch.Tensor]:
    """The whole answer from each sequence's rows as `gather` gives them."""
    outputs = empty_outputs(q)
    outputs["out"].zero_()
    outputs["lse"].fill_(float("-inf"))
    for b, kv in enumerate(gathered):
        if len(kv):
            scale = state.problem.softmax_scale
            outputs["out"][b], outputs["lse"][b] = attend(q[b].float(), kv, scale, _mask(state, b))
    return outputs


def _mask(state: State, b: int):
    return state.hidden[b] if state.problem.seq_len_q > 1 else None
