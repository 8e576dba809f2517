"""Votes: who has the majority, how large it is, and who does not vote."""

import polars as pl
import pytest

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.majority_vote import MajorityVote, majority_vote
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame


def _votes(
    *responses: str, verifier: str = "exact", generation: str = "SE", answer: str = "0"
) -> list[tuple]:
    task = {"task_id": "t", "skill": "s", "prompt": "p", "answer": answer, "verifier": verifier}
    rows = [
        {"sample_id": f"s{n}", "task_id": "t", "response": text, "generation": generation}
        for n, text in enumerate(responses)
    ]
    context = RewardContext(
        frame([{**dict.fromkeys(TASKS), "parent_ids": [], **task}], TASKS),
        frame(({**dict.fromkeys(SAMPLES), **row} for row in rows), SAMPLES),
        REWARDS.to_frame(),
        0,
    )
    judged = majority_vote(context, MajorityVote())
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
