"""Which launch scores are too weak, or too strange, to claim anything on."""

from __future__ import annotations

import re

import pytest

from suite.commands.promote import doubt

SPREAD = (-0.004, -0.002, 0.0, 0.002, 0.004)


@pytest.mark.parametrize(("scores", "words"), [
    ([0.3 + x for x in SPREAD], "certain to 0.[0-9]+% only, and must be to 0.50%.* about [0-9]+ more launches"),
    ([0.3 + x / 4 for x in (*SPREAD, *SPREAD)], None),
    ([0.3 + x / 9 + mode for x in SPREAD for mode in (0, 0.02)], "two modes, 1.35x and 1.377x"),
])  # fmt: skip
def test_a_claim_that_a_real_loss_would_pass_is_doubted(scores: list[float], words: str | None) -> None:
    found = doubt(scores, "cuda", 300.0)
    assert re.search(words, found or "") if words else found is None
