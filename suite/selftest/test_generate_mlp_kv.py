"""The spaces of mlp and kv: a choice by hand is the hand's plan, values can be drawn, and what is written stands."""

from __future__ import annotations

import json
import random
from dataclasses import fields

import pytest

from kernels.discover import load_problems
from kernels.problem import Problem, Tier
from kernels.space import Space
from suite.device.specs import spec_by_key
from suite.selftest.written_files import GPUS, check_imports, check_layout, spaces, written

pytestmark = pytest.mark.side_by_side

SPACES = spaces("mlp", "kv")
DEVICES = {key: spec_by_key(key).device() for key in GPUS}
DRAWS = 400
GONE = {
    "mlp/triton_block": ("_store_heads", "cos_sin", "HALF_BLOCK", "has_norm", "LOAD_POLICY"),
    "mlp/triton_qkv": ("vector_gemm", "silu", "residual", "GATED"),
    "mlp/triton_rmsnorm": ("gdc_wait", "BLOCK_C", "counters", "PERSISTENT"),
    "mlp/triton_swiglu": ("LOAD_POLICY",),
    "mlp/triton_qk_append": ("LOAD_POLICY",),
    "kv/triton_gather": ("COLUMN_PARTS", "LOAD_POLICY"),
    "kv/triton_rope_append": ("TOKEN_FIRST", "LOAD_POLICY"),
    "kv/triton_mla_append": ("TOKEN_FIRST", "move_columns"),
}
"""What choices by hand make no use of."""
DEVICE_OF = {"mlp/triton_qkv": "mi300x", "kv/triton_mla_append": "mi300x"}
"""For which a file is written; else for H200."""
AMD_LACKS = ("gluon", "launch_pdl", "gdc_", "hopper", "TensorDescriptor", "TMA", "device.kind ==")


def problems(space: Space, family: str, *tiers: Tier) -> list[Problem]:
    by_tier, hard_cases = load_problems(family)
    chosen = [p for tier in tiers for p in by_tier[tier]] + ([] if tiers == (Tier.CI,) else list(hard_cases))
    return [p for p in chosen if p.task in space.tasks]


def test_every_template_has_a_space():
    assert set(GONE) == set(SPACES)


@pytest.mark.parametrize("key", DEVICES)
@pytest.mark.parametrize("name", SPACES)
def test_the_choice_by_hand_is_the_plan(name, key):
    pytest.importorskip("triton", reason="a template imports it")
    from kernels.discover import load_kernel

    space, device, plan = SPACES[name], DEVICES[key], load_kernel(name).plan
    assert plan is not None
    for problem in problems(space, name.partition("/")[0], Tier.CI, Tier.SMOKE):
        by_hand = space.made(json.loads(json.dumps(space.by_hand(problem, device))))
        assert plan(problem, {}, device) == space.plan_from(problem, by_hand, device)


@pytest.mark.parametrize("key", DEVICES)
@pytest.mark.parametrize("name", SPACES)
def test_a_draw_is_often_good_and_always_plannable(name, key):
    """On any problem of the family, since a table gives its choices to sizes between those that were searched."""
    space, device, family = SPACES[name], DEVICES[key], name.partition("/")[0]
    values, drawn = space.values(device), []
    assert list(values) == [f.name for f in fields(space.choice)]
    for problem in problems(space, family, Tier.CI):
        if problem.unsupported_by(device):
            continue
        narrow, source = space.values_for(problem, device), random.Random(problem.id)
        assert all(set(narrow[name]) <= set(values[name]) for name in narrow)
        by_hand = space.by_hand(problem, device)
        assert {n: v for n, v in by_hand.items() if v not in narrow[n]} == {}
        choices = [{n: source.choice(v) for n, v in narrow.items()} for _ in range(DRAWS)]
        good = [space.made(c) for c in choices if space.why_not(problem, space.made(c), device) is None]
        assert len(good) > DRAWS / 50
        for choice in good[:20]:
            assert space.work(problem, choice, device).flops_factor >= 1
        drawn += good[:5]
    for problem in problems(space, family, Tier.SMOKE):
        for choice in drawn:
            space.plan_from(problem, choice, device)


@pytest.mark.parametrize("name", SPACES)
def test_what_is_written_stands_by_itself_and_passes_the_linter(name):
    key = DEVICE_OF.get(name, "h200")
    file = written(name, key)
    check_imports(file.text)
    for gone in GONE[name] + (AMD_LACKS if key == "mi300x" else ()):
        for use in ":=(":
            assert f"{gone}{use}" not in file.code, gone
    check_layout(file.text, file.family)
