"""Wrong kernels that a lax tolerance would accept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from ..problem import Inputs, NullKernel, Outputs
from . import reference
from .problem import AddRMSNorm, MLPBlock, QKNormRopeAppend, QKVProjection, RMSNorm, SwiGLU


def of_block(problem: MLPBlock) -> Mapping[str, NullKernel]:
    """Name -> kernel."""
    half = problem.intermediate_size // 2

    def run(inputs: Inputs, **changed: torch.Tensor) -> Outputs:
        return reference.block({**inputs, **changed}, problem)

    def zeros(inputs: Inputs) -> Outputs:
        return {"out": inputs["x"].float() * 0}

    def residual_only(inputs: Inputs) -> Outputs:
        return {"out": inputs["x"].float()}

    def residual_left_out(inputs: Inputs) -> Outputs:
        wrong = replace(problem, residual=not problem.residual)
        return reference.block(inputs, wrong)

    def norm_left_out(inputs: Inputs) -> Outputs:
        return reference.block(inputs, replace(problem, norm=False))

    def norm_weight_ignored(inputs: Inputs) -> Outputs:
        return run(inputs, norm_weight=torch.ones_like(inputs["norm_weight"]))

    def gate_ignored(inputs: Inputs) -> Outputs:
        linear = 0.5 * (_normed(inputs, problem) @ inputs["w_gate_up"].float()[problem.intermediate_size :].T)
        return _with_residual(inputs, problem, linear @ inputs["w_down"].float().T)

    def gate_and_up_swapped(inputs: Inputs) -> Outputs:
        return run(inputs, w_gate_up=inputs["w_gate_up"].roll(problem.intermediate_size, dims=0))

    def half_of_the_neurons(inputs: Inputs) -> Outputs:
        weight = inputs["w_down"].clone()
        weight[:, half:] = 0
        return run(inputs, w_down=weight)

    kernels = [zeros, residual_only, residual_left_out, gate_ignored, gate_and_up_swapped, half_of_the_neurons]
    return {f.__name__: f for f in ([*kernels, norm_left_out, norm_weight_ignored] if problem.norm else kernels)}


def _normed(inputs: Inputs, problem: MLPBlock) -> torch.Tensor:
    if not problem.norm:
        return inputs["x"].float()
    return reference.rms_normed(inputs["x"], inputs["norm_weight"], problem.epsilon)


def _with_residual(inputs: Inputs, problem: MLPBlock, out: torch.Tensor) -> Outputs:
    return {"out": inputs["x"].float() + out if problem.residual else out}


def of_qkv(problem: QKVProjection) -> Mapping[str, NullKernel]:
    """Name -> kernel."""

    def run(inputs: Inputs, **changed: torch.Tensor) -> Outputs:
        return reference.qkv({**inputs, **changed}, problem)

    def zeros(inputs: Inputs) -> Outputs:
        return {name: value * 0 for name, value in run(inputs).items()}

    def rope_left_out(inputs: Inputs) -> Outputs:
        return run(inputs, positions=inputs["positions"] * 0)

    def positions_off_by_one(inputs: Inputs) -> Outputs:
        return run(inputs, positions=(inputs["positions"] + 1).clamp_max(problem.max_position - 1))

    def norm_weight_ignored(inputs: Inputs) -> Outputs:
        return run(inputs, norm_weight=torch.ones_like(inputs["norm_weight"]))

    def values_are_keys(inputs: Inputs) -> Outputs:
        outputs = run(inputs)
        return {**outputs, "v": outputs["k"]}

    def queries_reversed(inputs: Inputs) -> Outputs:
        outputs = run(inputs)
        return {**outputs, "q": outputs["q"].flip(1)}

    def half_of_the_width(inputs: Inputs) -> Outputs:
        weight = inputs["w_qkv"].clone()
        weight[:, problem.hidden_size // 2 :] = 0
        return run(inputs, w_qkv=weight)

    def qk_norm_left_out(inputs: Inputs) -> Outputs:
        return reference.qkv(inputs, replace(problem, qk_norm=False))

    kernels = [zeros, rope_left_out, positions_off_by_one, norm_weight_ignored, values_are_keys, queries_reversed]
    kernels += [half_of_the_width, qk_norm_left_out] if problem.qk_norm else [half_of_the_width]
    return {f.__name__: f for f in kernels}


def of_qk_append(problem: QKNormRopeAppend) -> Mapping[str, NullKernel]:
    """Name -> kernel. They return the caches' rows as well, and leave the caches as the reference does."""

    def run(inputs: Inputs, **changed: torch.Tensor) -> Outputs:
        outputs = reference.qk_append({**inputs, **changed}, problem)
        rows = problem.updated_rows(inputs)
        return outputs | {name: inputs[name].view(-1, problem.head_dim)[at].float() for name, at in rows.items()}

    def zeros(inputs: Inputs) -> Outputs:
        return {name: value * 0 for name, value in run(inputs).items()}

    def norm_left_out(inputs: Inputs) -> Outputs:
        outputs = run(inputs)
        heads = inputs["qkv"].view(problem.tokens, -1, problem.head_dim)[:, : problem.num_heads]
        return {**outputs, "q": reference.turned(heads, inputs["cos_sin"], inputs["positions"])}

    def rope_left_out(inputs: Inputs) -> Outputs:
        return run(inputs, positions=inputs["positions"] * 0)

    def weights_swapped(inputs: Inputs) -> Outputs:
        return run(inputs, q_norm_weight=inputs["k_norm_weight"], k_norm_weight=inputs["q_norm_weight"])

    def values_left_unwritten(inputs: Inputs) -> Outputs:
        outputs = run(inputs)
        return {**outputs, "v_cache": outputs["v_cache"] * 0}

    def values_are_keys(inputs: Inputs) -> Outputs:
        outputs = run(inputs)
        return {**outputs, "v_cache": outputs["k_cache"]}

    def slots_off_by_one(inputs: Inputs) -> Outputs:
        outputs = run(inputs)
        return {name: value if name == "q" else value.roll(1, dims=0) for name, value in outputs.items()}

    kernels = (
        zeros, norm_left_out, rope_left_out, weights_swapped, values_left_unwritten, values_are_keys, slots_off_by_one,
    )  # fmt: skip
    return {f.__name__: f for f in kernels}


def of_rmsnorm(problem: RMSNorm) -> Mapping[str, NullKernel]:
    """Name -> kernel."""

    def zeros(inputs: Inputs) -> Outputs:
        return {"out": inputs["x"].float() * 0}

    def copied(inputs: Inputs) -> Outputs:
        return {"out": inputs["x"].float()}

    def weight_ignored(inputs: Inputs) -> Outputs:
        return {"out": reference.rms_normed(inputs["x"], torch.ones_like(inputs["weight"]), problem.epsilon)}

    def only_weighted(inputs: Inputs) -> Outputs:
        return {"out": inputs["x"].float() * inputs["weight"].float()}

    def layer_norm(inputs: Inputs) -> Outputs:
        x = inputs["x"].float()
        return {"out": reference.rms_normed(x - x.mean(-1, keepdim=True), inputs["weight"], problem.epsilon)}

    def half_of_the_row(inputs: Inputs) -> Outputs:
        x = inputs["x"].float()
        square = x[:, : problem.hidden_size // 2].square().mean(-1, keepdim=True)
        return {"out": x * torch.rsqrt(square + problem.epsilon) * inputs["weight"].float()}

    kernels = (zeros, copied, weight_ignored, only_weighted, layer_norm, half_of_the_row)
    return {f.__name__: f for f in kernels}


def of_add_rmsnorm(problem: AddRMSNorm) -> Mapping[str, NullKernel]:
    """Name -> kernel: a right sum with a wrong norm, and the reverse."""

    def right(inputs: Inputs) -> Outputs:
        return reference.run(inputs, problem)

    def wrong_norm(null: NullKernel) -> NullKernel:
        return lambda inputs: {**right(inputs), **null({**inputs, "x": right(inputs)["residual_out"]})}

    def residual_ignored(inputs: Inputs) -> Outputs:
        return {**right(inputs), "out": reference.rms_normed(inputs["x"], inputs["weight"], problem.epsilon)}

    def residual_unchanged(inputs: Inputs) -> Outputs:
        return {**right(inputs), "residual_out": inputs["residual"].float()}

    return {name: wrong_norm(null) for name, null in of_rmsnorm(problem).items()} | {
        "residual_ignored": residual_ignored,
        "residual_unchanged": residual_unchanged,
    }


def of_swiglu(problem: SwiGLU) -> Mapping[str, NullKernel]:
    """Name -> kernel."""

    def halves(inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = inputs["gate_up"].float().chunk(2, dim=-1)
        return gate, up

    def zeros(inputs: Inputs) -> Outputs:
        return {"out": halves(inputs)[0] * 0}

    def up_copied(inputs: Inputs) -> Outputs:
        return {"out": halves(inputs)[1].clone()}

    def silu_alone(inputs: Inputs) -> Outputs:
        return {"out": torch.nn.functional.silu(halves(inputs)[0])}

    def halves_swapped(inputs: Inputs) -> Outputs:
        gate, up = halves(inputs)
        return {"out": torch.nn.functional.silu(up) * gate}

    def gelu_instead(inputs: Inputs) -> Outputs:
        gate, up = halves(inputs)
        return {"out": torch.nn.functional.gelu(gate) * up}

    def relu_instead(inputs: Inputs) -> Outputs:
        gate, up = halves(inputs)
        return {"out": torch.relu(gate) * up}

    def interleaved(inputs: Inputs) -> Outputs:
        gate, up = inputs["gate_up"].float().view(problem.tokens, -1, 2).unbind(-1)
        return {"out": torch.nn.functional.silu(gate) * up}

    kernels = (zeros, up_copied, silu_alone, halves_swapped, gelu_instead, relu_instead, interleaved)
    return {f.__name__: f for f in kernels}
