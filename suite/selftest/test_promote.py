"""Promotion: what becomes a claim, what is refused, and that baselines read back, merge and never shrink."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.record.baseline import Claim, baseline_path, format_baseline, read_baseline, read_baselines, write_baseline
from suite.record.promote import PromoteError, promote
from suite.record.schema import Document, RecordError
from suite.record.source import source_state
from suite.selftest.promoted import (
    CLAIM,
    GENERATED,
    HAND,
    VENDOR,
    actions,
    claims,
    lower_bound,
    promote_runs,
    slowed,
    two_runs,
)
from suite.selftest.record_examples import OTHER_PROBLEM, PROBLEM, TIMES_US, make_run, make_verdict

pytestmark = pytest.mark.side_by_side


def test_claims_are_made_against_the_fastest_vendor_and_generated_against_hand(tmp_path: Path) -> None:
    summary = promote_runs(tmp_path, two_runs())
    assert set(actions(summary).values()) == {"added"}
    found = claims(tmp_path)
    against = {(claim.kernel, claim.rival) for claim in found.values()}
    assert against == {(HAND, VENDOR), (GENERATED, VENDOR), (GENERATED, HAND)}
    claim = found[CLAIM]
    assert 1.28 < claim.factor < 1.3  # below what was measured, by the width of the interval
    assert len(claim.evidence["scores"]) == 6
    assert claim.evidence["kernel_us"] == pytest.approx(100, rel=0.01)
    assert claim.evidence["environment"] == {"torch": "2.13.0", "triton": "3.9.0", "driver": "580.1"}
    assert (claim.owner, claim.rival_version, claim.git_sha) == ("somebody", "1.2.3", "a" * 40)
    assert (claim.proven_utc, claim.gpu_uuids) == ("2026-11-02T18:59:02Z", ("GPU-0b0e",))
    assert summary.written[0] == tmp_path / "baselines" / "h200" / "mla.json"


def test_only_what_is_selected_is_claimed(tmp_path: Path) -> None:
    promote_runs(tmp_path, two_runs(), only=(f"> {HAND} @",))
    assert {(claim.kernel, claim.rival) for claim in claims(tmp_path).values()} == {(GENERATED, HAND)}


def test_the_reference_is_the_rival_where_no_vendor_is_correct(tmp_path: Path) -> None:
    runs = two_runs()
    for check in runs[1]["checks"]:
        if check["kernel"] in (VENDOR, "mla/torch_sdpa"):
            check["status"] = "incorrect"
    promote_runs(tmp_path, runs)
    assert {claim.rival for claim in claims(tmp_path).values() if claim.kernel == HAND} == {"mla/reference"}


def finish(**values: Any) -> Callable[[Document], None]:
    return lambda run: run.update(values)


def change(section: str, **values: Any) -> Callable[[Document], None]:
    return lambda run: run[section].update(values)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (change("source", dirty=True), r"had changes that were not committed\. Commit them"),
        (change("source", git_sha=None, dirty=None), "measured without git"),
        (change("source", tree_sha256="d" * 64), r"differ in source\.tree_sha256"),
        (change("device", key="h100"), r"differ in device\.key \(h100, h200\)"),
        (change("device", num_sms=66), r"differ in device\.num_sms"),
        (change("environment", torch="2.12.0"), r"differ in environment\.torch"),
        (finish(unfit="Another process used the device."), "runner was unfit"),
        (finish(exit_status=6), "judged nothing"),
        (finish(finished_utc=None, exit_status=None), r"was cut off\. Finish it with --resume"),
        (finish(launches=[]), "needs 5 launches in 2 separate runs; here are 3 in 2"),
    ],
)
def test_what_spoils_all_evidence_writes_nothing(
    tmp_path: Path, spoil: Callable[[Document], None], sentence: str
) -> None:
    runs = two_runs()
    spoil(runs[1])
    with pytest.raises(PromoteError, match=sentence):
        promote_runs(tmp_path, runs)
    assert not (tmp_path / "baselines").exists()


def test_one_run_given_twice_is_one_run(tmp_path: Path) -> None:
    run = make_run(launches=6)
    with pytest.raises(PromoteError) as caught:
        promote_runs(tmp_path, [run, run])
    given_twice, too_few = caught.value.sentences
    assert "was given twice" in given_twice
    assert "here are 6 in 1" in too_few


@pytest.mark.parametrize(("owner", "reason"), [(" ", None), ("a\nb", None), ("somebody", " ")])
def test_owner_and_reason_must_say_something(tmp_path: Path, owner: str, reason: str | None) -> None:
    with pytest.raises(PromoteError, match=r"an owner|--reason"):
        promote([], tmp_path, owner, reason, lower_bound, lambda *_: None)


def test_a_run_without_git_is_the_clean_commit_with_the_same_files(tmp_path: Path) -> None:
    for name in ("kernels/mla/triton_split_kv.py", "suite/x.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True)
    state, runs = source_state(tmp_path), two_runs()
    for run in runs:
        run["source"].update(git_sha=None, dirty=None, tree_sha256=state["tree_sha256"])
    promote_runs(tmp_path, runs)
    assert {claim.git_sha for claim in claims(tmp_path).values()} == {state["git_sha"]}
    (tmp_path / "suite" / "x.py").write_text("edited")
    with pytest.raises(PromoteError, match="measured without git"):
        promote_runs(tmp_path, runs)


def test_an_incorrect_kernel_is_refused_and_the_others_are_not(tmp_path: Path) -> None:
    runs = two_runs()
    bad = next(check for check in runs[0]["checks"] if check["kernel"] == GENERATED)
    bad.update(status="incorrect", reason="wrong_output")
    summary = promote_runs(tmp_path, runs)
    assert set(claims(tmp_path)) == {CLAIM}
    refused = [outcome for outcome in summary.outcomes if outcome.action == "refused"]
    assert {outcome.claim.partition(" >")[0] for outcome in refused} == {GENERATED}
    assert all("is incorrect (wrong_output) on" in outcome.sentence for outcome in refused)


def test_a_kernel_that_failed_before_it_was_measured_is_named(tmp_path: Path) -> None:
    times = {kernel: time for kernel, time in TIMES_US.items() if kernel != GENERATED}
    runs = two_runs(times_us=times)
    whole = make_run()
    for run in runs:
        run["kernels"][GENERATED] = whole["kernels"][GENERATED]
        failed = next(check for check in whole["checks"] if check["kernel"] == GENERATED)
        run["checks"].append({**failed, "status": "failed", "reason": "crashed"})
    assert actions(promote_runs(tmp_path, runs)) == {CLAIM: "added", GENERATED: "refused"}


def test_what_was_measured_but_not_checked_is_refused(tmp_path: Path) -> None:
    runs = two_runs()
    runs[1]["checks"] = [check for check in runs[1]["checks"] if check["kernel"] != HAND]
    (outcome,) = [outcome for outcome in promote_runs(tmp_path, runs).outcomes if outcome.claim == CLAIM]
    assert "without a passed check" in outcome.sentence


def test_too_little_and_too_uncertain_evidence_refuses_one_claim(tmp_path: Path) -> None:
    runs = two_runs(problems=(PROBLEM, OTHER_PROBLEM))
    for launch in runs[1]["launches"]:
        launch["measurements"] = [m for m in launch["measurements"] if m["problem"] == PROBLEM]
        for times_us in (m["times_us"] for m in launch["measurements"]):
            times_us[HAND] = [t * (1 + launch["index"]) for t in times_us[HAND]]
    sentences = {outcome.claim: outcome.sentence for outcome in promote_runs(tmp_path, runs).outcomes}
    assert "3 launches in 1 runs measured both" in sentences[f"{HAND} > {VENDOR} @ {OTHER_PROBLEM}"]
    assert "Too wide an interval" in sentences[CLAIM]
    assert set(claims(tmp_path)) == {f"{GENERATED} > {VENDOR} @ {PROBLEM}"}


def test_faster_than_light_is_refused(tmp_path: Path) -> None:
    summary = promote_runs(tmp_path, two_runs(times_us=slowed(0.5)))
    (outcome,) = [outcome for outcome in summary.outcomes if outcome.claim == CLAIM]
    assert "speed of light" in outcome.sentence


def test_a_kernel_far_behind_its_rival_is_not_claimed_but_one_nearly_as_fast_is(tmp_path: Path) -> None:
    """Of a claim that exists, the lowering is told as ever."""
    vendor_us, hand_us = TIMES_US[VENDOR], TIMES_US[HAND]
    too_slow, nearly = slowed(1.3 * vendor_us / hand_us), slowed(1.1 * vendor_us / hand_us)
    refused = promote_runs(tmp_path, two_runs(times_us=too_slow))
    assert actions(refused)[CLAIM] == "refused"
    assert actions(promote_runs(tmp_path, two_runs(3, times_us=nearly)))[CLAIM] == "added"
    assert actions(promote_runs(tmp_path, two_runs(5, times_us=too_slow), reason="known"))[CLAIM] == "lowered"


def test_the_same_runs_again_change_nothing(tmp_path: Path) -> None:
    promote_runs(tmp_path, two_runs())
    before = baseline_path(tmp_path, "h200", "mla").read_bytes()
    again = promote_runs(tmp_path, two_runs())
    assert set(actions(again).values()) == {"kept"}
    assert again.written == ()
    assert baseline_path(tmp_path, "h200", "mla").read_bytes() == before


def test_a_factor_rises_freely_and_falls_only_with_a_reason(tmp_path: Path) -> None:
    promote_runs(tmp_path, two_runs(1))
    first = claims(tmp_path)[CLAIM]
    assert actions(promote_runs(tmp_path, two_runs(3, times_us=slowed(0.9))))[CLAIM] == "raised"
    raised = claims(tmp_path)[CLAIM]
    assert raised.factor > first.factor * 1.1
    assert actions(promote_runs(tmp_path, two_runs(5)))[CLAIM] == "kept"
    assert claims(tmp_path)[CLAIM] == raised
    assert actions(promote_runs(tmp_path, two_runs(5), reason="Deterministic now."))[CLAIM] == "lowered"
    lowered = claims(tmp_path)[CLAIM]
    assert (lowered.reason, lowered.proven_utc) == ("Deterministic now.", "2026-11-06T18:59:02Z")
    assert lowered.factor == pytest.approx(first.factor, rel=0.01)
    assert actions(promote_runs(tmp_path, two_runs(7, times_us=slowed(0.9))))[CLAIM] == "raised"
    assert claims(tmp_path)[CLAIM].reason is None


def test_a_refuted_claim_is_lowered_to_a_loose_bound_with_a_reason_only(tmp_path: Path) -> None:
    promote_runs(tmp_path, two_runs())
    first, slower = claims(tmp_path)[CLAIM], two_runs(3, times_us=slowed(1.2))
    assert actions(promote_runs(tmp_path, two_runs(3), reason="Not refuted.", doubt="Loose."))[CLAIM] == "refused"
    assert actions(promote_runs(tmp_path, slower, doubt="Loose."))[CLAIM] == "refused"
    assert claims(tmp_path)[CLAIM] == first
    summary = promote_runs(tmp_path, slower, reason="The rival is faster now.", doubt="Loose.")
    assert actions(summary)[CLAIM] == "lowered"
    assert claims(tmp_path)[CLAIM].factor == pytest.approx(first.factor / 1.2, rel=0.01)
    assert any(outcome.claim == CLAIM and outcome.sentence.endswith(" Loose.") for outcome in summary.outcomes)


def test_a_claim_that_the_gate_proved_again_is_renewed_at_its_factor(tmp_path: Path) -> None:
    promote_runs(tmp_path, two_runs(1))
    old = claims(tmp_path)[CLAIM]
    runs = two_runs(3, times_us=slowed(1.002))
    runs[1]["verdicts"] = [make_verdict(HAND, VENDOR, old.factor)]
    assert actions(promote_runs(tmp_path, runs))[CLAIM] == "renewed"
    new = claims(tmp_path)[CLAIM]
    assert (new.factor, new.evidence, new.proven_utc) == (old.factor, old.evidence, "2026-11-04T18:59:02Z")


def test_claims_on_what_is_gone_or_was_not_measured_stay(tmp_path: Path) -> None:
    promote_runs(tmp_path, two_runs(1))
    (tmp_path / "kernels" / "mla").mkdir(parents=True)
    (tmp_path / "kernels" / f"{HAND}.py").touch()
    only = {kernel: TIMES_US[kernel] for kernel in ("mla/reference", "mla/torch_sdpa")}
    summary = promote_runs(tmp_path, two_runs(3, times_us=only))
    assert actions(summary) == {
        CLAIM: "kept",
        f"{GENERATED} > {VENDOR} @ {PROBLEM}": "missing",
        f"{GENERATED} > {HAND} @ {PROBLEM}": "missing",
    }
    assert len(claims(tmp_path)) == 3


def test_a_baseline_of_another_device_of_that_name_is_foreign(tmp_path: Path) -> None:
    promote_runs(tmp_path, two_runs(1))
    runs = two_runs(3)
    for run in runs:
        run["device"]["num_sms"] = 66
    with pytest.raises(PromoteError, match="num_sms 132, these runs of one with 66"):
        promote_runs(tmp_path, runs)


def test_a_baseline_reads_back_and_has_one_line_of_scores_a_claim(tmp_path: Path) -> None:
    promote_runs(tmp_path, two_runs(problems=(PROBLEM, OTHER_PROBLEM)))
    path = baseline_path(tmp_path, "h200", "mla")
    baseline, text = read_baseline(path), path.read_text()
    assert format_baseline(baseline) == text
    assert write_baseline(tmp_path, baseline).read_text() == text
    assert sum('"launch"' in line for line in text.splitlines()) == len(baseline.claims) == 6
    assert [claim.order for claim in baseline.claims] == sorted(claim.order for claim in baseline.claims)
    (path.parent / "static-triton3.9.json").write_text("{}")
    assert read_baselines(tmp_path, "h200") == list(baseline.claims)
    assert read_baselines(tmp_path, "h100") == []


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda text: text.replace('"factor"', '"facter"', 1), r"\$\.claims\[0\]: .*'facter' is unknown"),
        (lambda text: text[: len(text) // 2], "ends too early"),
        (lambda text: text.replace('"key": "h200"', '"key": "h100"'), r"\$\.device\.key is 'h100', but the file lies"),
        (lambda text: text.replace('"family": "mla"', '"family": "moe"'), "is not of family 'moe'"),
        (lambda text: text.replace("kernelgate.baseline/1", "kernelgate.baseline/2"), "Use the version that wrote it"),
        (lambda text: text.replace(f'"rival": "{VENDOR}"', f'"rival": "{HAND}"'), "again: mla/generated/inductor >"),
        (
            lambda text: text.replace("-000001/1", "-000001/0"),
            r"\$\.claims\[0\]\.evidence\.scores: counts one launch twice",
        ),
    ],
)
def test_a_baseline_with_a_typo_is_named(tmp_path: Path, edit: Callable[[str], str], sentence: str) -> None:
    promote_runs(tmp_path, two_runs())
    path = baseline_path(tmp_path, "h200", "mla")
    path.write_text(edit(path.read_text()))
    with pytest.raises(RecordError, match=sentence) as caught:
        read_baselines(tmp_path, "h200")
    assert str(path) in str(caught.value)


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot name a device"):
        read_baselines(tmp_path, "../h200")


def test_two_branches_that_change_different_claims_merge(tmp_path: Path) -> None:
    promote_runs(tmp_path, two_runs(problems=(PROBLEM, OTHER_PROBLEM)))
    path = baseline_path(tmp_path, "h200", "mla")
    base = read_baseline(path)
    sides = []
    for name, index in (("ours", 0), ("theirs", 5)):
        document = json.loads(path.read_text())
        document["claims"][index].update(factor=1.5, proven_utc="2026-12-01T00:00:00Z")
        document["claims"][index]["evidence"]["scores"][0]["score"] = 0.4
        changed = [Claim.from_json("h200", claim) for claim in document["claims"]]
        side = tmp_path / name
        side.write_text(format_baseline(type(base)(base.device, base.family, tuple(changed))))
        sides.append(side)
    command = ["git", "merge-file", "-p", str(sides[0]), str(path), str(sides[1])]
    path.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert [claim.factor == 1.5 for claim in read_baseline(path).claims] == [True, *[False] * 4, True]
