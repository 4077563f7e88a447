"""The exchange of tokens: rows sorted by expert, and the weighted sum that brings them back.

permute: slot t * top_k + i is the i-th choice of token t. Slots are sorted by expert, those of one expert in order.

    hidden       [tokens, hidden_size]             dtype
    topk_ids     [tokens, top_k]                   int32, none twice in a row
    permuted     [tokens * top_k, hidden_size]     dtype; permuted[rows[t, i]] = hidden[t], copied exactly
    rows         [tokens, top_k]                   int32
    expert_ends  [num_experts]                     int32: rows of expert e are [expert_ends[e - 1], expert_ends[e])

unpermute: out[t] = sum_i topk_weights[t, i] * expert_out[rows[t, i]], in float32

    expert_out    [tokens * top_k, hidden_size]    dtype
    rows          [tokens, top_k]                  int32
    topk_weights  [tokens, top_k]                  float32
    out           [tokens, hidden_size]            dtype
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..problem import Cost, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance, tagged

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Exchange(Problem):
    """What both ways share."""

    tokens: int = tagged("t")
    hidden_size: int = tagged("h")
    num_experts: int = tagged("e")
    top_k: int = tagged("k")
    routing: str = tagged("", "uniform")
    """See `_routing.base_ids`."""
    dtype: str = tagged("", "bfloat16")

    family: ClassVar[str] = "moe"
    plan_inputs: ClassVar[tuple[str, ...]] = ()

    @property
    def slots(self) -> int:
        """Pairs of a token and an expert."""
        return self.tokens * self.top_k

    def _ids(self, generator: torch.Generator) -> torch.Tensor:
        from ._routing import redrawn_ids

        return redrawn_ids(self.tokens, self.num_experts, self.top_k, self.routing, generator)

    def cost(self, inputs: Inputs) -> Cost:
        """No cold input; what is written past the last-level cache bounds the time."""
        outputs = sum(_num_bytes(spec) for spec in self.output_specs().values())
        flops = 2 * self.slots * self.hidden_size if self.task == "unpermute" else 0
        return Cost(flops=flops, cold_read_bytes=0, write_bytes=outputs, compute_dtype="float32")

    def memory_bytes(self) -> int:
        return (self.slots + self.tokens) * self.hidden_size * 2 + self.slots * 8 + self.num_experts * 4

    def cut(self) -> Problem:
        return replace(self, tokens=min(self.tokens, 32), hidden_size=min(self.hidden_size, 256))


@dataclass(frozen=True)
class MoEPermute(_Exchange):
    """Tokens to their experts."""

    task: ClassVar[str] = "permute"
    residency: ClassVar[Mapping[str, Residency]] = {"hidden": Residency.WARM, "topk_ids": Residency.WARM}
    activations: ClassVar[tuple[str, ...]] = ("hidden", "topk_ids")

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        shape = (self.tokens, self.hidden_size)
        hidden = torch.empty(shape, dtype=getattr(torch, self.dtype), device=device)
        topk_ids = torch.empty((self.tokens, self.top_k), dtype=torch.int32, device=device)
        inputs = {"hidden": hidden, "topk_ids": topk_ids}
        if device != "meta":
            self.redraw(inputs, torch.Generator(device).manual_seed(seed))
        return inputs

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        inputs["hidden"].normal_(generator=generator)
        inputs["topk_ids"].copy_(self._ids(generator))

    def output_specs(self) -> dict[str, TensorSpec]:
        return {
            "permuted": TensorSpec((self.slots, self.hidden_size), self.dtype),
            "rows": TensorSpec((self.tokens, self.top_k), "int32"),
            "expert_ends": TensorSpec((self.num_experts,), "int32"),
        }

    def tolerances(self) -> dict[str, Tolerance]:
        exact = Tolerance(rtol=0.0, relative_rms=0.0)  # copies and counts
        return dict.fromkeys(self.output_specs(), exact)

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import permute_null_kernels

        return permute_null_kernels(self)


@dataclass(frozen=True)
class MoEUnpermute(_Exchange):
    """Experts' results back to their tokens."""

    task: ClassVar[str] = "unpermute"
    residency: ClassVar[Mapping[str, Residency]] = {
        "expert_out": Residency.WARM,
        "rows": Residency.WARM,
        "topk_weights": Residency.WARM,
    }
    activations: ClassVar[tuple[str, ...]] = ("expert_out", "rows", "topk_weights")

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        dtype, shape = getattr(torch, self.dtype), (self.tokens, self.top_k)
        inputs = {
            "expert_out": torch.empty((self.slots, self.hidden_size), dtype=dtype, device=device),
            "rows": torch.empty(shape, dtype=torch.int32, device=device),
            "topk_weights": torch.empty(shape, device=device),
        }
        if device != "meta":
            self.redraw(inputs, torch.Generator(device).manual_seed(seed))
        return inputs

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        from ._routing import draw_weights, place_rows

        inputs["expert_out"].normal_(generator=generator)
        inputs["rows"].copy_(place_rows(self._ids(generator)))
        inputs["topk_weights"].copy_(draw_weights(self.tokens, self.top_k, generator))

    def output_specs(self) -> dict[str, TensorSpec]:
        return {"out": TensorSpec((self.tokens, self.hidden_size), self.dtype)}

    def tolerances(self) -> dict[str, Tolerance]:
        # Two roundings to dtype: of each weighted row (some libraries keep it in dtype) and of the sum.
        eps = 2**-8 if self.dtype == "bfloat16" else 2**-11
        return {"out": Tolerance(atol_rms=4 * eps, rtol=2 * eps, relative_rms=eps)}

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import unpermute_null_kernels

        return unpermute_null_kernels(self)


def _num_bytes(spec: TensorSpec) -> int:
    rows, *columns = spec.shape
    size = 4 if spec.dtype in ("int32", "float32") else 2
    return rows * (columns[0] if columns else 1) * size


_SHAPES = ((4096, 8, 2), (2048, 128, 8), (4096, 128, 8), (7168, 256, 8), (2880, 128, 4))

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    Tier.SMOKE: (
        MoEPermute(tokens=256, hidden_size=1024, num_experts=16, top_k=4),
        MoEUnpermute(tokens=256, hidden_size=1024, num_experts=16, top_k=4),
    ),
    Tier.CI: (
        MoEPermute(tokens=2048, hidden_size=7168, num_experts=256, top_k=8),
        MoEUnpermute(tokens=2048, hidden_size=7168, num_experts=256, top_k=8),
    ),
    Tier.FULL: (
        *(
            task(t, h, e, k, routing)
            for task in (MoEPermute, MoEUnpermute)
            for h, e, k in _SHAPES
            for t, routing in (*((t, "uniform") for t in (1, 128, 2048, 16384)), (2048, "skewed"))
        ),
        MoEPermute(163840, 7168, 256, 8),
        MoEUnpermute(163840, 7168, 256, 8),
    ),
}

HARD_CASES: tuple[Problem, ...] = (
    MoEPermute(tokens=67, hidden_size=136, num_experts=33, top_k=3, routing="empties"),
    MoEUnpermute(tokens=1, hidden_size=264, num_experts=5, top_k=5, dtype="float16"),
)
