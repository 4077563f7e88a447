"""The experts of a whole layer.

    y_e(x) = (silu(x . gate_e^T) * (x . up_e^T)) . w2_e^T        gate_e, up_e: rows [0, I) and [I, 2 I) of w13[e]
    out[t] = sum_i topk_weights[t, i] * y_{topk_ids[t, i]}(hidden[t])

    hidden                  [tokens, H]      dtype
    topk_ids, topk_weights  [tokens, slots]  int32, float32; an id of -1 is an expert that is not here and adds nothing
    w13, w2                 [experts, 2 I, H], [experts, H, I]
    out                     [tokens, H]      dtype

With `router` the layer is given router_logits [tokens, num_experts] float32 (and correction_bias) in place of ids and
weights: see `_router_problem`. Weights are in `dtype`, or in 8 bits with a float32 scale for each block of 128 x 128
(w13_scale, w2_scale). Then activations have 8 bits as well: both hidden and what w2 multiplies are quantised by blocks
of 1 x 128, scale = max |block| / largest e4m3, before each product; `_quant.py` defines it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..problem import Cost, Inputs, NullKernel, Problem, TensorSpec, Tolerance, tagged
from ._experts_problem import Experts

if TYPE_CHECKING:
    import torch

ROUTERS = ("given", "softmax", "deepseek")


@dataclass(frozen=True)
class MoELayer(Experts):
    """All experts of a layer on one device."""

    num_local_experts: int = tagged("local", 0)
    """Experts that are on this device, the first ones: a shard of an expert-parallel group. 0: all of them. Choices of
    others have the id -1 and add nothing."""
    shared_experts: int = tagged("shared", 0)
    """Experts that every token uses, with weight 1: further columns of topk_ids, and the last of the weights."""
    router: str = tagged("r", "given")
    """`given`: ids and weights are inputs. `softmax`: from logits, renormalised. `deepseek`: sigmoid, 8 groups, the
    best 4, renormalised, times 2.5."""

    task: ClassVar[str] = "layer"
    activations: ClassVar[tuple[str, ...]] = ("hidden", "topk_ids", "topk_weights")
    distributions: ClassVar[tuple[str, ...]] = ("normal", "peaked")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.router not in ROUTERS:
            raise ValueError(f"MoELayer.router is {self.router!r}; it must be one of {', '.join(ROUTERS)}.")
        if self.router != "given":
            if self.routing != "uniform" or self.num_local_experts or self.shared_experts:
                raise ValueError("A layer with a router draws its own routing and has all of its experts, none shared.")
            groups_of_two = self.num_experts % 8 == 0 and self.num_experts >= 16
            if self.router == "deepseek" and not (groups_of_two and 2 * self.top_k <= self.num_experts):
                raise ValueError(
                    f"MoELayer has {self.num_experts} experts and chooses {self.top_k}; DeepSeek's router wants 8 "
                    "equal groups of two or more, and takes all of a token's experts from 4 of them."
                )
            names = ("router_logits", "correction_bias")[: 1 + (self.router == "deepseek")]
            object.__setattr__(self, "activations", ("hidden", *names))

    @property
    def local_experts(self) -> int:
        """Routed experts that are here."""
        return self.num_local_experts or self.num_experts

    @property
    def stored_experts(self) -> int:
        return self.local_experts + self.shared_experts

    @property
    def slots(self) -> int:
        """Columns of topk_ids."""
        return self.top_k + self.shared_experts

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        inputs = {
            "hidden": torch.empty((self.tokens, self.hidden_size), dtype=getattr(torch, self.dtype), device=device)
        }
        if self.router == "given":
            inputs["topk_ids"] = torch.empty((self.tokens, self.slots), dtype=torch.int32, device=device)
            inputs["topk_weights"] = torch.empty((self.tokens, self.slots), device=device)
        else:
            inputs["router_logits"] = torch.empty((self.tokens, self.num_experts), device=device)
        if self.router == "deepseek":
            inputs["correction_bias"] = torch.empty(self.num_experts, device=device)
        generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)
        inputs |= self._draw_weights(("w13", "w2"), generator)
        if generator:
            self.redraw(inputs, generator)
            inputs["hidden"] *= {"normal": 1.0, "peaked": 4.0}[distribution]
        return inputs

    def redraw(self, inputs: Inputs, generator: torch.Generator) -> None:
        from ._routing import draw_weights, redrawn_ids, redrawn_logits

        inputs["hidden"].normal_(generator=generator)
        if self.router != "given":
            for name, drawn in redrawn_logits(self.tokens, self.num_experts, self.router, generator).items():
                inputs[name].copy_(drawn)
            return
        ids = redrawn_ids(self.tokens, self.num_experts, self.top_k, self.routing, generator, self.local_experts)
        inputs["topk_ids"][:, : self.top_k].copy_(ids.masked_fill(ids >= self.local_experts, -1))
        inputs["topk_weights"][:, : self.top_k].copy_(draw_weights(self.tokens, self.top_k, generator))
        for shared in range(self.shared_experts):
            inputs["topk_ids"][:, self.top_k + shared] = self.local_experts + shared
            inputs["topk_weights"][:, self.top_k + shared] = 1.0

    def output_specs(self) -> dict[str, TensorSpec]:
        return {"out": TensorSpec((self.tokens, self.hidden_size), self.dtype)}

    def tolerances(self) -> dict[str, Tolerance]:
        # bf16: gate, up, h, an expert's result and the sum are each rounded to dtype once: 5 x 2^-9 / sqrt(3) at most
        # in the mean square, 2.5e-3; with silu by itself and weights in dtype, 4.5e-3, and few rows scatter. A large
        # negative gate multiplies its own rounding, by its magnitude, where the result is small.
        # fp8: of those, four come before h is quantised, 2.3e-3. e4m3 values lie 2^-3.5 apart, so one in 40 moves to
        # the next: 2^-3.5 / sqrt(40), 1.4e-2. A block's scale moves as much: 2e-2 together, and twice that is allowed.
        eps = 2**-8 if self.dtype == "bfloat16" else 2**-11
        if self.is_fp8:
            return {"out": Tolerance(atol_rms=40 * 2**-8, rtol=16 * 2**-8, relative_rms=10 * 2**-8)}
        return {"out": Tolerance(atol_rms=8 * eps, rtol=4 * eps, relative_rms=2 * eps)}

    def cost(self, inputs: Inputs) -> Cost:
        from .reference import routed

        ids = routed(inputs, self)[0]
        used, pairs = int(ids[ids >= 0].unique().numel()), int((ids >= 0).sum())
        elements = 3 * self.intermediate_size * self.hidden_size
        return Cost(
            flops=2 * pairs * elements,
            cold_read_bytes=used * self._expert_bytes(),
            write_bytes=self.tokens * self.hidden_size * 2,
            compute_dtype=self.weight_dtype,
        )

    def _expert_bytes(self) -> int:
        return 3 * self._weight_bytes(self.intermediate_size, self.hidden_size)

    def memory_bytes(self) -> int:
        router = self.slots * 8 if self.router == "given" else self.num_experts * 4
        return self.stored_experts * self._expert_bytes() + self.tokens * (self.hidden_size * 4 + router)

    def cut(self) -> Problem:
        """As the others; groups of experts need 32, and of a shard a quarter stays."""
        experts = min(self.num_experts, 32 if self.router == "deepseek" else 16)
        local = max(1, experts // 4) if self.num_local_experts else 0
        return replace(
            self,
            tokens=min(self.tokens, 24),
            hidden_size=min(self.hidden_size, 256),
            intermediate_size=min(self.intermediate_size, 256),
            num_experts=experts,
            num_local_experts=local,
        )

    def null_kernels(self) -> Mapping[str, NullKernel]:
        from ._null_kernels import layer_null_kernels

        return layer_null_kernels(self)
