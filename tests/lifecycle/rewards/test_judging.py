"""How the rewards of a recipe judge samples, and who may see what."""

import polars as pl
import pytest
from judges import ScriptedJudge, reward, reward_context
from pydantic import BaseModel

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.rewards.answer import answer_rewards
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.judging import (
    Reward,
    accepted,
    check_rewards,
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
    ("judging", "message"),
    [
        (_reward("twice", ("s0", 1.0), ("s0", 0.0)), "at most once"),
        (_reward("unknown", ("s9", 1.0)), "no other"),
        (_reward("own", ("s0", 1.0), named="other"), "another name"),
    ],
)
def test_a_reward_that_does_not_judge_as_agreed_is_refused(judging: Reward, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge_samples([judging], _context("2"))


def test_rewards_that_cannot_judge_are_refused_with_what_to_do() -> None:
    check_rewards([reward("answer"), reward("judge"), reward("judge", name="strict", floor=0.9)])
    check_rewards([reward("judge"), reward("weighted", parts={"judge": 1.0})])
    for chosen, what, fix in (
        ([reward("judge"), reward("judge")], "judge is there twice", "another `name`"),
        ([reward("answer"), reward("judge", name="answer")], "answer is there twice", "another `name`"),
        (
            [reward("weighted"), reward("answer")],
            "made of answer, which does not stand before",
            "it is the first",
        ),
        (
            [reward("answer"), reward("weighted", parts={"vote": 1})],
            "made of vote",
            "choose parts among: answer",
        ),
        (
            [reward("answer"), reward("judge", judge={"source": "incumbent"})],
            "has the incumbent judge the corpus, which it drew itself",
            "source: base, model or endpoint",
        ),
    ):
        with pytest.raises(SelfimpError) as caught:
            check_rewards(chosen)
        assert what in caught.value.what
        assert fix in caught.value.fix
        assert caught.value.where == f"recipe.rewards.{1 if chosen[0].name != 'weighted' else 0}"


def test_a_reward_with_a_name_of_its_own_is_seen_by_that_name() -> None:
    chosen = [reward("judge", name="strict", repeats=1), reward("judge", name="mild", repeats=1)]
    context = reward_context({"1+1": ["2"]}, ScriptedJudge(lambda text, seed: "Grade: 5"))
    judged = recorded_judgements(chosen, context)
    assert judged["reward"].to_list() == ["answer", "mild", "strict"]
    assert visible(judged, chosen)["reward"].to_list() == ["mild", "strict"]
    assert accepted(judged, chosen) == ["s0"]


def test_a_judge_hears_its_own_samples_where_the_recipe_says_so() -> None:
    judge = ScriptedJudge(say=lambda text, seed: "Grade: 5", policy_hash="policy")
    context = reward_context({"1+1": ["2", "3"]}, judge, drawn_by="policy")
    silent = judge_samples([reward("judge")], context)
    assert silent["value"].to_list() == [None, None]
    assert "nobody judges himself" in silent["evidence"][0]
    heard = judge_samples([reward("judge", own_samples=True)], context)
    assert heard["value"].to_list() == [1.0, 1.0]
