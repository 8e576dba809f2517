"""How the rewards of a recipe judge samples, and who may see what."""

import polars as pl
import pytest
from pydantic import BaseModel

from selfimp_dagster.lifecycle.rewards.answer import answer_rewards
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.judging import (
    Reward,
    accepted,
    judge_samples,
    recorded_judgements,
    visible,
)
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame
from selfimp_dagster.registry import Method, find_method


class _None(BaseModel):
    pass


def _context(*responses: str) -> RewardContext:
    task = {
        "task_id": "t",
        "pool": "train",
        "skill": "sums",
        "suite": "file:sums.jsonl",
        "prompt": "1+1",
        "answer": "2",
        "verifier": "exact",
        "source": "file",
        "parent_ids": [],
        "generation_depth": 0,
    }
    samples = [
        {"sample_id": f"s{n}", "task_id": "t", "response": response, "generation": "SE"}
        for n, response in enumerate(responses)
    ]
    return RewardContext(frame([task], TASKS), frame(samples, SAMPLES), REWARDS.to_frame(), seed=0)


def _reward(name: str, *rows: tuple[str, float], named: str | None = None) -> Reward:
    def judge(context: RewardContext, parameters: BaseModel) -> pl.DataFrame:
        told = {"reward": named or name, "kind": "H", "confidence": 1.0, "evidence": ""}
        return frame(({"sample_id": id_, "value": value, **told} for id_, value in rows), REWARDS)

    return Reward(Method("reward", name, judge, _None, "4.3", "", frozenset()), _None())


def _answer() -> Reward:
    method = find_method("reward", "answer")
    return Reward(method, method.parameters())


def test_verdicts_of_the_verifier_are_recorded_but_seen_by_those_alone_who_name_them() -> None:
    context = _context("2", "3")
    short = _reward("short", ("s0", 0.0), ("s1", 1.0))
    judged = recorded_judgements([short], context)
    assert judged.filter(reward="answer").equals(answer_rewards(context.tasks, context.samples))
    assert visible(judged, [short])["reward"].unique().to_list() == ["short"]
    assert accepted(judged, [short]) == ["s1"]
    both = recorded_judgements([_answer(), short], context)
    assert both.equals(judged)
    assert visible(both, [_answer(), short]).equals(both)
    assert accepted(both, [_answer(), short]) == ["s0"]


def test_a_reward_sees_the_judgements_of_those_before_it_and_never_the_measured_ones() -> None:
    seen = []

    def judge(context: RewardContext, parameters: BaseModel) -> pl.DataFrame:
        seen.append(sorted(context.rewards["reward"].unique()))
        return REWARDS.to_frame()

    looks = Reward(Method("reward", "looks", judge, _None, "4.3", "", frozenset()), _None())
    recorded_judgements([_reward("short", ("s0", 1.0)), looks], _context("2"))
    assert seen == [["short"]]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (_reward("twice", ("s0", 1.0), ("s0", 0.0)), "at most once"),
        (_reward("unknown", ("s9", 1.0)), "no other"),
        (_reward("own", ("s0", 1.0), named="other"), "another name"),
    ],
)
def test_a_reward_that_does_not_judge_as_agreed_is_refused(reward: Reward, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge_samples([reward], _context("2"))
