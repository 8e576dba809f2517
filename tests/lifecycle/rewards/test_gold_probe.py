"""Judges are tried on known answers: good ones stay, bad ones are silent, and rates are corrected."""

import json
from collections.abc import Callable

import polars as pl
import pytest
from judges import ScriptedJudge, quotations, reward, reward_context

from selfimp_dagster.engines.chat import Reply
from selfimp_dagster.lifecycle.evaluation.statistics import rogan_gladen, wilson
from selfimp_dagster.lifecycle.rewards.gold_probe import (
    JudgeRecord,
    JudgeSummary,
    barred,
    judge_records,
    probe_judges,
    why_barred,
)
from selfimp_dagster.lifecycle.rewards.judging import Reward, recorded_judgements, visible
from selfimp_dagster.records import JUDGE_PROBE, REWARDS, SAMPLES, frame, task_id
from selfimp_dagster.tasks.suites import Task

Say = Callable[[str, int], str | Reply]


def _task(number: int, answer: str | None) -> Task:
    prompt = f"{number}+{number}"
    return Task(
        task_id=task_id("sums", prompt, answer),
        skill="sums",
        suite="file:sums.jsonl",
        difficulty=1.0,
        prompt=prompt,
        answer=answer,
        verifier="exact",
        entry=None,
        source="file",
    )


TASKS = [_task(number, str(2 * number)) for number in range(11, 51)]


def _knows(text: str, seed: int) -> str:
    prompt, answer = quotations(text)
    return f"Grade: {5 if 2 * int(prompt.split('+')[0]) == int(answer) else 0}"


def _prefers_right(text: str, seed: int) -> str:
    prompt, first, _ = quotations(text)
    return f"Verdict: {'A' if 2 * int(prompt.split('+')[0]) == int(first) else 'B'}"


def _probed(chosen: Reward, say: Say, tasks: list[Task] = TASKS) -> pl.DataFrame:
    return probe_judges([chosen], tasks, lambda source: ScriptedJudge(say), seed=3)


def _record(chosen: Reward, probe: pl.DataFrame) -> JudgeRecord:
    (record,) = judge_records([chosen], probe, lambda source: ScriptedJudge(policy_hash="weights"))
    return record


def test_a_judge_that_knows_accepts_right_answers_alone() -> None:
    chosen = reward("judge", probe=12, repeats=1)
    probe = _probed(chosen, _knows)
    assert dict(probe.schema) == dict(JUDGE_PROBE)
    assert probe.height == 24
    assert probe.filter(pl.col("right") != pl.col("accepted")).is_empty()
    assert set(probe["response"]).isdisjoint(probe["prompt"])
    assert _record(chosen, probe) == JudgeRecord(
        reward="judge",
        judge="the base model",
        policy_hash="weights",
        absolute=True,
        accept=0.6,
        floor=0.7,
        barred="",
    )


def test_a_judge_that_compares_is_tried_with_both_answers_to_a_task() -> None:
    probe = _probed(reward("pairwise_judge", probe=12), _prefers_right)
    assert probe.height == 24
    assert probe.filter(pl.col("right") != pl.col("accepted")).is_empty()


@pytest.mark.parametrize("method", ["judge", "pairwise_judge"])
def test_other_rewards_are_not_tried_and_no_known_answer_is_no_probe(method: str) -> None:
    def opened(source: object) -> ScriptedJudge:
        raise AssertionError("nobody is asked")

    without = [_task(number, None) for number in range(5)]
    assert probe_judges([reward("answer")], TASKS, opened, seed=3).is_empty()
    assert probe_judges([reward(method)], without, opened, seed=3).is_empty()
    assert probe_judges([reward(method, probe=0)], TASKS, opened, seed=3).is_empty()
    assert why_barred(JUDGE_PROBE.to_frame(), floor=1.0) == ""


@pytest.mark.parametrize(
    ("say", "accepted", "is_barred"),
    [
        (_knows, 32, False),
        (lambda text, seed: "Grade: 5", 64, True),
        (lambda text, seed: "Grade: 0", 0, False),  # it accepts nothing, so nothing wrong
        (lambda text, seed: "What a good answer!", 0, False),  # it has no value to give
        (lambda text, seed: "Grade: 5" if len(text) % 2 else "Grade: 0", None, True),
    ],
    ids=["knows", "flatters", "refuses", "chats", "guesses"],
)
def test_a_judge_under_its_floor_is_barred_with_its_figures(
    say: Say, accepted: int | None, is_barred: bool
) -> None:
    chosen = reward("judge", repeats=1)
    probe = _probed(chosen, say)
    if accepted is not None:
        assert probe["accepted"].sum() == accepted
    record = _record(chosen, probe)
    assert bool(record.barred) is is_barred
    if is_barred:
        assert "below its floor of 0.7 with the whole interval" in record.barred
    assert _record(reward("judge", floor=0), probe).barred == ""


def test_the_floor_is_compared_with_the_upper_end_of_the_interval() -> None:
    rows = frame(
        ({"right": n < 6, "accepted": True} for n in range(10)),
        pl.Schema({"right": pl.Boolean, "accepted": pl.Boolean}),
    )
    high = wilson(6, 10).high
    assert why_barred(rows, floor=high) == ""
    assert why_barred(rows, floor=high + 1e-6).startswith(
        "of 10 answers to the gold probe that the judge accepted, 6 are right: a precision of 0.60"
    )


def test_a_barred_judge_says_nothing_and_the_others_go_on() -> None:
    chosen = [
        reward("answer"),
        reward("judge", repeats=1),
        reward("weighted", parts={"answer": 1, "judge": 1}),
    ]
    judge = ScriptedJudge(_knows)
    context = reward_context(
        {"1+1": ["2", "3"]},
        judge,
        barred=barred(
            [_record(chosen[1], JUDGE_PROBE.to_frame()).model_copy(update={"barred": "it guesses"})]
        ),
    )
    rows = recorded_judgements(chosen, context)
    silent = rows.filter(reward="judge")
    assert silent["value"].to_list() == [None, None]
    assert [json.loads(text) for text in silent["evidence"]] == [{"abstains": "it guesses"}] * 2
    assert rows.filter(reward="weighted")["value"].to_list() == [1.0, 0.0]
    assert rows.filter(reward="weighted")["confidence"].to_list() == [0.5, 0.5]
    assert not judge.asked
    assert visible(rows, chosen).equals(rows)


def test_nobody_judges_samples_that_the_same_weights_drew() -> None:
    judge = ScriptedJudge(_knows, policy_hash="abc")
    mine = reward_context({"1+1": ["2"]}, judge, drawn_by="abc")
    (row,) = recorded_judgements([reward("judge")], mine).filter(reward="judge").to_dicts()
    assert (row["value"], row["confidence"], row["kind"]) == (None, 0.0, "M")
    assert "nobody judges himself" in row["evidence"]
    assert not judge.asked

    both = mine.samples.vstack(mine.samples.with_columns(sample_id=pl.lit("s9"), policy_hash=pl.lit("other")))
    mixed = reward_context({"1+1": ["2"]}, judge)
    rows = recorded_judgements(
        [reward("judge")], type(mixed)(mixed.tasks, both, mixed.rewards, 0, mixed.judge)
    )
    assert dict(rows.filter(reward="judge").select("sample_id", "value").iter_rows()) == {
        "s0": None,
        "s9": 1.0,
    }


def test_an_endpoint_whose_weights_nobody_sees_judges_all() -> None:
    context = reward_context({"1+1": ["2"]}, ScriptedJudge(_knows, policy_hash=None), drawn_by="abc")
    assert recorded_judgements([reward("judge")], context).filter(reward="judge")["value"].to_list() == [1.0]


def test_a_summary_is_worked_out_from_the_tables() -> None:
    record = JudgeRecord(
        reward="judge", judge="j", policy_hash=None, absolute=True, accept=0.5, floor=0.7, barred=""
    )
    probe = frame(
        (
            {"reward": reward, "task_id": f"t{n}", "right": right, "accepted": accepted, "evidence": "{}"}
            for reward, right, verdicts in (
                ("judge", True, [True] * 18 + [False] * 2),
                ("judge", False, [True] * 5 + [False] * 14 + [None]),
                ("another", True, [False] * 7),
            )
            for n, accepted in enumerate(verdicts)
        ),
        JUDGE_PROBE,
    )
    # 10 unaided samples: the judge accepts 6 and says nothing of one; one helped sample, accepted.
    values = [1.0] * 6 + [0.0] * 3 + [None] + [0.5]
    right = [1.0] * 4 + [0.0] * 6 + [1.0]
    rewards = frame(
        (
            {
                "sample_id": f"s{n}",
                "reward": name,
                "value": value,
                "confidence": float(n != 8),
                "evidence": "{}",
            }
            for name, column in (("judge", values), ("answer", right))
            for n, value in enumerate(column)
        ),
        REWARDS,
    )
    samples = frame(
        ({"sample_id": f"s{n}", "generation": "R" if n == 10 else "SE"} for n in range(11)), SAMPLES
    )
    summary = JudgeSummary.of(record, probe, rewards, samples)
    assert (summary.judged, summary.abstained, summary.silent) == (10, 1, 1)
    assert summary.precision is not None
    assert (summary.precision.value, summary.precision.n) == (18 / 23, 23)
    assert summary.precision[1:3] == wilson(18, 23)
    assert summary.recall is not None
    assert summary.recall.value == 0.9
    assert summary.specificity is not None
    assert summary.specificity.value == 14 / 19
    assert summary.accepted_rate is not None
    assert (summary.accepted_rate.value, summary.accepted_rate.n) == (6 / 9, 9)
    assert summary.corrected_rate == rogan_gladen(6, 9, (18, 20), (14, 19))
    assert summary.agreement is not None
    assert summary.agreement.n == 9, "the verifier failed on s8"
    assert summary.agreement.value == 7 / 9  # s4 and s5 are wrong and accepted
    assert summary.position_bias is None
    relative = JudgeSummary.of(record.model_copy(update={"absolute": False}), probe, rewards, samples)
    assert (relative.corrected_rate, relative.agreement) == (None, None)
    assert relative.precision == summary.precision
