"""Calls at other lengths, which tell whether a captured graph follows them, leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from kernels.device import Device  # noqa: E402 - after the skip
from kernels.kernel import Kernel, Origin  # noqa: E402
from kernels.mla import layer_reference  # noqa: E402
from kernels.mla._layer_problem import MLALayer  # noqa: E402
from kernels.problem import Inputs, Outputs  # noqa: E402
from suite.device.timer import TimedCall  # noqa: E402
from suite.measure.contestant import Contestant  # noqa: E402
from suite.measure.execute import fixed_checksums  # noqa: E402
from suite.measure.session import Session  # noqa: E402

pytestmark = pytest.mark.side_by_side

LAYER = MLALayer(3, 45, hidden_size=128, num_heads=3, q_lora_rank=64, lengths="uniform", page_size=16)
CPU = Device("cpu", "x86_64", 2, 0, 1, None)


def in_dtype(inputs: Inputs) -> Outputs:
    return {"out": layer_reference.layer(inputs, LAYER)["out"].bfloat16()}


def safety(inputs: Inputs, seen: Inputs, tmp_path: Path) -> bool:
    """Of a graph that has captured `seen`."""
    kernel = Kernel(origin=Origin.HAND, tasks=("layer",), run=lambda inputs, _: in_dtype(inputs))
    outputs = in_dtype(inputs)

    def replay() -> None:
        outputs["out"].copy_(in_dtype(seen)["out"])

    call = TimedCall(dict, before=lambda: None, outputs=outputs, replay=replay)
    contestant = Contestant("layer", kernel, LAYER, inputs, None, 0.0, 0.0, 0.0, [call])
    return Session(LAYER, inputs, CPU, lambda _: {}, tmp_path, {}, 1.0, 1)._graph_safety([contestant])["layer"]


@pytest.mark.parametrize("follows", [True, False])
def test_rows_appended_at_other_lengths_are_put_back(follows: bool, tmp_path: Path) -> None:
    """They are not the rows of the timed calls, so that no kernel may be blamed for them."""
    inputs = LAYER.make_inputs(5, "cpu")
    before = fixed_checksums(LAYER, inputs)
    captured = inputs if follows else inputs | {"seq_lens": inputs["seq_lens"].clone()}
    assert safety(inputs, captured, tmp_path) is follows
    assert fixed_checksums(LAYER, inputs) == before
