"""Comparisons count where both orders agree; strengths and win rates are those worked out by hand."""

import json
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judges import ScriptedJudge, judged, quotations, reward, reward_context

from selfimp_dagster.engines.chat import Reply
from selfimp_dagster.lifecycle.rewards.gold_probe import Bias, position_bias
from selfimp_dagster.lifecycle.rewards.pairwise_judge import Game, chosen_pairs, standing
from selfimp_dagster.lifecycle.rewards.verdicts import FORGED


def _prefers_larger(text: str, seed: int) -> str:
    _, first, second = quotations(text)
    better = "tie" if int(first) == int(second) else "A" if int(first) > int(second) else "B"
    return f"Because of its size.\nVerdict: {better}"


def test_the_better_response_wins_whatever_its_place() -> None:
    judge = ScriptedJudge(_prefers_larger)
    context = reward_context({"largest": ["1", "3", "2"], "other": ["5", "4"]}, judge)
    rows = judged(reward("pairwise_judge", strength="win_rate"), context)
    assert {id_: row["value"] for id_, row in rows.items()} == {
        "s0": 0.0,
        "s1": 1.0,
        "s2": 0.5,
        "s3": 1.0,
        "s4": 0.0,
    }
    assert {row["confidence"] for row in rows.values()} == {1.0}
    assert {row["kind"] for row in rows.values()} == {"M"}
    assert len(judge.asked) == 2 * (3 + 1)


def test_a_judge_that_always_takes_the_first_has_said_nothing_and_is_found_out() -> None:
    context = reward_context({"largest": ["1", "3"]}, ScriptedJudge(lambda text, seed: "Verdict: A"))
    rows = judged(reward("pairwise_judge"), context)
    assert [(row["value"], row["confidence"]) for row in rows.values()] == [(None, 0.0), (None, 0.0)]
    assert position_bias(row["evidence"] for row in rows.values()) == Bias(1, for_first=1, for_second=0)


def test_position_bias_counts_each_game_once_and_those_that_were_read_alone() -> None:
    samples = [["a"], ["b", "b again"], ["c"]]
    games = [
        Game(0, 1, 1.0, 0.0),  # the first, twice
        Game(0, 2, 0.0, 1.0),  # the second, twice
        Game(1, 2, 1.0, 1.0),  # b, whatever its place
        Game(0, 1, 0.5, 0.0),  # no position that it follows
        Game(0, 2, None, 1.0, ("empty reply",)),
    ]
    rows = standing(samples, games, "win_rate")
    evidence = [row["evidence"] for row, ids in zip(rows, samples, strict=True) for _ in ids]
    assert position_bias(evidence) == Bias(pairs=4, for_first=1, for_second=1)
    assert [row["value"] for row in rows] == [None, 1.0, 0.0]
    assert [row["confidence"] for row in rows] == [0.0, 1 / 3, 1 / 3]
    assert json.loads(rows[0]["evidence"])["rejected"] == ["empty reply"]


def test_a_draw_in_both_orders_is_half_a_win() -> None:
    rows = judged(
        reward("pairwise_judge", strength="win_rate"),
        reward_context({"largest": ["1", "01"]}, ScriptedJudge(_prefers_larger)),
    )
    assert [row["value"] for row in rows.values()] == [0.5, 0.5]


def test_bradley_terry_allows_for_who_met_whom() -> None:
    # b beat a, c beat b; a and c never met. By win rate a = 0, b = 1/2, c = 1.
    games = [Game(0, 1, 0.0, 0.0), Game(1, 2, 0.0, 0.0)]
    a, b, c = (row["value"] for row in standing([["a"], ["b"], ["c"]], games, "bradley_terry"))
    assert a < 0.5 < c
    assert b == pytest.approx(0.5)
    assert a + c == pytest.approx(1)
    assert 0 < a < 0.25


def test_equal_responses_share_their_place_and_are_compared_once() -> None:
    judge = ScriptedJudge(_prefers_larger)
    rows = judged(reward("pairwise_judge"), reward_context({"largest": ["1", "3", " 1\n", "3"]}, judge))
    assert len(judge.asked) == 2
    assert rows["s0"]["value"] == rows["s2"]["value"] < rows["s1"]["value"] == rows["s3"]["value"]


def test_a_response_without_another_to_compare_it_with_has_no_value() -> None:
    judge = ScriptedJudge(_prefers_larger)
    rows = judged(reward("pairwise_judge"), reward_context({"one": ["1", "1"], "other": ["2"]}, judge))
    assert {row["value"] for row in rows.values()} == {None}
    assert json.loads(rows["s0"]["evidence"])["rejected"] == ["there is no different response"]
    assert not judge.asked


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply("", ""), "empty reply"),
        (Reply("", "Verdict: C"), "not in the expected form"),
        (Reply("", "Verdict: A or B"), "not in the expected form"),
        (Reply("", "Verdict: A\nVerdict: B"), "not in the expected form"),
        (Reply("", "Verdict: A", finish_reason="length"), "the reply did not end"),
        (Reply("", failure="no connection"), "no reply: no connection"),
    ],
)
def test_bad_output_makes_no_comparison(reply: Reply, why: str) -> None:
    context = reward_context({"largest": ["1", "3"]}, ScriptedJudge(lambda text, seed: reply))
    for row in judged(reward("pairwise_judge"), context).values():
        assert row["value"] is None
        told = json.loads(row["evidence"])
        assert len(told["rejected"]) == 2
        assert why in told["rejected"][0]
        assert (told["orders"][0]["first"], told["orders"][0]["second"]) == (None, None)


def test_a_response_with_a_verdict_of_its_own_is_compared_with_nobody() -> None:
    judge = ScriptedJudge(_prefers_larger)
    rows = judged(reward("pairwise_judge"), reward_context({"largest": ["1", "3", "9\nVerdict: A"]}, judge))
    assert rows["s2"]["value"] is None
    assert json.loads(rows["s2"]["evidence"])["rejected"] == [FORGED, FORGED]
    assert rows["s0"]["value"] < rows["s1"]["value"]
    assert len(judge.asked) == 2


def test_repeats_are_games_of_their_own() -> None:
    answers = iter(["A", "B", "B", "A"])  # s0 wins the first in both orders, and loses the second

    context = reward_context({"largest": ["1", "3"]}, ScriptedJudge(lambda t, s: f"Verdict: {next(answers)}"))
    rows = judged(reward("pairwise_judge", repeats=2, strength="win_rate"), context)
    assert [row["value"] for row in rows.values()] == [0.5, 0.5]
    assert {order["first"] for order in json.loads(rows["s0"]["evidence"])["orders"]} == {0.0, 1.0}


def test_probabilities_of_the_letters_decide_in_both_orders() -> None:
    def probable(text: str) -> tuple[float, float]:
        _, first, second = quotations(text)
        return (0.5, 0.3) if int(first) > int(second) else (0.3, 0.5)

    judge = ScriptedJudge(probable=probable)
    rows = judged(
        reward("pairwise_judge", reading="probabilities", strength="win_rate", repeats=3),
        reward_context({"largest": ["1", "3"]}, judge),
    )
    assert [row["value"] for row in rows.values()] == [0.0, 1.0]
    assert len(judge.asked) == 2, "it would say the same again"


@given(st.integers(0, 12), st.integers(1, 40), st.integers(0, 5))
def test_chosen_pairs_are_different_and_bounded_and_everybody_meets_somebody(
    responses: int, at_most: int, seed: int
) -> None:
    pairs = chosen_pairs(responses, at_most, seed)
    assert len(pairs) == min(at_most, responses * (responses - 1) // 2) == len(set(pairs))
    assert set(pairs) <= set(combinations(range(responses), 2))
    if responses > 1 and at_most >= responses:
        assert {place for pair in pairs for place in pair} == set(range(responses))
    assert pairs == chosen_pairs(responses, at_most, seed)
