"""Two rounds side by side."""

import polars as pl
import pytest
from home import Home

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.comparison import compare
from selfimp_dagster.lifecycle.evaluation.statistics import mcnemar_exact
from selfimp_dagster.records import EVALUATIONS, TRAINING
from selfimp_dagster.round_key import RoundKey

_FIRST, _SECOND = RoundKey("tiny", 0), RoundKey("tiny", 1)


def shared_answers(home: Home, first: RoundKey, second: RoundKey) -> pl.DataFrame:
    """Anchor and fresh items that the candidates of both rounds answered, each once, with both scores."""
    answers = [
        home.store.open(key, "eval_report")
        .table("evaluations", EVALUATIONS)
        .filter(pl.col("arm") == "candidate", pl.col("suite") != "guard")
        .select("suite", "item_id", "score")
        for key in (first, second)
    ]
    return answers[0].join(answers[1], on=["suite", "item_id"], suffix="_second").unique("item_id")


def test_the_candidates_are_compared_on_the_items_that_both_answered(two_rounds: Home) -> None:
    both = shared_answers(two_rounds, _FIRST, _SECOND)
    found = compare(two_rounds.store, _FIRST, _SECOND)
    assert found.n == both.height >= 60  # the anchor, and what two draws of fresh items have in common
    assert found.low <= found.gain <= found.high
    assert ("anchor", "learning", 60) in {(skill.suite, skill.skill, skill.n) for skill in found.skills}
    assert ("guard", "keeping", 20) in {(skill.suite, skill.skill, skill.n) for skill in found.skills}


def test_a_worse_candidate_is_told_by_how_much(finished: Home) -> None:
    branch = RoundKey("tiny", 2)
    finished.write_campaign(recipe={"optimization": {"learning_rate": 1e-9, "start_from": "base"}})
    finished.run(str(branch), parent=str(_FIRST))
    both = shared_answers(finished, _SECOND, branch)
    losses = both.filter(pl.col("score_second") < pl.col("score")).height
    wins = both.filter(pl.col("score_second") > pl.col("score")).height
    found = compare(finished.store, _SECOND, branch)
    assert (found.n, found.wins, found.losses) == (both.height, wins, losses)
    assert losses > 20, "a candidate that learnt nothing answers as the base model"
    assert found.gain == pytest.approx((wins - losses) / found.n)
    assert found.high < 0
    assert found.sentence.endswith(f"{_SECOND} is the better one.")
    assert found.p_value == mcnemar_exact(wins, losses) > 0.5


def test_a_round_differs_from_itself_in_nothing(two_rounds: Home) -> None:
    found = compare(two_rounds.store, _FIRST, _FIRST)
    assert (found.n, found.wins, found.losses, found.gain, found.p_value) == (100, 0, 0, 0.0, 1.0)
    assert (found.recipe, found.made) == ((), ())
    assert found.recipe_sentence == "Both followed the same recipe."
    assert [(rows.skill, rows.first, rows.second) for rows in found.rows] == [("learning", 0, 0)]
    assert found.sentence.endswith("these items do not tell which is better.")


def test_a_round_is_on_the_line_of_those_that_follow_it(two_rounds: Home) -> None:
    found = compare(two_rounds.store, _FIRST, _SECOND)
    assert found.lineage_sentence == f"{_FIRST} is on the line of {_SECOND}."


def test_branches_are_told_apart_by_recipe_run_configuration_and_rows(finished: Home) -> None:
    branch = RoundKey("tiny", 2)
    finished.run(str(branch), parent=str(_FIRST), recipe={"optimization": {"epochs": 1}})
    config = {"ops": {"refined_outputs": {"config": {"tasks": 4}}}}
    with finished.instance() as instance:
        stages = ("refined_outputs", "eval_report")
        assert finished.materialize(instance, str(branch), *stages, config=config).success
    found = compare(finished.store, _SECOND, branch)
    assert [(d.field, d.first, d.second) for d in found.recipe] == [("optimization.epochs", "4.0", "1.0")]
    assert {d.field for d in found.made} == {"run configuration of refined_outputs", "seed"}
    rows = [
        set(finished.store.open(key, "checkpoint").table("training", TRAINING)["sample_id"])
        for key in (_SECOND, branch)
    ]
    (learning,) = found.rows
    assert learning.both == len(rows[0] & rows[1])
    assert learning.first + learning.both == len(rows[0])
    assert learning.second + learning.both == len(rows[1])


def test_rounds_under_different_harnesses_are_refused_with_what_differs(finished: Home) -> None:
    finished.write_campaign(evaluation={"max_new_tokens": 5})
    finished.run(str(_SECOND))
    with pytest.raises(SelfimpError, match=r"different harnesses: sampling\.max_new_tokens 4 and 5"):
        compare(finished.store, _FIRST, _SECOND)


def test_an_unfinished_round_is_one_clear_message(two_rounds: Home) -> None:
    with pytest.raises(SelfimpError, match="no such artifact"):
        compare(two_rounds.store, _FIRST, RoundKey("tiny", 7))
