"""What a run is about."""

from __future__ import annotations

from kernels.problem import Tier
from suite.selection import Selection, kernels_root


def test_a_narrowed_selection_knows_one_family_and_all_claims() -> None:
    selection = Selection(kernels_root(), "h200", Tier.CI)
    claims, families = selection.claims, {problem.family for problem in selection.problems.values()}
    assert {"kv", "mla"} <= families
    selection.narrow({"kv"})
    for known in (selection.kernels, selection.problems, selection.hard_cases):
        assert {value.family for value in known.values()} == {"kv"}
    assert selection.claims == claims
    assert any(claim.kernel.startswith("mla/") for claim in claims)  # other families' claims share the error rate
