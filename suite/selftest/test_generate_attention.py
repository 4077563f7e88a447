"""Attention's spaces: the choices by hand are in them, and files written with these are whole."""

from __future__ import annotations

import pytest

from kernels.discover import load_problems, load_spaces
from kernels.problem import Tier
from suite.device.specs import spec_by_key
from suite.selftest.written_files import GPUS, able, check_imports, check_layout, written

pytestmark = pytest.mark.side_by_side

SPACES = {space.template: space for space in load_spaces("attention")}
PLACES = [(name, key) for name, space in SPACES.items() for key in GPUS
          if space.arch in ("", spec_by_key(key).device().arch)]  # fmt: skip
ALLOWED = ("lengths", "prefill_triton_flash")
"""More of the project's modules; the last stands in for Gluon where the interpreter runs."""
GONE = {
    ("decode_split_kv", "mi300x"): ("gdc_wait", "launch_pdl", "dependent"),
    ("decode_split_kv", "h200"): ("waves_per_eu",),
    ("prefill_triton_flash", "mi300x"): ("TensorDescriptor", "TMA:"),
    ("prefill_triton_flash", "h200"): ("waves_per_eu", "KV_HEADS_FASTEST", "cache_mib"),
    ("prefill_gluon_hopper", "h200"): ("ROPE:", "LATE_ROUNDING", "q_rope =", "prefill_items import"),
}


@pytest.mark.parametrize(("template", "key"), PLACES)
def test_the_choice_by_hand_is_one_of_the_space(template: str, key: str) -> None:
    space, device = SPACES[template], spec_by_key(key).device()
    values = space.values(device)
    for problem in able(space, device, load_problems("attention")[0][Tier.CI]):
        chosen = space.by_hand(problem, device)
        assert {name for name, value in chosen.items() if value not in values[name]} == set(), problem.id
        assert space.work(problem, space.made(chosen), device).flops_factor >= 1


@pytest.mark.parametrize(("template", "key"), PLACES)
def test_a_file_with_the_choices_by_hand_is_whole_and_holds_nothing_dead(template: str, key: str) -> None:
    file = written(f"attention/{template}", key)
    for gone in GONE[template, key]:
        assert gone not in file.code, gone
    check_imports(file.text, *ALLOWED)
    check_layout(file.text, "attention", ["check"])
