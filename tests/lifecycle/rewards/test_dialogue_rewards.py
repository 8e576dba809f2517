"""Rewards that look at what goes on from what, by hand."""

from typing import Any

import polars as pl

from selfimp_dagster.lifecycle.rewards.consensus import Consensus, consensus
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.outcome import Outcome, outcome
from selfimp_dagster.lifecycle.rewards.refined_over_first import RefinedOverFirst, refined_over_first
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame

# The answer is 4: a first answer, two reflections on it, a retry after each; and one that stands alone.
_DIALOGUE = [
    ("first", "5", None),
    ("note a", "I forgot 4.", "first"),
    ("note b", "I miscounted.", "first"),
    ("retry a", "4", "note a"),
    ("retry b", "6", "note b"),
    ("alone", "4", "of another corpus"),
]


def context(samples: list[tuple[str, str, str | None]], answer: str = "4") -> RewardContext:
    task = {
        **dict.fromkeys(TASKS),
        "task_id": "t",
        "prompt": "2+2",
        "answer": answer,
        "verifier": "exact",
        "parent_ids": [],
        "generation_depth": 0,
    }
    rows = (
        {
            **dict.fromkeys(SAMPLES),
            "sample_id": id_,
            "task_id": "t",
            "response": said,
            "parent_sample_id": parent,
        }
        for id_, said, parent in samples
    )
    return RewardContext(frame([task], TASKS), frame(rows, SAMPLES), REWARDS.to_frame(), seed=0)


def values(judged: pl.DataFrame) -> dict[str, Any]:
    return dict(judged.select("sample_id", "value").iter_rows())


def test_every_turn_earns_what_it_led_to() -> None:
    assert values(outcome(context(_DIALOGUE), Outcome())) == {
        "first": 0.5,
        "note a": 1.0,
        "note b": 0.0,
        "retry a": 1.0,
        "retry b": 0.0,
        "alone": 1.0,
    }


def test_a_reflection_alone_earns_what_its_retry_earned() -> None:
    judged = outcome(context(_DIALOGUE), Outcome(judged="between"))
    assert values(judged) == {"note a": 1.0, "note b": 0.0}
    assert set(judged["kind"]) == {"V"}


def test_the_last_answers_of_a_debate_decide_and_judge_the_first() -> None:
    debate = [
        ("a1", "5", None),
        ("b1", "5", None),
        ("c1", "4", None),
        ("a2", "4", "a1"),
        ("b2", "5", "b1"),
        ("c2", "It is 4", "c1"),
    ]
    judged = consensus(context(debate), Consensus())
    assert values(judged) == {"a1": 0.0, "b1": 0.0, "c1": 1.0, "a2": 1.0, "b2": 0.0, "c2": 1.0}
    assert judged["confidence"].to_list() == [2 / 3] * 6
    assert set(values(consensus(context(debate), Consensus(share=0.7))).values()) == {None}


def test_a_debate_without_answers_judges_nobody() -> None:
    assert set(values(consensus(context([("a", "", None), ("b", " ", None)]), Consensus())).values()) == {
        None
    }


def test_a_tie_is_no_consensus() -> None:
    assert set(values(consensus(context([("a", "4", None), ("b", "5", None)]), Consensus())).values()) == {
        None
    }


def test_what_refines_and_is_not_refined_is_better_by_rule() -> None:
    assert values(refined_over_first(context(_DIALOGUE), RefinedOverFirst())) == {
        "first": 0.0,
        "retry a": 1.0,
        "retry b": 1.0,
    }
