"""Every task by torch.compile: Inductor's C++ on the CPU, its Triton beside cuBLAS or hipBLAS on a GPU.

The maths is that of problem.py's modules, written as a model's code has it; norms and rotations in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch.nn.functional import linear, silu

from ..device import Device
from ..inductor import compiled, warm_up
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from .problem import AddRMSNorm, MLPBlock, QKNormRopeAppend, QKVProjection, RMSNorm

Function = Callable[[Inputs, Problem], Outputs]


def _rmsnorm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    values = x.float()
    inverse = torch.rsqrt(values.square().mean(-1, keepdim=True) + epsilon)
    return (values * inverse * weight.float()).to(x.dtype)


def _turned(heads: torch.Tensor, cos_sin: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    cos, sin = cos_sin[positions].unsqueeze(1).chunk(2, dim=-1)
    a, b = heads.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(heads.dtype)


def _heads(
    merged: torch.Tensor, problem: QKVProjection | QKNormRopeAppend
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    counts = (problem.num_heads, problem.num_kv_heads, problem.num_kv_heads)
    q, k, v = merged.view(problem.tokens, -1, problem.head_dim).split(counts, dim=1)
    return q, k, v


def block(inputs: Inputs, problem: Problem) -> Outputs:
    """out [tokens, hidden_size]."""
    assert isinstance(problem, MLPBlock)
    x = inputs["x"]
    h = _rmsnorm(x, inputs["norm_weight"], problem.epsilon) if problem.norm else x
    gate, up = linear(h, inputs["w_gate_up"]).chunk(2, dim=-1)
    activated = (silu(gate.float()) * up.float()).to(x.dtype)
    out = linear(activated, inputs["w_down"])
    return {"out": x + out if problem.residual else out}


def qkv(inputs: Inputs, problem: Problem) -> Outputs:
    """q, k, v [tokens, heads, head_dim]."""
    assert isinstance(problem, QKVProjection)
    h = _rmsnorm(inputs["x"], inputs["norm_weight"], problem.epsilon)
    q, k, v = _heads(linear(h, inputs["w_qkv"]), problem)
    if problem.qk_norm:
        q = _rmsnorm(q, inputs["q_norm_weight"], problem.epsilon)
        k = _rmsnorm(k, inputs["k_norm_weight"], problem.epsilon)
    table, positions = inputs["cos_sin"], inputs["positions"]
    return {"q": _turned(q, table, positions), "k": _turned(k, table, positions), "v": v.contiguous()}


def qk_append(inputs: Inputs, problem: Problem) -> Outputs:
    """q [tokens, num_heads, head_dim]; rows of the caches in place."""
    assert isinstance(problem, QKNormRopeAppend)
    q, k, v = _heads(inputs["qkv"], problem)
    q = _rmsnorm(q, inputs["q_norm_weight"], problem.epsilon)
    k = _rmsnorm(k, inputs["k_norm_weight"], problem.epsilon)
    table, positions, slots = inputs["cos_sin"], inputs["positions"], inputs["slots"]
    inputs["k_cache"].flatten(0, 1)[slots] = _turned(k, table, positions)
    inputs["v_cache"].flatten(0, 1)[slots] = v
    return {"q": _turned(q, table, positions)}


def rmsnorm(inputs: Inputs, problem: Problem) -> Outputs:
    """out [tokens, hidden_size]."""
    assert isinstance(problem, RMSNorm)
    return {"out": _rmsnorm(inputs["x"], inputs["weight"], problem.epsilon)}


def add_rmsnorm(inputs: Inputs, problem: Problem) -> Outputs:
    """out, residual_out [tokens, hidden_size]."""
    assert isinstance(problem, AddRMSNorm)
    total = inputs["x"] + inputs["residual"]
    return {"out": _rmsnorm(total, inputs["weight"], problem.epsilon), "residual_out": total}


def swiglu(inputs: Inputs, problem: Problem) -> Outputs:
    """out [tokens, intermediate_size]."""
    gate, up = inputs["gate_up"].chunk(2, dim=-1)
    return {"out": (silu(gate.float()) * up.float()).to(gate.dtype)}


FUNCTIONS: dict[str, Function] = {f.__name__: f for f in (block, qkv, qk_append, rmsnorm, add_rmsnorm, swiglu)}


@functools.cache
def _compiled(problem: Problem, torch_device: str) -> Function:
    return compiled(FUNCTIONS[problem.task])


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> tuple[Function, Problem]:
    """Compilation itself waits for the first `run`."""
    return _compiled(problem, device.torch_name), problem


def run(inputs: Inputs, state: tuple[Function, Problem]) -> Outputs:
    """One call of the compiled function; the first one compiles."""
    function, problem = state
    return dict(function(inputs, problem))


KERNEL = Kernel(
    origin=Origin.GENERATED,
    tasks=("block", "qkv", "qk_append", "rmsnorm", "add_rmsnorm", "swiglu"),
    run=run,
    plan=plan,
    warm_up=warm_up,
)
