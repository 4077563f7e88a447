"""The router: which experts a token goes to, and what each of them weighs.

    p = softmax(logits)    or    p = sigmoid(logits)
    c = p for softmax,  c = p + correction_bias for sigmoid          what chooses
    grouped: the score of a group is its largest c (softmax) or the sum of its two largest c (sigmoid);
             only experts of the best `top_groups` of `num_groups` equal groups may be chosen
    ids = the top_k experts with the largest c, largest first        weights = p[ids]
    renormalize: weights /= sum(weights)                             weights *= scaling_factor

    router_logits    [tokens, num_experts]   logits_dtype
    correction_bias  [num_experts]           float32, for sigmoid only
    weights          [tokens, top_k]         float32
    ids              [tokens, top_k]         int32

All in float32. Logits are drawn so that no two of the numbers that decide an order are nearly equal (`_routing.py`):
what is right is then independent of rounding, and `ids` must be exact.

Source of the grouped form: DeepSeek-V3, arXiv 2412.19437, and its `MoEGate` (8 groups, the best 4, factor 2.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..problem import Cost, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance, tagged

if TYPE_CHECKING:
    import torch

SCORINGS = ("softmax", "sigmoid")
MOST_EXPERTS_BF16 = 512


@dataclass(frozen=True)
class MoERouter(Problem):
    """One step's routing of `tokens`."""

    tokens: int = tagged("t")
    num_experts: int = tagged("e")
    top_k: int = tagged("k")
    scoring: str = tagged("", "softmax")
    """`softmax`, or `sigmoid` with a correction bias that chooses and does not weigh."""
    renormalize: bool = tagged("renorm", True)
    num_groups: int = tagged("g", 1)
    """Equal groups that the experts fall into."""
    top_groups: int = tagged("tg", 1)
    """Groups that a token's experts may be in."""
    scaling_factor: float = tagged("f", 1.0)
    logits_dtype: str = tagged("", "float32")
    """`float32`, or `bfloat16` for an ungrouped softmax: its logits on a lattice are exact there."""

    family: ClassVar[str] = "moe"
    task: ClassVar[str] = "router"
    residency: ClassVar[Mapping[str, Residency]] = {
        "router_logits": Residency.WARM,
        "correction_bias": Residency.WARM,
    }
    # The bias is drawn anew as well: logits are chosen to go with it.
    activations: ClassVar[tuple[str, ...]] = ("router_logits", "correction_bias")
    plan_inputs: ClassVar[tuple[str, ...]] = ()
    distributions: ClassVar[tuple[str, ...]] = ("normal", "peaked")

    def __post_init__(self) -> None:
        if self.scoring not in SCORINGS:
            raise ValueError(f"MoERouter.scoring is {self.scoring!r}; it must be one of {', '.join(SCORINGS)}.")
        members, rest = divmod(self.num_experts, self.num_groups)
        if rest or self.top_k > self.top_groups * members or self.top_groups > self.num_groups:
            raise ValueError(
                f"{self.num_experts} experts in {self.num_groups} groups, {self.top_groups} of which may be used, "
                f"give no {self.top_k} experts: groups must be equal and hold enough."
            )
        if self.scoring == "sigmoid" and members < 2 and self.num_groups > 1:
            raise ValueError("A group's score is the sum of its two largest: groups need two experts.")
        is_exact = self.scoring == "softmax" and self.num_groups == 1 and self.num_experts <= MOST_EXPERTS_BF16
        if self.logits_dtype != "float32" and not is_exact:
            raise ValueError("Only the logits of an ungrouped softmax over up to 512 experts may be bfloat16.")
        if self.scoring == "softmax":
            object.__setattr__(self, "activations", ("router_logits",))

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        if device == "meta":
            shape = (self.tokens, self.num_experts)
            inputs = {"router_logits": torch.empty(shape, dtype=getattr(torch, self.logits_dtype), device=device)}
            if self.scoring == "sigmoid":
                inputs["correction_bias"] = torch.empty(self.num_experts, device=device)
            return inputs
        return self._draw(torch.Generator(device).manual_seed(seed), {"normal": 1.0, "peaked": 4.0}[distribution])

    def _draw(self, generator: torch.Generator, scale: float) -> Inputs:
        import torch

        from ._routing import draw_router

        drawn = draw_router(self.tokens, self.num_experts, self.num_groups, self.scoring, scale, generator)
        return drawn | {"router_logits": drawn["router_logits"].to(getattr(torch, self.logits_dtype))}

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        for name, drawn in self._draw(generator, 1.0).items():
            inputs[name].copy_(drawn)

    def output_specs(self) -> dict[str, TensorSpec]:
        shape = (self.tokens, self.top_k)
        return {"weights": TensorSpec(shape, "float32"), "ids": TensorSpec(shape, "int32")}

    def tolerances(self) -> dict[str, Tolerance]:
        # float32 throughout: a fast exponential of up to 32 costs 2e-6 (the rounding of its argument), sums less.
        return {
            "weights": Tolerance(rtol=2e-5, relative_rms=1e-5),
            "ids": Tolerance(rtol=0.0, relative_rms=0.0),
        }

    def cost(self, inputs: Inputs) -> Cost:
        return Cost(
            flops=4
            * self.tokens
            * self.num_experts,  # subtract or add, exponential, sum, divide: the least that all do
            cold_read_bytes=0,
            write_bytes=self.tokens * self.top_k * 8,
            compute_dtype="float32",
        )

    def memory_bytes(self) -> int:
        logit_bytes = 4 if self.logits_dtype == "float32" else 2
        return self.tokens * (self.num_experts * logit_bytes + self.top_k * 8) + self.num_experts * 4

    def cut(self) -> Problem:
        return replace(self, tokens=min(self.tokens, 32))

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import router_null_kernels

        return router_null_kernels(self)


def _deepseek(tokens: int, num_experts: int = 256) -> MoERouter:
    return MoERouter(tokens, num_experts, 8, "sigmoid", num_groups=8, top_groups=4, scaling_factor=2.5)


PROBLEMS: Mapping[Tier, tuple[MoERouter, ...]] = {
    Tier.SMOKE: (_deepseek(512),),
    Tier.CI: (
        MoERouter(tokens=2048, num_experts=128, top_k=8, logits_dtype="bfloat16"),
        _deepseek(128),
    ),
    Tier.FULL: (
        *(MoERouter(tokens=t, num_experts=8, top_k=2) for t in (1, 128, 2048, 163840)),
        *(MoERouter(tokens=t, num_experts=128, top_k=8, logits_dtype="bfloat16") for t in (1, 16, 128, 2048, 163840)),
        *(MoERouter(tokens=t, num_experts=128, top_k=4) for t in (1, 128, 2048)),
        *(_deepseek(t) for t in (1, 16, 128, 2048, 163840)),
        *(MoERouter(t, 384, 8, "sigmoid", scaling_factor=2.5) for t in (1, 128, 2048)),
        MoERouter(tokens=2048, num_experts=64, top_k=6, renormalize=False),
        MoERouter(tokens=2048, num_experts=160, top_k=6, renormalize=False, num_groups=8, top_groups=3),
    ),
}

HARD_CASES: tuple[MoERouter, ...] = (
    MoERouter(tokens=37, num_experts=60, top_k=5, renormalize=False, num_groups=5, top_groups=3),
    MoERouter(tokens=19, num_experts=384, top_k=8, scoring="sigmoid", renormalize=False, scaling_factor=2.5),
)
