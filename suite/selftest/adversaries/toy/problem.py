"""out = x . w in float32, x [rows, 256], w [256, 512]: what float32 promises is what is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..problem import Cost, Inputs, NullKernel, Problem, Residency, TensorSpec, Tier, Tolerance, tagged


@dataclass(frozen=True)
class Product(Problem):
    """One product."""

    rows: int = tagged("n")
    family: ClassVar[str] = "toy"
    task: ClassVar[str] = "product"
    residency: ClassVar[Mapping[str, Residency]] = {"x": Residency.WARM, "w": Residency.COLD}
    activations: ClassVar[tuple[str, ...]] = ("x",)
    plan_inputs: ClassVar[tuple[str, ...]] = ()

    def make_inputs(self, seed: int, device: str, distribution: str = "normal") -> Inputs:
        import torch

        generator = torch.Generator(device).manual_seed(seed)
        x = torch.randn(self.rows, 256, generator=generator, device=device)
        return {"x": x, "w": torch.randn(256, 512, generator=generator, device=device)}

    def redraw(self, inputs: Inputs, generator) -> None:
        inputs["x"].normal_(generator=generator)

    def output_specs(self) -> dict[str, TensorSpec]:
        return {"out": TensorSpec((self.rows, 512), "float32")}

    def tolerances(self) -> dict[str, Tolerance]:
        # A float32 sum of 256 products in any order errs by about 1e-7 of its size; TF32 and bf16x2 by 3e-4 and 4e-6.
        return {"out": Tolerance(rtol=0.0, relative_rms=1e-6, atol_rms=1e-5)}

    def cost(self, inputs: Inputs) -> Cost:
        return Cost(2 * self.rows * 256 * 512, 4 * 256 * 512, 4 * self.rows * 512, "float32")

    def memory_bytes(self) -> int:
        return 4 * (self.rows * 256 + 256 * 512 + self.rows * 512)

    def null_kernels(self) -> Mapping[str, NullKernel]:
        return {}


PROBLEMS = {Tier.SMOKE: (Product(512),), Tier.CI: (Product(512), Product(640)), Tier.FULL: (Product(512),)}
HARD_CASES = (Product(1), Product(77))
