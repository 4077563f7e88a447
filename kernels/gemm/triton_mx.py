"""Linear layers with MXFP4 and MXFP6 weights in Triton: stream-K over transposed tiles; see `_stream_k`.

`tl.dot_scaled` takes 4-bit weights as they are where the device has such products (gfx950, sm_100). Elsewhere, and
for 6 bits, which it does not know, the stored bits of two weights are moved to where two bf16 numbers of a 32-bit word
have their exponents and mantissas:

    s e..e m..m  ->  s 0..0 e..e m..m 0..0, a bf16 number that is 2^(bias - 127) times the stored one

subnormals included, so one multiplication by a power of two sets all codes right. The scale is another one; so that
both are one factor within bf16's range for scales of 2^-63 to 2^63, weights are multiplied 2^63 times too small, and
the sums are set right at the end. 67 million weights at one instruction each are 2 us of an H200: instructions count.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._linear_mx_plan import choice_for, plan_from
from ._stream_k import combine, finish_tile, let_dependents_launch, options, tile_place, workspace
from ._stream_k_plan import StreamKPlan
from .problem import LinearMX

GROUP = tl.constexpr(32)
SHIFT = tl.constexpr(63)
MANTISSA_BITS = {"mxfp4": 1, "mxfp6_e2m3": 3, "mxfp6_e3m2": 2}
EXPONENT_BIAS = {"mxfp4": 1, "mxfp6_e2m3": 1, "mxfp6_e3m2": 3}


@triton.jit
def _from_pairs(pair, BITS: tl.constexpr, MANTISSA: tl.constexpr):
    """int32 whose low 2 * BITS are two codes -> two bf16 numbers, each its value times 2^(bias - 127).

    Four bits: no bit may be set above them.
    """
    REST: tl.constexpr = ((1 << (BITS - 1)) - 1) << (7 - MANTISSA)
    if BITS == 4:
        spread = pair * 0x1001
    else:
        spread = (pair & 0xFFFF) | ((pair << (16 - BITS)) & -0x10000)
    return ((spread << (7 - MANTISSA)) & (REST | REST << 16)) | ((spread << (16 - BITS)) & -0x7FFF8000)


@triton.jit
def _row_bytes(K, BITS: tl.constexpr, ALIGNED: tl.constexpr):
    """Of a row of w; a compiler cannot see in K // 8 that rows begin at multiples of 16 bytes."""
    if ALIGNED:
        return tl.multiple_of(K // 8 * BITS, 16)
    return K // 8 * BITS


@triton.jit
def _load_words(rows, offset, limit, EVEN: tl.constexpr):
    """Integers as int32; 0 past `limit`."""
    if EVEN:
        return tl.load(rows + offset[None, :]).to(tl.int32)
    return tl.load(rows + offset[None, :], mask=(offset < limit)[None, :], other=0).to(tl.int32)


@triton.jit
def _bytes_of(word, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """[ROWS, COLUMNS / 4] int32 -> [ROWS, COLUMNS] int32, its bytes."""
    return (tl.join(tl.join(word, word >> 16), tl.join(word >> 8, word >> 24)) & 0xFF).reshape(ROWS, COLUMNS)


@triton.jit
def _load_fours(words, offset, limit, EVEN: tl.constexpr):
    """int32 words at offsets [COLUMNS] and the three after each: four of [ROWS, COLUMNS], by loads of 16 bytes."""
    every = offset[:, None] + tl.arange(0, 4)[None, :]
    if EVEN:
        loaded = tl.load(words[:, :, None] + every[None, :, :])
    else:
        loaded = tl.load(words[:, :, None] + every[None, :, :], mask=(every < limit)[None, :, :], other=0)
    even, odd = tl.split(loaded.to(tl.int32).reshape(words.shape[0], offset.shape[0], 2, 2))
    word0, word2 = tl.split(even)
    word1, word3 = tl.split(odd)
    return word0, word1, word2, word3


@triton.jit
def _in_turn(a, b, c, d, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """One column of each in turn: [ROWS, COLUMNS]."""
    return tl.join(tl.join(a, c), tl.join(b, d)).reshape(ROWS, COLUMNS)


@triton.jit
def _load_triples(words, step, num_words, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr,
                  WIDE: tl.constexpr):  # fmt: skip
    """Three [ROWS, BLOCK_K / 16] int32: 16 codes of 6 bits lie in three words."""
    if WIDE:  # four times three
        offset = step * (BLOCK_K // 16 * 3) + 12 * tl.arange(0, BLOCK_K // 64)
        a0, a1, a2, b0 = _load_fours(words, offset, num_words, EVEN)
        b1, b2, c0, c1 = _load_fours(words, offset + 4, num_words, EVEN)
        c2, d0, d1, d2 = _load_fours(words, offset + 8, num_words, EVEN)
        word0 = _in_turn(a0, b0, c0, d0, ROWS, BLOCK_K // 16)
        word1 = _in_turn(a1, b1, c1, d1, ROWS, BLOCK_K // 16)
        word2 = _in_turn(a2, b2, c2, d2, ROWS, BLOCK_K // 16)
    else:
        offset = step * (BLOCK_K // 16 * 3) + 3 * tl.arange(0, BLOCK_K // 16)
        word0 = _load_words(words, offset, num_words, EVEN)
        word1 = _load_words(words, offset + 1, num_words, EVEN)
        word2 = _load_words(words, offset + 2, num_words, EVEN)
    return word0, word1, word2


@triton.jit
def _load_pairs(w_rows, step, row_bytes, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BITS: tl.constexpr,
                EVEN: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """[ROWS, BLOCK_K / 2] int32: two codes in the low bits of each; above two of 6 bits is anything."""
    words, num_words = w_rows.to(tl.pointer_type(tl.uint32)), row_bytes // 4
    if BITS == 4:
        word = _load_words(words, step * (BLOCK_K // 8) + tl.arange(0, BLOCK_K // 8), num_words, EVEN)
        return _bytes_of(word, ROWS, BLOCK_K // 2)
    # Three words become four of 24 bits.
    word0, word1, word2 = _load_triples(words, step, num_words, ROWS, BLOCK_K, EVEN, WIDE)
    second = ((word0 >> 24) & 0xFF) | (word1 << 8)
    third = ((word1 >> 16) & 0xFFFF) | (word2 << 16)
    quad = tl.join(tl.join(word0, third), tl.join(second, word2 >> 8)).reshape(ROWS, BLOCK_K // 4)
    return tl.join(quad, quad >> 12).reshape(ROWS, BLOCK_K // 2)


@triton.jit
def _dealt(values, ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, WIDTH: tl.constexpr):
    """Columns, by WIDTHs, in another order: one of each of four units of UNIT in turn.

    So a matrix instruction deals K to threads, and a thread keeps what it decoded of a unit. `_dealt_k` is the order of
    x that goes with it.
    """
    units = values.reshape(ROWS, COLUMNS // (4 * UNIT * WIDTH), 4, UNIT, WIDTH)
    return units.permute(0, 1, 3, 2, 4).reshape(ROWS, COLUMNS)


@triton.jit
def _dealt_k(BLOCK_K: tl.constexpr, UNIT: tl.constexpr):
    """[1, BLOCK_K]: where in a step of K lies what `_dealt` moves there, of pairs in units of UNIT."""
    pair = tl.arange(0, BLOCK_K) // 2
    dealt = pair // (4 * UNIT) * (4 * UNIT) + pair % 4 * UNIT + pair // 4 % UNIT
    k = (dealt * 2 + tl.arange(0, BLOCK_K) % 2)[None, :]
    return tl.max_contiguous(tl.multiple_of(k, [1, 2]), [1, 2])


@triton.jit
def _unpacked(pair, ROWS: tl.constexpr, BLOCK_K: tl.constexpr):
    """[ROWS, BLOCK_K / 2] int32 -> [ROWS, BLOCK_K] bfloat16."""
    halves = tl.join(pair.to(tl.int16), (pair >> 16).to(tl.int16))
    return halves.reshape(ROWS, BLOCK_K).to(tl.bfloat16, bitcast=True)


@triton.jit
def _times_factors(
    pair, scale, OFFSET: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Pairs of bf16 numbers times 2^(scale + OFFSET - 127), both at once: exact. NVIDIA only, unless interpreted."""
    exponent = tl.minimum(tl.maximum(scale.to(tl.int32) + OFFSET, 1), 254)
    factor = tl.broadcast_to((exponent * 0x800080)[:, :, None], [ROWS, BLOCK_K // GROUP, GROUP // 2])
    factor = factor.reshape(ROWS, BLOCK_K // 2)
    if INTERPRETED:
        one = (factor << 16).to(tl.float32, bitcast=True)
        low = ((pair << 16).to(tl.float32, bitcast=True) * one).to(tl.int32, bitcast=True)
        high = ((pair & -0x10000).to(tl.float32, bitcast=True) * one).to(tl.int32, bitcast=True)
        product = (low >> 16) & 0xFFFF | high & -0x10000
    else:
        product = tl.inline_asm_elementwise(
            "{ .reg .b32 zero; mov.b32 zero, 0x80008000; fma.rn.bf16x2 $0, $1, $2, zero; }", "=r,r,r", [pair, factor],
            dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    return product


@triton.jit
def _load_scales(
    scale_rows, step, num_groups, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """[ROWS, BLOCK_K / 32] e8m0 codes; 127, which is 1, past the end. Only loads of whole words can be pipelined."""
    group = step * (BLOCK_K // GROUP) + tl.arange(0, BLOCK_K // GROUP)
    if not EVEN:
        codes = tl.load(scale_rows + group[None, :], mask=(group < num_groups)[None, :], other=127)
    elif WORDS and BLOCK_K % 128 == 0:
        words = scale_rows.to(tl.pointer_type(tl.int32)) + step * (BLOCK_K // 128)
        codes = _bytes_of(tl.load(words + tl.arange(0, BLOCK_K // 128)[None, :]), ROWS, BLOCK_K // GROUP)
    else:
        codes = tl.load(scale_rows + group[None, :])
    return codes


@triton.jit
def _times_scales(values, scale, OFFSET: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr):
    """[ROWS, BLOCK_K] float32 times 2^(scale + OFFSET - 127), to bfloat16: exact."""
    exponent = tl.minimum(tl.maximum(scale.to(tl.int32) + OFFSET, 1), 254)
    factor = (exponent << 23).to(tl.float32, bitcast=True)
    factor = tl.broadcast_to(factor[:, :, None], [ROWS, BLOCK_K // GROUP, GROUP]).reshape(ROWS, BLOCK_K)
    return (values * factor).to(tl.bfloat16)


@triton.jit
def _weights(
    w_rows, w_factor, step, row_bytes, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, BIAS: tl.constexpr, EVEN: tl.constexpr, PAIRED: tl.constexpr, WIDE: tl.constexpr,
    UNIT: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """[ROWS, BLOCK_K] bfloat16: a step's weights times their scales and 2^-SHIFT, `_dealt` if paired."""
    pairs = _from_pairs(_load_pairs(w_rows, step, row_bytes, ROWS, BLOCK_K, BITS, EVEN, WIDE), BITS, MANTISSA)
    if PAIRED:
        pairs = _times_factors(pairs, w_factor, 127 - BIAS - SHIFT, ROWS, BLOCK_K, INTERPRETED)
        w_tile = _unpacked(_dealt(pairs, ROWS, BLOCK_K // 2, UNIT, 1), ROWS, BLOCK_K)
    else:
        values = _unpacked(pairs, ROWS, BLOCK_K).to(tl.float32)
        w_tile = _times_scales(values, w_factor, 127 - BIAS - SHIFT, ROWS, BLOCK_K)
    return w_tile


@triton.jit
def _linear_mx(
    x, w, x_scale, w_scale, out, partials, counters, M, N, K, per_program,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, STAGES: tl.constexpr, SPLIT: tl.constexpr, COMBINE: tl.constexpr, EVEN_K: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr,
    X_SCALED: tl.constexpr, DOT_SCALED: tl.constexpr, PAIRED: tl.constexpr, WIDE: tl.constexpr,
    DEALS_X: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Program p: K steps [p * per_program, ..) of all tiles laid end to end."""
    let_dependents_launch(DEPENDENT_LAUNCH)
    UNIT: tl.constexpr = 4 if BITS == 4 else 8  # pairs that a thread decodes together
    steps, num_groups, row_bytes = tl.cdiv(K, BLOCK_K), K // GROUP, _row_bytes(K, BITS, WIDE and EVEN_K)
    at = tl.program_id(0) * per_program
    end = tl.minimum(at + per_program, tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N) * steps)
    k_within = tl.arange(0, BLOCK_K)
    while at < end:
        tile = at // steps
        first = at - tile * steps
        last = tl.minimum(steps, first + end - at)
        block_m, block_n = tile_place(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        # Rows past the end are those of the last row: they are not stored.
        m = tl.minimum(block_m * BLOCK_M + tl.arange(0, BLOCK_M), M - 1).to(tl.int64)[:, None]
        n = tl.minimum(block_n * BLOCK_N + tl.arange(0, BLOCK_N), N - 1).to(tl.int64)[:, None]
        x_rows, w_rows, w_scales = x + m * K, w + n * row_bytes, w_scale + n * num_groups
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for step in tl.range(first, last, num_stages=STAGES):
            k = (step * BLOCK_K + k_within)[None, :]
            if PAIRED and not X_SCALED and not DEALS_X:
                k = step * BLOCK_K + _dealt_k(BLOCK_K, UNIT)
            x_tile = tl.load(x_rows + k) if EVEN_K else tl.load(x_rows + k, mask=k < K, other=0.0)
            w_factor = _load_scales(w_scales, step, num_groups, BLOCK_N, BLOCK_K, EVEN_K, PAIRED)
            x_factor = None
            if X_SCALED:
                x_scales = x_scale + m * num_groups
                x_factor = _load_scales(x_scales, step, num_groups, BLOCK_M, BLOCK_K, EVEN_K, PAIRED)
            if DOT_SCALED:
                byte = (step * (BLOCK_K // 2) + tl.arange(0, BLOCK_K // 2))[None, :]
                w_tile = tl.load(w_rows + byte) if EVEN_K else tl.load(w_rows + byte, mask=byte < row_bytes, other=0)
                acc = tl.dot_scaled(
                    w_tile, w_factor, "e2m1", x_tile.T, x_factor, "e4m3" if X_SCALED else "bf16", acc=acc
                )
            else:
                w_tile = _weights(
                    w_rows, w_factor, step, row_bytes, BLOCK_N, BLOCK_K, BITS, MANTISSA, BIAS, EVEN_K, PAIRED, WIDE,
                    UNIT, INTERPRETED,
                )  # fmt: skip
                if X_SCALED:
                    x_tile = _times_scales(x_tile.to(tl.float32), x_factor, 0, BLOCK_M, BLOCK_K)
                if PAIRED and (X_SCALED or DEALS_X):
                    x_tile = _dealt(x_tile, BLOCK_M, BLOCK_K, UNIT, 2)
                acc = tl.dot(w_tile, x_tile.T, acc=acc)
        if not DOT_SCALED:
            acc *= 2.0**SHIFT
        finish_tile(
            acc, out, partials, counters, tile, steps, per_program, M, N,
            BLOCK_M, BLOCK_N, GROUP_M, SPLIT, COMBINE, PARTS, ROWS, False,
        )  # fmt: skip
        at += last - first


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> tuple[LinearMX, StreamKPlan]:
    """A tile for the shape, then equal shares."""
    assert isinstance(problem, LinearMX)
    return plan_from(problem, choice_for(problem, device), device)


def run(inputs: Inputs, state: tuple[LinearMX, StreamKPlan]) -> Outputs:
    """One launch, or two."""
    return _run(inputs, *state)


def _run(inputs: Inputs, problem: LinearMX, shares: StreamKPlan) -> Outputs:
    x, w, w_scale = inputs["x"], inputs["w"], inputs["w_scale"]
    (m, k), n = x.shape, len(w)
    out = torch.empty((m, n), dtype=getattr(torch, shares.out_dtype), device=x.device)
    partials, counters = workspace(shares, out)
    is_interpreted = out.is_cpu
    _linear_mx[(shares.num_programs,)](
        x, w, inputs.get("x_scale"), w_scale, out, partials, counters, m, n, k, shares.per_program,
        BITS=problem.row_bytes * 8 // problem.k, MANTISSA=MANTISSA_BITS[problem.w_format],
        BIAS=EXPONENT_BIAS[problem.w_format], X_SCALED="x_scale" in inputs, DOT_SCALED=shares.unpack == "scaled",
        PAIRED=shares.unpack == "paired", WIDE=shares.wide, DEALS_X=shares.deals_x, INTERPRETED=is_interpreted,
        **options(shares, k, is_interpreted),
    )  # fmt: skip
    combine(shares, partials, out)
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("linear_mx",), run=run, plan=plan, requires=("triton",), uses_triton=True)
