"""Votes: who has the majority, how large it is, and who does not vote."""

import polars as pl
import pytest

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.votes import (
    MajorityVote,
    VoteMargin,
    majority_vote,
    vote_margin,
)
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame


def _context(
    *responses: str, verifier: str = "exact", generation: str = "SE", answer: str = "0"
) -> RewardContext:
    task = {"task_id": "t", "skill": "s", "prompt": "p", "answer": answer, "verifier": verifier}
    rows = [
        {"sample_id": f"s{n}", "task_id": "t", "response": text, "generation": generation}
        for n, text in enumerate(responses)
    ]
    return RewardContext(
        frame([{**dict.fromkeys(TASKS), "parent_ids": [], **task}], TASKS),
        frame(({**dict.fromkeys(SAMPLES), **row} for row in rows), SAMPLES),
        REWARDS.to_frame(),
        0,
    )


def _votes(*responses: str, **how: str) -> list[tuple]:
    judged = majority_vote(_context(*responses, **how), MajorityVote())
    assert judged["kind"].unique().to_list() in (["H"], [])
    return [(value, round(sure, 3)) for value, sure in judged.select("value", "confidence").iter_rows()]


def test_the_most_frequent_answer_has_the_majority_however_it_is_written() -> None:
    assert _votes("7", "It is 7.", "8") == [(1, 0.667), (1, 0.667), (0, 0.333)]


def test_the_right_answer_makes_no_difference() -> None:
    assert _votes("7", "7", "8", answer="8") == _votes("7", "7", "8", answer="7")


@pytest.mark.parametrize("tied", [("7", "8"), ("7", "7", "8", "8")])
def test_a_tie_is_no_majority(tied: tuple[str, ...]) -> None:
    assert _votes(*tied) == [(0, 0.5)] * len(tied)


def test_a_response_without_an_answer_has_none_and_counts_as_a_vote_that_was_not_won() -> None:
    assert _votes("7", "", "7") == [(1, 0.667), (0, 0), (1, 0.667)]
    assert _votes("", "") == [(0, 0), (0, 0)]


def test_verbatim_answers_are_not_taken_for_numbers() -> None:
    assert _votes("07", "7", "07", verifier="verbatim") == [(1, 0.667), (0, 0.333), (1, 0.667)]


def test_demonstrations_are_accepted_and_do_not_vote() -> None:
    assert _votes("7", "8", generation="D") == [(1, 1), (1, 1)]


def test_nothing_to_judge() -> None:
    empty = RewardContext(TASKS.to_frame(), SAMPLES.to_frame(), REWARDS.to_frame(), 0)
    assert majority_vote(empty, MajorityVote()).is_empty()
    assert isinstance(majority_vote(empty, MajorityVote()), pl.DataFrame)


@pytest.mark.parametrize(
    ("responses", "margins"),
    [
        (("7", "7", "7", "8"), [0.5, 0.5, 0.5, -0.5]),
        (("7", "It is 7."), [1, 1]),
        (("7", "8"), [0, 0]),
        (("7", "7", "8", "9"), [0.25, 0.25, -0.25, -0.25]),
        (("7", "", "7"), [2 / 3, -2 / 3, 2 / 3]),
        (("", ""), [0, 0]),
    ],
)
def test_the_margin_is_over_the_strongest_rival(responses: tuple[str, ...], margins: list[float]) -> None:
    judged = vote_margin(_context(*responses), VoteMargin())
    assert judged["value"].to_list() == pytest.approx(margins)
    votes = majority_vote(_context(*responses), MajorityVote())
    assert judged["confidence"].to_list() == votes["confidence"].to_list()


def test_a_demonstration_has_the_whole_margin() -> None:
    assert vote_margin(_context("7", generation="D"), VoteMargin())["value"].to_list() == [1]
