"""How a search ends, what order its answers may come in, and which log it refuses to go on with."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from kernels.discover import problem_key
from suite.generate.search import AHEAD, MOST_LOST, Budget, Search
from suite.generate.trials import LOG_NAME, Trials
from suite.record.schema import RecordError
from suite.selftest.test_generate_search import (
    HEADER,
    MI300X,
    PROBLEMS,
    SPACE,
    WALL_S,
    Here,
    fake,
    go,
    searched,
    table,
)

pytestmark = pytest.mark.side_by_side

pytest.importorskip("optuna", reason="the extra `generate` brings it")


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        ('"score_us":', '"score_us":-', "has a number that no search writes"),
        ('"number":', '"numbers":', "has not the fields of a trial"),
        ('"event":"trial"', '"event":"tried"', "has not the fields of a trial"),
        ('"status":"ranked"', '"status":"failed"', "'failed' with a score"),
        ('"choice":{', '"choice":{"more":1,', "a choice that the space does not know"),
        ('"problem":"mla/', '"problem":"mla/other-', "which is not searched for"),
        ('{"event"', '["event"', "is not JSON"),
    ],
)
def test_an_edited_log_is_refused_with_its_line(tmp_path, was, now, told):
    header = HEADER | {
        "problems": [problem_key(p) for p in PROBLEMS],
        "fields": list(SPACE.by_hand(PROBLEMS[0], MI300X.device())),
    }
    kept = Trials(tmp_path, header, resume=False)
    go(Search(SPACE, "mla", MI300X, PROBLEMS, 0, kept, evaluate=fake), Budget(WALL_S, 6))
    kept.close()
    path = tmp_path / LOG_NAME
    lines = path.read_text().splitlines()
    assert was in lines[1]
    path.write_text("\n".join([lines[0], lines[1].replace(was, now, 1), *lines[2:]]) + "\n")
    with pytest.raises(RecordError, match=f"line 2.*{told}"):
        Trials(tmp_path, header, resume=True)


def test_the_same_trials_whatever_order_they_finish_in(tmp_path):
    """One worker, or many whose answers come in any order: the same choices, the same table."""
    whole = searched(tmp_path / "a", 60)
    with ThreadPoolExecutor(8) as threads:
        kept = Trials(tmp_path / "b", HEADER, resume=False)
        go(Search(SPACE, "mla", MI300X, PROBLEMS, 0, kept, evaluate=slowly), Budget(WALL_S, 60), threads)
        kept.close()
    lines = (tmp_path / "b" / LOG_NAME).read_text().splitlines()
    mixed = [json.dumps(json.loads(line) | {"elapsed_s": 0}) for line in lines]
    assert mixed != whole
    assert sorted(mixed) == sorted(whole)
    assert table(tmp_path / "a") == table(tmp_path / "b")


def slowly(request):
    time.sleep(random.random() / 50)
    return fake(request)


def test_a_choice_that_hangs_holds_up_its_own_problem_only(tmp_path):
    """It is let go once choices of the others were tried three times as far ahead as any problem's own may be."""
    hung, enough = problem_key(PROBLEMS[0]), threading.Event()
    others: Counter[str] = Counter()

    def hang(request):
        if request["problem"] == hung:
            assert enough.wait(60)
        others[request["problem"]] += 1
        if len(others) == 2 and min(others.values()) >= 3 * AHEAD:
            enough.set()
        return fake(request)

    kept = Trials(tmp_path, HEADER, resume=False)
    with ThreadPoolExecutor(2 * AHEAD) as threads:
        go(Search(SPACE, "mla", MI300X, PROBLEMS, 0, kept, evaluate=hang), Budget(WALL_S, 10 * AHEAD), threads)
    kept.close()
    assert enough.is_set()
    assert kept.failures().keys() == {"does_not_compile"}


def test_workers_lost_one_after_the_other_end_the_search(tmp_path):
    kept = Trials(tmp_path, HEADER, resume=False)
    search = Search(SPACE, "mla", MI300X, PROBLEMS, 0, kept, evaluate=fake)
    ended = go(search, Budget(WALL_S, 60), Here(lost=range(20, 60)))
    kept.close()
    assert search.status == 1
    assert not kept.failures().get("lost_worker"), "whoever resumes tries these again"
    assert ended.startswith(f"{MOST_LOST} workers were lost, one after the other.")
    assert table(tmp_path)


def test_a_full_disk_ends_the_search_and_blames_no_choice(tmp_path):
    def full(request):
        if request["choice"]["num_stages"] != 2:
            return fake(request)
        return {"status": "failed", "reason": "disk_full", "sentence": "The disk is full"}

    kept = Trials(tmp_path, HEADER, resume=False)
    search = Search(SPACE, "mla", MI300X, PROBLEMS, 0, kept, evaluate=full)
    ended = go(search, Budget(WALL_S, 60))
    kept.close()
    assert (search.status, ended) == (
        1,
        "The disk is full. Make room for compiled code, then --resume. The best so far is kept.",
    )
    assert "disk_full" not in kept.failures()
