"""Meta-Rewarding: responses by their judgements, judgements by a meta-judge."""

import json
from typing import Any

import polars as pl
import pytest
from judges import ScriptedJudge
from scripted_policy import acquire

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.acquisition.corpus import Corpus
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.meta_rewarding import (
    MetaRewarding,
    length_controlled,
    meta_rewarding,
    place_weights,
)
from selfimp_dagster.records import REWARDS

_RESPONSES = ("a good answer", "a bad answer", "good")
_GRADED = {
    "a good answer": ("Right.\nGrade: 5", "Well put.\nGrade: 5", "Hm.\nGrade: 5"),
    "a bad answer": ("Wrong.\nGrade: 0", "Not so bad.\nGrade: 4", "no grade here"),
    "good": ("Right.\nGrade: 5", "Short.\nGrade: 5", "Fine.\nGrade: 5"),
}


def _corpus() -> Corpus:
    def say(chat: tuple[Message, ...], times: int) -> str:
        asked = chat[-1]["content"]
        if "You grade the answer" not in asked:
            return _RESPONSES[times]
        (response,) = (text for text in _GRADED if f"grade:\n> {text}\n" in asked)
        return _GRADED[response][times]

    return acquire("meta_rewarding", say, size=1, responses=3, judgements=3)


def _judged(corpus: Corpus, judge: ScriptedJudge, **parameters: Any) -> dict[str, list[float | None]]:
    """The values by what was said."""
    context = RewardContext(
        corpus.tasks, corpus.samples, REWARDS.to_frame(), seed=0, judge=lambda source: judge
    )
    told = meta_rewarding(context, MetaRewarding(**parameters))
    assert told["sample_id"].sort().equals(corpus.samples["sample_id"].sort())
    found: dict[str, list[float | None]] = {}
    rows = corpus.samples.join(told, on="sample_id", maintain_order="left")
    for response, value in rows.select("response", "value").iter_rows():
        found.setdefault(response, []).append(value)
    return found


def _prefers(text: str) -> ScriptedJudge:
    """A meta-judge that finds the judgement with these words better, wherever it stands."""

    def say(asked: str, seed: int) -> str:
        first = asked.index(text) < asked.index("Judgement B:") if text in asked else True
        return f"Because.\nWinner: {'A' if first else 'B'}"

    return ScriptedJudge(say=say)


def test_each_response_is_a_task_to_judge_it() -> None:
    corpus = _corpus()
    judging = corpus.tasks.filter(skill="judging")
    assert judging.height == 3
    assert corpus.samples.height == 3 + 9
    for task in judging.iter_rows(named=True):
        (response,) = corpus.samples.filter(sample_id=json.loads(task["entry"])["judges"]).to_dicts()
        assert f"> {response['response']}" in task["prompt"]
        assert task["parent_ids"] == [response["sample_id"]]
        judgements = corpus.samples.filter(task_id=task["task_id"])
        assert judgements["generation"].to_list() == ["I"] * 3
        assert judgements["parent_sample_id"].to_list() == [response["sample_id"]] * 3


def test_a_response_that_grades_itself_is_not_judged() -> None:
    corpus = acquire("meta_rewarding", lambda chat, times: "7\nGrade: 5", size=1, responses=2, judgements=2)
    assert corpus.tasks.filter(skill="judging").is_empty()
    assert _judged(corpus, ScriptedJudge()) == {"7\nGrade: 5": [None, None]}


def test_a_response_is_worth_its_mean_grade_and_the_shorter_of_two_more() -> None:
    values = _judged(_corpus(), _prefers("Wrong."))
    assert values["a bad answer"] == pytest.approx([2 / 5], abs=1e-3)
    (long_,), (short,) = values["a good answer"], values["good"]
    assert long_ == pytest.approx(1, abs=1e-9)
    assert short is not None
    assert long_ is not None
    assert 1 < short < 1.002


def test_only_judgements_of_the_response_that_varies_most_are_compared() -> None:
    judge = _prefers("Wrong.")
    values = _judged(_corpus(), judge)
    assert len(judge.asked) == 2, "one pair of readable judgements, in both orders"
    assert values["no grade here"] == [None]
    assert values["Right.\nGrade: 5"] == [None, None]
    # Both places won once: each win counts half, so both games are won by 3/4. Strengths s and 1/s then have
    # s^2 / (s^2 + 1) games expected of 1.5 + the prior of one game against a player of strength 1.
    (better,), (worse,) = values["Wrong.\nGrade: 0"], values["Not so bad.\nGrade: 4"]
    assert better is not None
    assert worse is not None
    assert better + worse == pytest.approx(1)
    assert better > 0.5


def test_a_meta_judge_that_likes_a_place_decides_nothing() -> None:
    values = _judged(_corpus(), ScriptedJudge(say=lambda asked, seed: "Winner: A"))
    assert values["Wrong.\nGrade: 0"] == values["Not so bad.\nGrade: 4"] == pytest.approx([0.5])


def test_nonsense_of_the_meta_judge_is_no_comparison() -> None:
    values = _judged(_corpus(), ScriptedJudge(say=lambda asked, seed: "who knows"))
    assert values["Wrong.\nGrade: 0"] == [None]


def test_wins_are_weighted_by_those_of_the_other_place() -> None:
    assert place_weights(30, 10) == (0.25, 0.75)
    assert place_weights(0, 0) == (0.5, 0.5)


def test_length_decides_within_a_tier_alone() -> None:
    means = {"best": 1.0, "nearly": 0.95, "middle": 0.5, "worst": 0.0}
    lengths = {"best": 100, "nearly": 10, "middle": 1, "worst": 100}
    values = length_controlled(means, lengths, 0.1)
    assert max(values, key=lambda id_: values[id_]) == "nearly"
    assert min(values, key=lambda id_: values[id_]) == "worst"
    assert values["middle"] == 0.5
    assert length_controlled(means, lengths, 0.0)["nearly"] == 0.95
    assert length_controlled({}, {}, 0.1) == {}


def test_a_dpo_pair_comes_of_responses_and_of_judgements() -> None:
    corpus = _corpus()
    values = _judged(corpus, _prefers("Wrong."))
    by_task = corpus.samples.group_by("task_id").agg(pl.col("response")).to_dicts()
    usable = [
        [value for response in row["response"] for value in values[response] if value is not None]
        for row in by_task
    ]
    assert sum(len(set(found)) > 1 for found in usable) == 2
