"""MLA decode in Triton: split-KV over equal shares of all tokens, then combine.

The maths is problem.py's. Queries of one sequence are rows, `seq_len_q * num_heads` of them, because all share one
latent head. A program owns `BLOCK_H` rows and walks over tiles of `BLOCK_N` tokens. A tile is loaded once: as K for
the scores [BLOCK_H, BLOCK_N] and, its first 512 columns, as V.

Lengths vary, so a split by sequence would leave most of the device waiting for the longest one. Instead the tiles of
all sequences are laid end to end and cut into equal parts, one a program (stream-K; FlashMLA's tile scheduler does
the same). Every program finds its part from `seq_lens` on the device, so a captured graph replays with other lengths.
A sequence that lies within one part is written at once. Of the others each part writes a partial result, already
divided by its own softmax sum, and `_combine` weighs the partial results by their log-sum-exp:

    out = sum_i 2^(lse_i - m) out_i / sum_i 2^(lse_i - m)        m = max_i lse_i, in base 2

On Hopper the first kernel is the one in `_split_kv_hopper` for a 16-bit cache and more than 16 rows, or many tokens. An
fp8 cache is converted to q's dtype here, in registers. From sm_90 `_combine` is launched while `_decode` still runs.

Measured on one H200 (132 SMs; PyTorch 2.11.0, Triton 3.6.0; 2026-11-23): medians of 12 graph replays after a flush.
bf16, page 64, a query of one token; sequences x tokens x heads:

    128 x 4096 x 128            274 us, 532 TFLOP/s      64 x 4096 x 16             87 us, 3.5 TB/s
    64 x U(1k, 8k) x 128        174 us, 540 TFLOP/s      64 x 4096 x 32             84 us, 3.6 TB/s
    1 x 4096 x 128               15 us                   64 x 4096 x 64             88 us, 3.4 TB/s

The 16 heads are of tiles of 16 rows; in `_split_kv_hopper` they have not been timed.

Slower at 128 x 4096 x 128: on Hopper no scores started ahead of the other warpgroup's P.V (288 us) or all (281 us), no
TMA (285 us), both warpgroups in lockstep (346 us); without Gluon 585 us. (block_h, block_n, warps, stages, programs per
SM) that were slower: for 16 heads (16, 16..64, 2..8, 2..6, 1..3) and the same product transposed; for 128 heads
(64, 32, 8, 2..4, 1), (64, 64, 4, 2, 1).

Flash-decoding: https://crfm.stanford.edu/2023/10/12/flashdecoding.html; FlashMLA: https://github.com/deepseek-ai/FlashMLA
"""

from __future__ import annotations

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._split_kv import attend
from ._split_kv_plan import SplitKVPlan, plan


def run(inputs: Inputs, state: SplitKVPlan) -> Outputs:
    """Two launches: attention over equal parts of all tokens, and the combination of partial results."""
    return attend(inputs["q"], inputs["kv_cache"], inputs["block_table"], inputs["seq_lens"], state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), run=run, plan=plan, requires=("triton",), uses_triton=True)
