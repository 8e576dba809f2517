"""An open-ended campaign: anchor items that are drawn anew, error that a promotion keeps, a second look."""

from pathlib import Path

import polars as pl
import pytest
from home import Home

from selfimp_dagster.lifecycle.evaluation.items import items_until
from selfimp_dagster.lifecycle.evaluation.report import read_report
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.lifecycle.next_round import next_round
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.pictures import accuracy_over_rounds
from selfimp_dagster.records import EVALUATIONS, TASKS
from selfimp_dagster.round_key import RoundKey

_CHANGES = {
    "pools": {"anchor_rounds": 1},
    "continuation": {"rounds": None},
    "promotion": {"test": "e_value", "minimum_gain": 0.25},
}
_FIRST, _SECOND = RoundKey("tiny", 0), RoundKey("tiny", 1)


@pytest.fixture(scope="module")
def open_ended(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    """Two rounds, each with anchor items of its own, tested by e-values: to read, not to change."""
    home = Home(tmp_path_factory.mktemp("open-ended") / "installation", tiny_model)
    home.write_campaign(**_CHANGES)
    home.run(str(_FIRST), str(_SECOND))
    return home


def _items(home: Home, key: RoundKey, pool: str) -> set[str]:
    items = home.store.open(key, "eval_report").table("items", TASKS)
    return set(items.filter(pl.col("pool") == pool)["task_id"])


def test_the_anchor_is_drawn_anew_and_both_arms_answer_it(open_ended: Home) -> None:
    first, second = (_items(open_ended, key, "anchor") for key in (_FIRST, _SECOND))
    assert len(second - first) > len(second) / 2
    rows = open_ended.store.open(_SECOND, "eval_report").table("evaluations", EVALUATIONS)
    new = rows.filter(pl.col("item_id").is_in(second - first), pl.col("suite") == "anchor")
    assert set(new["arm"]) == {"incumbent", "candidate"}
    assert not new["reused"].any()


def test_no_item_of_an_earlier_or_later_anchor_is_ever_trained_on(open_ended: Home) -> None:
    policy, _ = read_policy(open_ended.store, _SECOND)
    items = items_until(policy.campaign, 5, open_ended.campaigns)
    assert items["task_id"].is_unique().all()
    for key in (_FIRST, _SECOND):
        assert _items(open_ended, key, "anchor") < set(items["task_id"])
        corpus = open_ended.store.open(key, "generated_corpus").table("tasks", TASKS)
        assert set(items["prompt"]).isdisjoint(corpus["prompt"])


def test_the_ledger_tells_the_anchor_sets_apart_and_the_picture_parts_them(open_ended: Home) -> None:
    ledger = read_ledger(open_ended.store)
    assert ledger["anchor_set"].to_list() == [0, 1]
    rows = ledger.to_dicts()
    of_one_set = [row | {"anchor_set": 0} for row in rows]
    assert accuracy_over_rounds(rows) != accuracy_over_rounds(of_one_set)


def test_a_promotion_keeps_the_error_for_the_next_round(open_ended: Home) -> None:
    first, second = (read_report(open_ended.store, key).verdict for key in (_FIRST, _SECOND))
    assert (first.test, first.promoted, first.alpha) == ("e-value", True, 0.025)
    assert second.alpha == 0.025


def test_no_plan_ends_the_campaign(open_ended: Home) -> None:
    following = next_round(open_ended.store, open_ended.campaigns, "tiny")
    promoted = read_report(open_ended.store, _SECOND).verdict.promoted
    assert following.decision.reason == (
        f"Proceeds: 2 rounds are done and tiny/0001 was {'promoted' if promoted else 'rejected'}."
    )


def test_a_second_look_at_more_items_has_those_of_the_first_among_them(
    open_ended: Home, tmp_path: Path
) -> None:
    home = open_ended.copy_to(tmp_path / "longer")
    before = read_report(home.store, _SECOND).verdict
    seen = _items(home, _SECOND, "fresh")
    home.write_campaign(**_CHANGES | {"pools": {"anchor_rounds": 1, "fresh": 70}})
    with home.instance() as instance:
        result = home.materialize(instance, str(_SECOND), "incumbent_policy", "eval_report")
        assert result.success
    after = read_report(home.store, _SECOND).verdict
    assert seen < _items(home, _SECOND, "fresh")
    assert (after.n, after.alpha) == (before.n + 30, before.alpha)
    assert after.wins >= before.wins
    assert after.losses >= before.losses
