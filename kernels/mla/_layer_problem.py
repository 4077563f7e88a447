"""The whole MLA layer of one decode step, absorbed: from the hidden state to the output projection.

With W[out, in] as `torch.nn.Linear` stores it, one new token x a sequence, at position t = seq_len - 1, per head h:

    [c_q | c | k_rope] = W_qkv_a . x                                  q_lora_rank + 512 + 64 columns
    row = [rms_norm(c, kv_norm) | rope(k_rope, t)]                    written into the cache at position t
    [q_nope | q_rope] = W_q_b[h] . rms_norm(c_q, q_norm)              128 + 64 columns
    q = [W_uk[h]^T . q_nope | rope(q_rope, t)]                        absorbed: 512 + 64 columns
    o[h] = W_uv[h] . (softmax(a * q . cache^T) . latent)              all tokens up to and with the new one
    out = W_o . [o[0] | o[1] | ...]

    hidden        [batch, hidden_size]                     dtype
    w_qkv_a       [q_lora_rank + 576, hidden_size]         dtype
    q_norm        [q_lora_rank]                            dtype
    w_q_b         [num_heads * 192, q_lora_rank]           dtype
    kv_norm       [512]                                    dtype
    w_kv_b        [num_heads * 256, 512]                   dtype; of every head first W_uk, then W_uv: [128, 512] each
    w_o           [hidden_size, num_heads * 128]           dtype
    cos_sin       [max_seq_len, 64]                        float32: cosines of position t, then sines, 32 each
    kv_cache      [num_pages, page_size, 576]              dtype; the new tokens' rows are written, in place
    block_table   [batch, max_pages]                       int32; entries past a sequence's end are unrelated pages
    seq_lens      [batch]                                  int32; counts the new token, hence at least 1
    out           [batch, hidden_size]                     dtype

rms_norm(x, w) = x / sqrt(mean(x^2) + rms_norm_eps) * w, and `rope` rotates neighbours (2i, 2i + 1), DeepSeek's way:
(x, y) -> (x cos_i - y sin_i, x sin_i + y cos_i). Source: DeepSeek-V3's modelling code and its released weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..lengths import drawn_lengths
from ..problem import Cost, Edit, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance, tagged
from ._dims import HEAD_DIM, KV_LORA_RANK, QK_HEAD_DIM, QK_NOPE_HEAD_DIM, QK_ROPE_HEAD_DIM, SCALE_192, V_HEAD_DIM

if TYPE_CHECKING:
    import torch

    from .problem import MLADecode

LENGTHS = ("equal", "uniform")
ROPE_THETA = 10000.0
WEIGHTS = ("w_qkv_a", "q_norm", "w_q_b", "kv_norm", "w_kv_b", "w_o")


@dataclass(frozen=True)
class MLALayer(Problem):
    """One new token in each of `batch` sequences."""

    batch: int = tagged("b")
    seq_len_kv: int = tagged("s")
    """Tokens of every sequence with the new one, or the parameter of their distribution: see `lengths`."""
    hidden_size: int = tagged("d")
    num_heads: int = tagged("h")
    q_lora_rank: int = tagged("r")
    lengths: str = tagged("", "equal")
    """`equal`, or `uniform`: quantiles of U(s/8, s), in an order that is always the same."""
    page_size: int = tagged("p", 64)
    dtype: str = tagged("", "bfloat16")
    softmax_scale: float = tagged("scale", SCALE_192)
    rms_norm_eps: float = tagged("eps", 1e-6)

    family: ClassVar[str] = "mla"
    task: ClassVar[str] = "layer"
    residency: ClassVar[Mapping[str, Residency]] = {
        "hidden": Residency.WARM,
        **dict.fromkeys((*WEIGHTS, "kv_cache"), Residency.COLD),
        **dict.fromkeys(("cos_sin", "block_table", "seq_lens"), Residency.WARM),
    }
    activations: ClassVar[tuple[str, ...]] = ("hidden",)
    plan_inputs: ClassVar[tuple[str, ...]] = ("block_table", "seq_lens")
    distributions: ClassVar[tuple[str, ...]] = ("normal", "outliers")
    """`outliers`: every 64th column of the hidden state is ten times as large, as in real models."""

    def __post_init__(self) -> None:
        if self.lengths not in LENGTHS:
            raise ValueError(f"MLALayer.lengths is {self.lengths!r}; it must be one of {', '.join(LENGTHS)}.")
        if self.softmax_scale <= 0:
            raise ValueError(f"MLALayer.softmax_scale is {self.softmax_scale}; it must be positive.")

    @property
    def max_pages(self) -> int:
        """Columns of the block table."""
        return math.ceil(self.seq_len_kv / self.page_size)

    def decode_problem(self) -> MLADecode:
        """The attention within: its inputs are the absorbed query, and cache and tables as they are here."""
        from .problem import MLADecode

        return MLADecode(
            self.batch, 1, self.seq_len_kv, self.num_heads, self.lengths, self.page_size, self.dtype, self.dtype,
            self.softmax_scale,
        )  # fmt: skip

    def _weight_shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            "w_qkv_a": (self.q_lora_rank + HEAD_DIM, self.hidden_size),
            "q_norm": (self.q_lora_rank,),
            "w_q_b": (self.num_heads * QK_HEAD_DIM, self.q_lora_rank),
            "kv_norm": (KV_LORA_RANK,),
            "w_kv_b": (self.num_heads * (QK_NOPE_HEAD_DIM + V_HEAD_DIM), KV_LORA_RANK),
            "w_o": (self.hidden_size, self.num_heads * V_HEAD_DIM),
        }

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        from ..paging import draw_block_table

        dtype = getattr(torch, self.dtype)
        inputs = {name: torch.empty(s, dtype=dtype, device=device) for name, s in self._weight_shapes().items()}
        inputs["hidden"] = torch.empty((self.batch, self.hidden_size), dtype=dtype, device=device)
        inputs["cos_sin"] = torch.empty((self.seq_len_kv, QK_ROPE_HEAD_DIM), device=device)
        seq_lens = torch.tensor(drawn_lengths(self.lengths, self.batch, self.seq_len_kv, 1), dtype=torch.int32)
        num_pages = self.batch * self.max_pages
        block_table = torch.empty((self.batch, self.max_pages), dtype=torch.int32, device=device)
        if device != "meta":
            pages = torch.Generator().manual_seed(seed + 1)
            block_table, num_pages = draw_block_table(seq_lens, self.page_size, self.max_pages, pages)
        inputs["kv_cache"] = torch.empty((num_pages, self.page_size, HEAD_DIM), dtype=dtype, device=device)
        inputs |= {"block_table": block_table.to(device), "seq_lens": seq_lens.to(device)}
        if device != "meta":
            self._fill(inputs, torch.Generator(device).manual_seed(seed), distribution)
        return inputs

    def _fill(self, inputs: Inputs, generator: torch.Generator, distribution: str) -> None:
        """Weights that keep what they project at about 1, so that scores spread by about 1; norms around 1."""
        from ._layer_inputs import fill_rope_table, spoil_unused_rows

        for name in WEIGHTS:
            weight = inputs[name]
            is_norm = weight.dim() == 1
            weight.normal_(float(is_norm), 0.1 if is_norm else weight.shape[1] ** -0.5, generator=generator)
        inputs["kv_cache"].normal_(generator=generator)
        inputs["hidden"].normal_(generator=generator)
        if distribution == "outliers":
            inputs["hidden"][:, ::64] *= 10
        fill_rope_table(inputs["cos_sin"], ROPE_THETA)
        spoil_unused_rows(inputs)

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        inputs["hidden"].normal_(generator=generator)

    def edits(self, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
        """Four rows of every weight and angles in use change their sign; of the cache, every sequence gets tokens that
        stand out."""
        from ..angles import edited_angles
        from ._layer_inputs import outstanding_tokens

        weights = {name: inputs[name] for name in WEIGHTS}
        return [
            *super().edits(weights, generator),
            edited_angles(inputs, "cos_sin", inputs["seq_lens"].long() - 1, generator),
            *outstanding_tokens(self, inputs, generator),
        ]

    def updated_rows(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        from ._layer_inputs import new_rows

        return {"kv_cache": new_rows(inputs)}

    def shorten(self, inputs: Inputs, generator: torch.Generator) -> bool:
        import torch

        fraction = torch.rand(self.batch, device=inputs["seq_lens"].device, generator=generator)
        inputs["seq_lens"].copy_((inputs["seq_lens"] * (0.25 + 0.75 * fraction)).ceil().int().clamp_min(1))
        return True

    def output_specs(self) -> dict[str, TensorSpec]:
        return {
            "out": TensorSpec((self.batch, self.hidden_size), self.dtype),
            "kv_cache": TensorSpec((self.batch, HEAD_DIM), self.dtype),
        }

    def tolerances(self) -> dict[str, Tolerance]:
        # `out` may carry nine roundings to dtype: of the query's two products, of its normalised, absorbed and rotated
        # values, of the probabilities, the attention's result, W_uv's product and the last. One has an rms of 0.42 eps;
        # those of the query reach `out` through scores that spread by about 1. Together 1.25 eps, and more by chance
        # in a small output, where one token has most of the weight: of 400 draws of the smallest problem's inputs as
        # timed calls get them, one brought torch.compile's kernel to 3.9 eps in rms, and one to 17.5 eps in an element.
        # A new row carries two: of its product, and of its normalised or rotated value.
        eps = 2**-8 if self.dtype == "bfloat16" else 2**-11
        return {
            "out": Tolerance(atol_rms=24 * eps, rtol=4 * eps, relative_rms=5.5 * eps),
            "kv_cache": Tolerance(atol_rms=8 * eps, rtol=2 * eps, relative_rms=eps),
        }

    def cost(self, inputs: Inputs) -> Cost:
        size, seq_lens = inputs["hidden"].element_size(), inputs["seq_lens"].tolist()
        weights = sum(math.prod(shape) for shape in self._weight_shapes().values())
        products = weights - self.q_lora_rank - KV_LORA_RANK  # every weight but the norms is one side of a product
        attention = sum(seq_lens) * self.num_heads * (HEAD_DIM + KV_LORA_RANK)
        return Cost(
            flops=2 * (self.batch * products + attention),
            cold_read_bytes=size * (weights + sum(n - 1 for n in seq_lens) * HEAD_DIM),
            write_bytes=size * self.batch * (self.hidden_size + HEAD_DIM),
            compute_dtype=self.dtype,
        )

    def memory_bytes(self) -> int:
        weights = sum(math.prod(shape) for shape in self._weight_shapes().values())
        cache = self.batch * self.max_pages * self.page_size * HEAD_DIM
        return 2 * (weights + cache + 2 * self.batch * self.hidden_size) + 4 * self.seq_len_kv * QK_ROPE_HEAD_DIM

    def cut(self) -> Problem:
        """Two sequences and a narrower layer: what is computed of a token's row and head stays as long."""
        return replace(
            self,
            batch=min(self.batch, 2),
            seq_len_kv=min(self.seq_len_kv, 1024),
            hidden_size=min(self.hidden_size, 512),
            num_heads=min(self.num_heads, 4),
            q_lora_rank=min(self.q_lora_rank, 256),
        )

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._layer_null_kernels import null_kernels

        return null_kernels(self)


def deepseek_v3(batch: int, seq_len_kv: int, num_heads: int = 128, lengths: str = "equal") -> MLALayer:
    """DeepSeek-V3's sizes; fewer heads are a tensor-parallel share."""
    return MLALayer(batch, seq_len_kv, 7168, num_heads, 1536, lengths)


PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (MLALayer(batch=4, seq_len_kv=512, hidden_size=512, num_heads=16, q_lora_rank=256),),
    Tier.CI: (deepseek_v3(128, 6144), deepseek_v3(1, 4096)),
    Tier.FULL: (
        *(deepseek_v3(128, s) for s in (512, 1024, 2048, 4096, 6144)),  # AMD challenge 2025
        *(deepseek_v3(b, 4096) for b in (1, 4, 16, 32, 64)),
        *(deepseek_v3(b, 4096, num_heads=16) for b in (1, 64, 128)),
        deepseek_v3(64, 8192, lengths="uniform"),
        deepseek_v3(1, 131072),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    MLALayer(batch=3, seq_len_kv=67, hidden_size=200, num_heads=3, q_lora_rank=72, lengths="uniform", page_size=16),
    MLALayer(batch=18, seq_len_kv=40, hidden_size=136, num_heads=2, q_lora_rank=96, lengths="uniform", dtype="float16",
             softmax_scale=0.05, rms_norm_eps=1e-2),
)  # fmt: skip
