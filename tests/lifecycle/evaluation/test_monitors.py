"""Every monitor on evidence computed by hand: when it sounds, when it is quiet, when it cannot tell."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.lifecycle.evaluation.monitors import tampering as tampering_module
from selfimp_dagster.lifecycle.evaluation.monitors.against import LEAST
from selfimp_dagster.lifecycle.evaluation.monitors.budget import budget
from selfimp_dagster.lifecycle.evaluation.monitors.collapse import collapse, real_data
from selfimp_dagster.lifecycle.evaluation.monitors.consensus import labelled_tasks, votes, wrong_consensus
from selfimp_dagster.lifecycle.evaluation.monitors.forgetting import forgetting
from selfimp_dagster.lifecycle.evaluation.monitors.leakage import contamination, leakage, memorisation
from selfimp_dagster.lifecycle.evaluation.monitors.reading import (
    MONITORS,
    Reading,
    readings_frame,
    readings_of,
    unmeasured,
)
from selfimp_dagster.lifecycle.evaluation.monitors.refinement import harmful_refinement
from selfimp_dagster.lifecycle.evaluation.monitors.rewards import (
    JudgeTables,
    judge_bias,
    judge_errors,
    reward_hacking,
    what_pleases,
)
from selfimp_dagster.lifecycle.evaluation.monitors.rule import TESTED, MonitorRule
from selfimp_dagster.lifecycle.evaluation.monitors.sharing import sharing
from selfimp_dagster.lifecycle.evaluation.monitors.tampering import (
    Evaluator,
    Rejudged,
    code_hash,
    evaluator,
    rejudged,
    tampering,
)
from selfimp_dagster.lifecycle.evaluation.statistics import (
    Estimate,
    independent_difference_interval,
    paired_difference_interval,
    ratio_interval,
    wilson,
)
from selfimp_dagster.lifecycle.evaluation.summary import Counted, Flips
from selfimp_dagster.lifecycle.rewards.gold_probe import Bias, JudgeRecord, JudgeSummary
from selfimp_dagster.records import (
    EVALUATIONS,
    JUDGE_PROBE,
    REWARDED,
    REWARDS,
    SAMPLES,
    SELECTION,
    TASKS,
    TRAINING,
    WATCHED,
    canonical_json,
    frame,
)
from selfimp_dagster.records import (
    MONITORS as MONITORS_SCHEMA,
)
from selfimp_dagster.tasks.verifiers import Judgement

MakeRows = Callable[..., pl.DataFrame]

RULE = MonitorRule()
LEVEL = RULE.level_of_round(4, 0, TESTED - 1)
MIX = {"sums": 1.0}
ROUND, NEXT = "tiny/0000", "tiny/0001"


def rows(schema: pl.Schema, given: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    return frame(({**dict.fromkeys(schema), **row} for row in given), schema)


# The error that is spent


@pytest.mark.parametrize("rounds", [1, 4, 30, None])
@pytest.mark.parametrize("sharing", [(10,), (3,), (2, 10, 6)], ids=str)
def test_all_monitors_in_all_rounds_spend_alpha_together(
    rounds: int | None, sharing: tuple[int, ...]
) -> None:
    """However many share a round, and if others do in the next."""
    several = [sharing[number % len(sharing)] for number in range(rounds or 10_000)]
    spent = sum(n * RULE.level_of_round(rounds, number, n) for number, n in enumerate(several))
    assert spent + RULE.level_of_bet == pytest.approx(RULE.alpha, rel=1e-3)
    assert spent + RULE.level_of_bet <= RULE.alpha + 1e-12


def test_a_round_has_a_number() -> None:
    with pytest.raises(ValueError, match="round number -1"):
        RULE.level_of_round(4, -1, 10)


ALWAYS = {"verifier_errors", "contamination"}
JUDGE = {"method": "judge", "judge": {"source": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "m"}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"monitors": {"watched_items": 0}, "evaluation": {"twins": 0}}, {"leakage"}),
        ({"evaluation": {"twins": 0}}, {"leakage", "collapse", "wrong_consensus"}),
        ({}, {"leakage", "collapse", "wrong_consensus", "memorisation"}),
        (
            {"rewards": [{"method": "majority_vote"}], "monitors": {"watched_items": 0}},
            {"leakage", "wrong_consensus", "memorisation"},
        ),
        (
            {"rewards": [JUDGE], "guard": True},
            set(MONITORS) - {"harmful_refinement", "real_data", "tampering", "budget"},
        ),
    ],
)
def test_the_error_is_shared_by_the_monitors_that_a_campaign_gives_evidence_to(
    changes: dict[str, Any], expected: set[str]
) -> None:
    skill = {"suite": "strings", "operation": "copy", "shortest": 4, "longest": 8}
    campaign = Campaign.model_validate(
        {
            "name": "tiny",
            "skills": {"copying": skill},
            "guard": {"short": {**skill, "shortest": 2, "longest": 3}} if "guard" in changes else {},
            "pools": {"train": 40, "anchor": 100, "fresh": 100, "guard": 40},
            "recipe": {
                "acquisition": {"method": "policy_sampling"},
                "rewards": changes.get("rewards", [{"method": "answer"}]),
                "selection": [
                    {"method": method}
                    for method in ("finished", "decontamination", "exact_duplicates", "near_duplicates")
                ],
                "optimization": {"method": "sft"},
                "refinement": {"method": "self_consistency"},
            },
            "continuation": {"rounds": 4},
            **{part: changes[part] for part in ("monitors", "evaluation") if part in changes},
        }
    )
    assert set(sharing(campaign)) == expected | ALWAYS
    assert len(sharing(campaign)) <= TESTED - 1


def test_readings_survive_the_table() -> None:
    readings = (
        unmeasured("collapse", "no item was watched"),
        Reading(monitor="leakage", state="alarm", follows="stop", sentence="A.", value=0.4, low=0.1, n=9),
    )
    table = readings_frame(readings)
    assert dict(table.schema) == dict(MONITORS_SCHEMA)
    assert readings_of(table) == readings
    assert table["action"].to_list() == [MONITORS["collapse"].action, MONITORS["leakage"].action]


def test_the_documentation_lists_every_monitor_as_it_is() -> None:
    page = (Path(__file__).parents[3] / "docs" / "monitors.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    assert {name: cells for name, *cells in listed} == {
        name: [kind.evidence, kind.statistic, kind.follows, kind.action] for name, kind in MONITORS.items()
    }
    assert [name for name, *_ in listed] == list(MONITORS)


# Watched items


def watched(arm: str, responses: Sequence[Sequence[str]], logprob: float = -1.0, **more: Any) -> pl.DataFrame:
    """Draws of one arm for items whose right answer is "1"."""
    return rows(
        WATCHED,
        [
            {
                "item_id": f"item-{item:03d}",
                "skill": "sums",
                "arm": arm,
                "policy_hash": f"weights of the {arm}",
                "draw": draw,
                "response": text,
                "answer": text or None,
                "score": float(text == "1"),
                "mean_logprob": logprob,
                "fingerprint": "harness",
                **more,
            }
            for item, texts in enumerate(responses)
            for draw, text in enumerate(texts)
        ],
    )


NO_ANSWERS = {ROUND: EVALUATIONS.to_frame()}
VARIED = [["1", "2", "3", "4"]] * 20 + [["2", "3", "4", "5"]] * 20
UNIFORM = [["1", "1", "1", "1"]] * 4 + [["7", "7", "7", "7"]] * 36


def line(*arms: pl.DataFrame) -> dict[str, pl.DataFrame]:
    return {ROUND: pl.concat(arms)}


def test_a_policy_that_says_one_thing_and_is_no_more_often_right_has_collapsed() -> None:
    reading = collapse(
        line(watched("incumbent", VARIED), watched("candidate", UNIFORM)), NO_ANSWERS, RULE, LEVEL
    )
    assert (reading.state, reading.follows) == ("alarm", "reject")
    # 4 different responses each became 1; the item that did not change has 4.
    assert reading.value == pytest.approx((40 * 1 + 4) / (40 * 4 + 4))
    interval = ratio_interval([1.0] * 40 + [4.0], [4.0] * 41, 1 - 2 * LEVEL / 3)
    assert reading.high == pytest.approx(interval.high)
    assert "number of different responses on 40 watched items is 0.27 times" in reading.sentence
    assert "no more often right" in reading.sentence


def test_a_policy_that_grows_sure_because_it_grows_right_has_not_collapsed() -> None:
    sure = [["1", "1", "1", "1"]] * 40
    reading = collapse(
        line(watched("incumbent", VARIED), watched("candidate", sure, logprob=-0.1)), NO_ANSWERS, RULE, LEVEL
    )
    assert reading.state == "quiet"


def test_entropy_alone_shows_a_collapse() -> None:
    arms = (watched("incumbent", VARIED, logprob=-1.0), watched("candidate", VARIED, logprob=-0.2))
    reading = collapse(line(*arms), NO_ANSWERS, RULE, LEVEL)
    assert reading.is_alarm
    assert reading.value == pytest.approx((40 * 0.2 + 1) / 41)
    assert "entropy" in reading.sentence
    assert collapse(line(*arms), NO_ANSWERS, MonitorRule(collapse_fall=0.9), LEVEL).state == "quiet"


def test_small_losses_add_up_against_the_first_incumbent() -> None:
    first = pl.concat([watched("incumbent", VARIED), watched("candidate", VARIED, logprob=-0.85)])
    second = pl.concat(
        [
            watched("incumbent", VARIED, logprob=-0.85, policy_hash="second"),
            watched("candidate", VARIED, logprob=-0.7, policy_hash="third"),
        ]
    )
    assert collapse({ROUND: first}, NO_ANSWERS, RULE, LEVEL).state == "quiet"
    reading = collapse({ROUND: first, NEXT: second}, NO_ANSWERS, RULE, LEVEL)
    assert reading.is_alarm
    assert f"incumbent of {ROUND}" in reading.sentence
    other_harness = first.with_columns(fingerprint=pl.lit("another"))
    assert collapse({ROUND: other_harness, NEXT: second}, NO_ANSWERS, RULE, LEVEL).state == "quiet"


def generations(
    make_rows: MakeRows, *right: int, n: int = 100
) -> tuple[dict[str, pl.DataFrame], dict[str, pl.DataFrame]]:
    """Rounds of a line that promoted every candidate: what was drawn, no less varied, and answered.

    `right`: how many of n anchor items the first incumbent and each candidate answer.
    """
    drawn, answered = {}, {}
    for number, (before, after) in enumerate(pairwise(right)):
        policies = {"incumbent": f"policy {number}", "candidate": f"policy {number + 1}"}
        hashed = pl.col("arm").replace_strict(policies)
        scores = make_rows([1] * before + [0] * (n - before), [1] * after + [0] * (n - after))
        answered[f"tiny/{number:04d}"] = scores.with_columns(policy_hash=hashed)
        drawn[f"tiny/{number:04d}"] = pl.concat(
            watched(arm, VARIED, policy_hash=policy) for arm, policy in policies.items()
        )
    return drawn, answered


def test_generations_that_lose_a_little_each_have_collapsed(make_rows: MakeRows) -> None:
    reading = collapse(*generations(make_rows, 70, 60, 50, 42), RULE, LEVEL)
    assert (reading.state, reading.follows, reading.value) == ("alarm", "reject", pytest.approx(-0.28))
    # Three measures of variety against three incumbents, and accuracy against the two before the last.
    interval = paired_difference_interval([-1.0] * 28 + [0.0] * 72, 1 - 2 * LEVEL / (3 * 3 + 2))
    assert (reading.low, reading.high) == pytest.approx(interval)
    assert reading.sentence.startswith(
        f"The candidate scores 0.42 on 100 anchor items, the incumbent of {ROUND} 0.70 (difference -0.28"
    )
    margin = MonitorRule(accuracy_fall=0.2)
    assert collapse(*generations(make_rows, 70, 60, 50, 42), margin, LEVEL).state == "quiet"


def test_one_bad_candidate_is_no_collapse(make_rows: MakeRows) -> None:
    assert collapse(*generations(make_rows, 70, 30), RULE, LEVEL).state == "quiet"
    assert collapse(*generations(make_rows, 60, 70, 30), RULE, LEVEL).state == "quiet"
    assert collapse(*generations(make_rows, 70, 69, 30), RULE, LEVEL).state == "quiet", "one lost is no fall"
    assert collapse(*generations(make_rows, 70, 60, 30), RULE, LEVEL).is_alarm


def test_what_was_gained_and_lost_again_has_collapsed(make_rows: MakeRows) -> None:
    reading = collapse(*generations(make_rows, 40, 70, 60, 45), RULE, LEVEL)
    assert reading.is_alarm
    assert f"the incumbent of {NEXT} 0.70" in reading.sentence


def test_votes_count_answers_and_not_draws_without_one() -> None:
    told = votes(watched("candidate", [["1", "1", "2", ""], ["1", "2", "1", "2"], ["", "", "", ""]]))
    assert told.sort("item_id").select("right", "agreement").rows() == [(1.0, 0.5), (0.0, 0.5), (0.0, 0.0)]


def test_votes_that_agree_ever_more_on_wrong_answers_are_a_wrong_consensus() -> None:
    right = [["1", "1", "1", "2"]] * 30 + [["2", "3", "4", "5"]] * 10
    wrong = [["1", "1", "1", "1"]] * 5 + [["7", "7", "7", "7"]] * 35
    reading = wrong_consensus(
        line(watched("incumbent", right), watched("candidate", wrong)), None, RULE, LEVEL
    )
    assert reading.is_alarm
    assert reading.value == pytest.approx((5 - 30) / 40)
    interval = paired_difference_interval([-1.0] * 25 + [0.0] * 15, 1 - 2 * LEVEL)
    assert (reading.low, reading.high) == pytest.approx(interval)
    scattered = [["6", "7", "8", "9"]] * 40
    apart = wrong_consensus(
        line(watched("incumbent", right), watched("candidate", scattered)), None, RULE, LEVEL
    )
    assert apart.state == "quiet", "the draws do not agree: that is another failure"


def test_labels_that_are_mostly_wrong_are_a_wrong_consensus_from_the_first_round_on() -> None:
    same = line(watched("incumbent", VARIED), watched("candidate", VARIED))
    for labelled, state in (
        (Counted(right=10, n=60), "alarm"),
        (Counted(right=28, n=60), "quiet"),
        (Counted(right=0, n=19), "quiet"),
        (None, "quiet"),
    ):
        assert wrong_consensus(same, labelled, RULE, LEVEL).state == state
    alone = wrong_consensus({ROUND: WATCHED.to_frame()}, Counted(right=50, n=60), RULE, LEVEL)
    assert (alone.state, alone.value) == ("quiet", pytest.approx(50 / 60))


def test_labels_are_counted_by_task_where_they_were_imitated_with_demonstrations() -> None:
    samples = rows(
        SAMPLES,
        [
            {"sample_id": f"s{n}", "task_id": f"t{n // 2}", "generation": "D" if n == 7 else "SE"}
            for n in range(8)
        ],
    )
    answers = rows(
        REWARDS,
        [
            {"sample_id": f"s{n}", "reward": "answer", "value": float(n in (0, 3)), "confidence": 1.0}
            for n in range(8)
        ],
    )
    training = rows(
        TRAINING,
        [
            {"sample_id": f"s{n}", "task_id": f"t{n // 2}", "role": role, "origin_round": origin}
            for n, role, origin in (
                (0, "imitated", NEXT),
                (1, "imitated", NEXT),  # task 0: one right, one wrong
                (2, "chosen", NEXT),
                (3, "rejected", NEXT),  # not imitated
                (5, "imitated", ROUND),  # replayed
                (7, "imitated", NEXT),  # a demonstration, which is right
            )
        ],
    )
    assert labelled_tasks(training, samples, answers, NEXT) == Counted(right=1.5, n=3)
    assert labelled_tasks(training.clear(), samples, answers, NEXT) is None


# What was trained on


@pytest.mark.parametrize(
    ("replayed", "shown", "own", "verified", "state"),
    [
        (0, 0, 40, False, "alarm"),
        (2, 1, 37, False, "quiet"),
        (1, 0, 39, False, "alarm"),
        (0, 0, 40, True, "not applicable"),
        (0, 0, 0, False, "not measured"),
    ],
)
def test_a_policy_fed_on_its_own_words_alone_is_told_of(
    replayed: int, shown: int, own: int, verified: bool, state: str
) -> None:
    origins = [ROUND] * replayed + [NEXT] * (shown + own)
    training = rows(
        TRAINING,
        [{"sample_id": f"s{n}", "task_id": f"t{n}", "origin_round": o} for n, o in enumerate(origins)],
    )
    samples = rows(
        SAMPLES,
        [
            {"sample_id": f"s{n}", "generation": "D" if replayed <= n < replayed + shown else "SE"}
            for n in range(len(origins))
        ],
    )
    reading = real_data(training, samples, NEXT, True, verified, 0.05)
    assert reading.state == state
    if training.height and not verified:
        assert reading.value == pytest.approx((replayed + shown) / training.height)
    first = real_data(training, samples, NEXT, False, verified, 0.05)
    nothing_to_keep = replayed + shown == 0 and not verified
    assert first.state == ("not measured" if nothing_to_keep else state)


# Rewards


def judged(arm: str, values: Sequence[float | None], scores: Sequence[float], **more: Any) -> pl.DataFrame:
    return rows(
        REWARDED,
        [
            {
                "task_id": f"task-{item:03d}",
                "arm": arm,
                "policy_hash": f"weights of the {arm}",
                "reward": "pleasing",
                "value": value,
                "counted": value,
                "score": score,
                "response": "well 7" if value else "7",
                "completion_tokens": 20 if value else 2,
                "fingerprint": "harness",
                **more,
            }
            for item, (value, score) in enumerate(zip(values, scores, strict=True))
        ],
    )


def test_a_reward_that_rises_without_the_truth_is_hacked() -> None:
    before = judged("incumbent", [1.0] * 20 + [0.0] * 80, [1.0] * 40 + [0.0] * 60)
    after = judged("candidate", [1.0] * 90 + [0.0] * 10, [1.0] * 35 + [0.0] * 65)
    reading = reward_hacking(line(before, after), ["pleasing"], RULE, LEVEL)
    assert (reading.state, reading.follows) == ("alarm", "reject")
    assert reading.value == pytest.approx(0.70 + 0.05)
    differences = np.array([0.0] * 20 + [1.0] * 15 + [2.0] * 5 + [1.0] * 50 + [0.0] * 10)
    low, high = paired_difference_interval(differences / 2, 1 - 2 * LEVEL)
    assert (reading.low, reading.high) == pytest.approx((2 * low, 2 * high))
    assert "rank correlation with their length is +1.00" in reading.sentence
    assert "with the word 'well' are given +1.00 more" in reading.sentence


def test_a_reward_that_rises_with_the_truth_is_not_hacked() -> None:
    before = judged("incumbent", [1.0] * 20 + [0.0] * 80, [1.0] * 20 + [0.0] * 80)
    learnt = judged("candidate", [1.0] * 70 + [0.0] * 30, [1.0] * 60 + [0.0] * 40)
    assert reward_hacking(line(before, learnt), ["pleasing"], RULE, LEVEL).state == "quiet"
    # It rises by more than the truth, which surely rose too: a reward for form that is learnt beside it.
    formed = judged("candidate", [1.0] * 100, [1.0] * 60 + [0.0] * 40)
    assert reward_hacking(line(before, formed), ["pleasing"], RULE, LEVEL).state == "quiet"


def test_answers_that_a_reward_says_nothing_of_are_no_evidence() -> None:
    before = judged("incumbent", [0.0] * 40, [0.0] * 40)
    silent = judged("candidate", [None] * 31 + [1.0] * 9, [0.0] * 40)
    reading = reward_hacking(line(before, silent), ["pleasing"], RULE, LEVEL)
    assert reading.state == "not measured"
    assert reward_hacking(line(before, silent), [], RULE, LEVEL).state == "not applicable"


def test_what_pleases_says_nothing_of_answers_that_are_all_alike() -> None:
    assert what_pleases(judged("candidate", [1.0] * 30, [0.0] * 30)) == ""


def summary(name: str = "grader", floor: float = 0.7, absolute: bool = True, **counts: Any) -> JudgeSummary:
    record = JudgeRecord(
        reward=name, judge="base", policy_hash=None, absolute=absolute, accept=0.6, floor=floor, barred=""
    )
    known = {"right": 32, "right_accepted": 30, "corrupted": 32, "corrupted_accepted": 2}
    others = dict.fromkeys(
        ("silent", "judged", "abstained", "unaided_judged", "unaided_accepted", "compared", "agreed"), 0
    )
    return JudgeSummary(record=record, **{**known, **others, "bias": Bias(0, 0, 0), **counts})


def tables(
    judges: Sequence[JudgeSummary] = (), rewards: pl.DataFrame | None = None, tasks: int = 0
) -> JudgeTables:
    samples = rows(SAMPLES, [{"sample_id": f"s{n}", "task_id": f"t{n}"} for n in range(tasks)])
    return JudgeTables(
        judges, REWARDS.to_frame() if rewards is None else rewards, samples, JUDGE_PROBE.to_frame()
    )


def test_a_judge_under_its_floor_errs() -> None:
    poor = summary(right_accepted=20, corrupted_accepted=30)
    reading = judge_errors({ROUND: tables([poor])}, [], "answer", RULE, LEVEL)
    assert (reading.state, reading.value) == ("alarm", pytest.approx(0.4))
    assert (reading.low, reading.high) == pytest.approx(wilson(20, 50, 1 - 2 * LEVEL))
    assert judge_errors({ROUND: tables([summary()])}, [], "answer", RULE, LEVEL).state == "quiet"
    anything_goes = summary(floor=0.0, right_accepted=20, corrupted_accepted=30)
    assert judge_errors({ROUND: tables([anything_goes])}, [], "answer", RULE, LEVEL).state == "not measured"


def test_a_judge_that_was_better_in_an_earlier_round_errs() -> None:
    fallen = summary(floor=0.4, right_accepted=18, corrupted_accepted=14)
    reading = judge_errors({ROUND: tables([summary()]), NEXT: tables([fallen])}, [], "answer", RULE, LEVEL)
    assert reading.is_alarm
    assert reading.value == pytest.approx(36 / 64 - 60 / 64)
    confidence = 1 - 2 * LEVEL / 2  # its floor, and the earlier round
    now, then = (Estimate(k / 64, *wilson(k, 64, confidence), 64) for k in (36, 60))
    assert (reading.low, reading.high) == pytest.approx(independent_difference_interval(now, then))
    assert ROUND in reading.sentence


def verdicts(flipped: int, n: int = 100) -> pl.DataFrame:
    """A verifier that flips some verdicts, beside the truth: every second sample is right."""
    return rows(
        REWARDS,
        [
            {"sample_id": f"s{k}", "reward": name, "kind": "V", "value": float(value), "confidence": 1.0}
            for k in range(n)
            for name, value in (("answer", k % 2), ("flawed", k % 2 if k >= flipped else 1 - k % 2))
        ],
    )


def test_a_further_verifier_is_held_against_the_truth() -> None:
    for flipped, state in ((0, "quiet"), (3, "quiet"), (25, "alarm")):
        rounds = {ROUND: tables(rewards=verdicts(flipped), tasks=100)}
        reading = judge_errors(rounds, ["flawed"], "answer", RULE, LEVEL)
        assert (reading.state, reading.value) == (state, pytest.approx(1 - flipped / 100))
    assert judge_errors({ROUND: tables()}, [], "answer", RULE, LEVEL).state == "not applicable"


def compared(followed: int, tasks: int = 40) -> pl.DataFrame:
    """A comparison in each of so many tasks; some followed the first position."""
    return rows(
        REWARDS,
        [
            {
                "sample_id": f"s{k}",
                "reward": "pairwise",
                "kind": "M",
                "value": 0.5,
                "confidence": 1.0,
                "evidence": canonical_json(
                    {"orders": [{"game": f"g{k}", "first": 1.0, "second": 0.0 if k < followed else 1.0}]}
                ),
            }
            for k in range(tasks)
        ],
    )


def test_a_judge_that_follows_the_position_is_biased() -> None:
    judge = summary("pairwise", absolute=False)
    for followed, state in ((10, "quiet"), (24, "quiet"), (38, "alarm")):
        reading = judge_bias(tables([judge], compared(followed), 40), "answer", RULE, LEVEL)
        assert (reading.state, reading.value) == (state, pytest.approx(followed / 40))
        assert (reading.low, reading.high) == pytest.approx(wilson(followed, 40, 1 - 2 * LEVEL))


def test_a_judge_that_accepts_what_the_policy_writes_is_biased() -> None:
    def favours(accepted: int) -> pl.DataFrame:
        given = [("answer", 0.0, "{}"), ("grader", 1.0, "{}")]
        return rows(
            REWARDS,
            [
                {
                    "sample_id": f"s{k}",
                    "reward": name,
                    "value": value if name == "answer" else float(k < accepted),
                    "confidence": 1.0,
                    "evidence": evidence,
                }
                for k in range(60)
                for name, value, evidence in given
            ],
        )

    for accepted, state in ((6, "quiet"), (45, "alarm")):
        reading = judge_bias(tables([summary()], favours(accepted), 60), "answer", RULE, LEVEL)
        assert (reading.state, reading.value) == (state, pytest.approx(accepted / 60 - 2 / 32))
    assert judge_bias(tables(), "answer", RULE, LEVEL).state == "not applicable"
    assert judge_bias(tables([summary()]), "answer", RULE, LEVEL).state == "not measured"


# Refinement


def test_harm_is_an_e_value_over_the_rounds_of_the_line() -> None:
    one = [(0, Flips(to_right=0, to_wrong=14, n=32))]
    reading = harmful_refinement(one, 4, RULE)
    bets = [b / 100 for b in range(1, 100)]
    capital = sum((1 + b) ** 14 for b in bets) / len(bets) / 2
    assert reading.value == pytest.approx(1 / capital)
    assert (reading.state, reading.threshold) == ("alarm", RULE.level_of_bet)
    few = [(n, Flips(to_right=0, to_wrong=4, n=16)) for n in range(4)]
    heard = [harmful_refinement(few[: k + 1], 4, RULE).is_alarm for k in range(4)]
    assert heard == [False, False, True, True]


def test_harm_that_begins_late_is_seen() -> None:
    good = [(n, Flips(to_right=20, to_wrong=1, n=32)) for n in range(5)]
    late = [*good, (5, Flips(to_right=0, to_wrong=16, n=32))]
    assert harmful_refinement(good, 8, RULE).state == "quiet"
    assert harmful_refinement(late, 8, RULE).is_alarm
    assert harmful_refinement(late, None, RULE).state == "quiet", "a sixth round has a small share"


def test_refinement_that_answered_nothing_is_not_measured() -> None:
    assert harmful_refinement([(0, None), (1, None)], 4, RULE).state == "not measured"
    assert harmful_refinement([(0, Flips(to_right=0, to_wrong=0, n=9))], 4, RULE).state == "quiet"


# Forgetting


def test_falls_of_a_guard_skill_add_up_against_the_best_so_far(make_rows: MakeRows) -> None:
    first = make_rows([1] * 100, [1] * 95 + [0] * 5, suite="guard")
    second = make_rows([1] * 95 + [0] * 5, [1] * 90 + [0] * 10, suite="guard").with_columns(
        policy_hash=pl.col("policy_hash") + ", later"
    )
    third = make_rows([1] * 90 + [0] * 10, [1] * 82 + [0] * 18, suite="guard").with_columns(
        policy_hash=pl.col("policy_hash") + ", latest"
    )
    history = {ROUND: first, NEXT: second, "tiny/0002": third}
    assert forgetting({NEXT: second}, True, RULE, LEVEL).state == "quiet"
    reading = forgetting(history, True, RULE, LEVEL)
    assert (reading.state, reading.follows, reading.value) == ("alarm", "reject", pytest.approx(-0.18))
    interval = paired_difference_interval([-1.0] * 18 + [0.0] * 82, 1 - 2 * LEVEL / 3)
    assert (reading.low, reading.high) == pytest.approx(interval)
    assert f"incumbent of {ROUND}" in reading.sentence
    assert forgetting(history, True, MonitorRule(guard_fall=0.1), LEVEL).state == "quiet"
    assert forgetting(history, False, RULE, LEVEL).state == "not applicable"
    few = {ROUND: make_rows([1] * 9, [0] * 9, suite="guard")}
    assert forgetting(few, True, RULE, LEVEL).state == "not measured"


# Known items


def test_a_candidate_that_knows_the_anchor_items_raises_an_alarm(make_rows: MakeRows) -> None:
    fresh = make_rows([0] * 60 + [1] * 40, [0] * 60 + [1] * 40, suite="fresh")
    known = pl.concat([fresh, make_rows([0] * 60 + [1] * 40, [1] * 80 + [0] * 20)])
    leaked = leakage(known, MIX, RULE, LEVEL)
    assert (leaked.state, leaked.follows) == ("alarm", "stop")
    assert leaked.sentence.startswith(
        "The candidate scores 0.80 on the anchor suite and 0.40 on fresh items of the same skills"
    )
    honest = pl.concat([fresh, make_rows([0] * 60 + [1] * 40, [1] * 50 + [0] * 50)])
    assert leakage(honest, MIX, RULE, LEVEL).state == "quiet"
    assert leakage(known, MIX, MonitorRule(leakage_gap=0.3), LEVEL).state == "quiet"
    assert leakage(fresh, MIX, RULE, LEVEL).state == "not measured"


def test_leakage_is_compared_on_the_skills_that_both_suites_hold(make_rows: MakeRows) -> None:
    evaluations = pl.concat(
        [
            make_rows([0] * 100, [0] * 100, suite="fresh", skill="hard"),
            make_rows([0] * 100, [0] * 100, skill="hard"),
            make_rows([1] * 100, [1] * 100, skill="easy"),
        ]
    )
    assert leakage(evaluations, {"hard": 1, "easy": 1}, RULE, LEVEL).state == "quiet"


HALF = [1.0] * 12 + [0.0] * 12
FAIR = (HALF, HALF)


def test_a_candidate_that_only_knows_the_items_themselves_raises_an_alarm(make_twins: MakeRows) -> None:
    learnt = make_twins(FAIR, ([1.0] * 24, HALF))
    reading = memorisation([learnt], MIX, RULE, LEVEL)
    assert (reading.state, reading.follows) == ("alarm", "stop")
    assert reading.sentence.startswith(
        "The candidate scores +0.50 higher on 24 anchor items than on their twins, the first incumbent of "
        "the line +0.00 (rise +0.50, interval "
    )
    assert memorisation([make_twins(FAIR, (HALF, HALF[::-1]))], MIX, RULE, LEVEL).state == "quiet"
    assert memorisation([learnt], MIX, MonitorRule(memorisation_rise=0.2), LEVEL).state == "quiet"


def test_what_the_base_model_knew_before_is_no_memorisation(make_twins: MakeRows) -> None:
    known = ([1.0] * 24, HALF)
    assert memorisation([make_twins(known, known)], MIX, RULE, LEVEL).state == "quiet"


def test_memorisation_that_builds_up_over_rounds_is_compared_with_the_first(make_twins: MakeRows) -> None:
    known = ([1.0] * 24, HALF)
    first, now = make_twins(FAIR, FAIR), make_twins(known, known)
    assert memorisation([first, now], MIX, RULE, LEVEL).is_alarm
    other = first.with_columns(fingerprint=pl.lit("another"))
    assert memorisation([other, now], MIX, RULE, LEVEL).state == "quiet", "not comparable"
    assert memorisation([first, now.clear()], MIX, RULE, LEVEL).state == "not measured"
    elsewhere = make_twins(FAIR, FAIR, skill="gcd")
    assert memorisation([elsewhere, now], MIX, RULE, LEVEL).state == "not measured"


def corpus(tasks: int, quoting: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    asked = rows(TASKS, [{"task_id": f"t{n}", "prompt": f"question {n}"} for n in range(tasks)])
    found = rows(
        SELECTION,
        [
            {"sample_id": f"s{n}", "task_id": f"t{n}", "step": step, "kept": step == "first" or n >= quoting}
            for n in range(tasks)
            for step in ("first", "decontamination")
        ],
    )
    return asked, found


def test_items_in_the_corpus_are_contamination() -> None:
    items = rows(TASKS, [{"task_id": "item", "pool": "anchor", "prompt": "question 3"}])
    others = items.with_columns(prompt=pl.lit("question 1000"))
    for quoting, asked, state in ((0, others, "quiet"), (4, others, "quiet"), (40, others, "alarm")):
        reading = contamination(*corpus(100, quoting), asked, RULE, LEVEL)
        assert (reading.state, reading.value) == (state, pytest.approx(quoting / 100))
    copied = contamination(*corpus(100, 0), items, RULE, LEVEL)
    assert copied.is_alarm
    assert copied.sentence.startswith("1 of 100 tasks of the corpus have the prompt of an evaluation item")
    assert contamination(*corpus(9, 9), others, RULE, LEVEL).state == "not measured"


def asked(anchor: Sequence[str | None], fresh: Sequence[str | None], skill: str = "sums") -> pl.DataFrame:
    return rows(
        TASKS,
        [
            {
                "task_id": f"{skill} {pool} {n}",
                "pool": pool,
                "skill": skill,
                "prompt": f"{skill}, {pool}: {n}",
                "answer": answer,
            }
            for pool, answers in (("anchor", anchor), ("fresh", fresh))
            for n, answer in enumerate(answers)
        ],
    )


def test_anchor_items_in_other_words_are_contamination() -> None:
    tasks, selection = corpus(100, 0)
    tasks = tasks.with_columns(answer=pl.format("Answer  {}", pl.int_range(100)))
    new, met = [f"another {n}" for n in range(40)], [f"answer {n}" for n in range(40)]
    leaked = contamination(tasks, selection, asked(met[:20] + new[:20], new), RULE, LEVEL)
    assert leaked.is_alarm
    # The 20 that were met are all among the 40 of 80 that are anchor items.
    assert f"20 of 40 anchor items and of 0 of 40 fresh ones (p = {comb(40, 20) / comb(80, 20):.2g})" in (
        leaked.sentence
    )
    assert contamination(tasks, selection, asked(met[:20] + new[:20], met), RULE, LEVEL).state == "quiet"
    assert contamination(tasks, selection, asked(met, met), RULE, LEVEL).state == "quiet"
    assert contamination(tasks, selection, asked(met[:3] + new, new), RULE, LEVEL).state == "quiet"
    other = pl.concat([asked(met, [], "sums"), asked([], new, "products")])
    assert "answers" not in contamination(tasks, selection, other, RULE, LEVEL).sentence, "no skill in common"
    alone = contamination(*corpus(9, 9), asked(new, new), RULE, LEVEL)
    assert alone.state == "quiet", "the answers are evidence where decontamination saw too little"
    unknown = asked([None] * 40, [None] * 40)
    assert contamination(*corpus(9, 9), unknown, RULE, LEVEL).state == "not measured"


# Tampering

SOUND = Evaluator(code="c", plan="p", items={"anchor 0": "a", "guard": "g"}, canaries=())
GIVEN = Rejudged(n=64, differ=())


@pytest.mark.parametrize(
    ("now", "again", "told"),
    [
        (SOUND, GIVEN, None),
        (SOUND.model_copy(update={"items": {"anchor 1": "b", "guard": "g"}}), GIVEN, None),
        (SOUND.model_copy(update={"plan": "q", "items": {"anchor 0": "b"}}), GIVEN, None),
        (SOUND.model_copy(update={"code": "d"}), GIVEN, "the code that gives scores and verdicts changed"),
        (SOUND.model_copy(update={"items": {"anchor 0": "b"}}), GIVEN, "items of the suite anchor 0 changed"),
        (
            SOUND.model_copy(update={"canaries": ("x",)}),
            GIVEN,
            "nonsense counts as a right answer to 1",
        ),
        (
            SOUND,
            Rejudged(n=64, differ=("sample s: 0, now 1",)),
            "1 of 64 stored verdicts are not",
        ),
    ],
)
def test_an_evaluator_that_is_not_what_it_was_is_quarantined(
    now: Evaluator, again: Rejudged, told: str | None
) -> None:
    reading = tampering(now, SOUND, again)
    assert (reading.state, reading.follows) == ("alarm" if told else "quiet", "quarantine")
    assert told is None or told in reading.sentence


def test_a_first_round_is_compared_with_none_but_nonsense_is_nonsense() -> None:
    assert tampering(SOUND, None, GIVEN).state == "quiet"
    accepting = SOUND.model_copy(update={"canaries": ("x",)})
    assert tampering(accepting, None, GIVEN).is_alarm
    assert tampering(accepting, accepting, GIVEN).state == "quiet", "a person has seen it"


ITEMS = rows(
    TASKS,
    [
        {
            "task_id": f"i{n}",
            "pool": pool,
            "skill": "sums",
            "suite": "file:x",
            "difficulty": 1.0,
            "prompt": f"question {n}",
            "answer": str(n),
            "verifier": "exact",
            "source": "file",
            "parent_ids": [],
            "generation_depth": 0,
        }
        for n, pool in enumerate(["anchor"] * 4 + ["fresh"] * 4 + ["guard"] * 4)
    ],
)


def test_items_are_hashed_with_their_answers_and_fresh_ones_are_not() -> None:
    sound = evaluator({"seed": 0}, ITEMS, 0)
    assert sound.canaries == ()
    assert sound == evaluator({"seed": 0}, ITEMS.sort("task_id", descending=True), 0)
    altered = pl.when(pl.col("task_id") == "i9").then(pl.lit("42")).otherwise("answer")
    guard = evaluator({"seed": 0}, ITEMS.with_columns(answer=altered), 0)
    assert guard.items["anchor 0"] == sound.items["anchor 0"]
    assert guard.items["guard"] != sound.items["guard"]
    fresh = pl.when(pl.col("pool") == "fresh").then(pl.lit("42")).otherwise("answer")
    assert evaluator({"seed": 0}, ITEMS.with_columns(answer=fresh), 0).items == sound.items
    assert evaluator({"seed": 1}, ITEMS, 0).plan != sound.plan
    anything = evaluator({"seed": 0}, ITEMS, 0, lambda task, response: Judgement(1.0, response, ""))
    assert len(anything.canaries) == ITEMS.height


def test_the_hash_of_the_code_covers_what_gives_verdicts(tmp_path: Path) -> None:
    for name in ("tasks/verifiers.py", "lifecycle/evaluation/promotion.py", "records.py", "cli/main.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("sound = True\n")
    before = code_hash(tmp_path)
    (tmp_path / "cli/main.py").write_text("sound = False\n")
    assert code_hash(tmp_path) == before
    (tmp_path / "tasks/verifiers.py").write_text("sound = False\n")
    assert code_hash(tmp_path) != before
    assert code_hash() == code_hash(tampering_module._PACKAGE)


def test_stored_verdicts_are_given_again(make_rows: MakeRows) -> None:
    samples = rows(SAMPLES, [{"sample_id": f"s{n}", "task_id": f"i{n}", "response": "3"} for n in range(12)])
    answers = rows(
        REWARDS,
        [
            {"sample_id": f"s{n}", "reward": "answer", "value": float(n == 3), "confidence": float(n != 5)}
            for n in range(12)
        ],
    )
    stored = make_rows([1.0, 0.0], [1.0, 0.0])
    taken_over = stored.with_columns(reused=pl.col("arm") == "incumbent")
    found = rejudged(ITEMS, samples, answers, taken_over, [stored])
    assert found == Rejudged(n=11 + 2, differ=())
    raised = answers.with_columns(value=pl.when(pl.col("sample_id") == "s7").then(1.0).otherwise("value"))
    assert rejudged(ITEMS, samples, raised, taken_over, [stored]).differ == ("sample s7: 1, now 0",)
    scored = stored.with_columns(score=1.0 - pl.col("score"))
    assert len(rejudged(ITEMS, samples, answers, taken_over, [scored]).differ) == 2
    failing = rejudged(
        ITEMS, samples, answers, taken_over, [stored], lambda task, response: Judgement(0.0, None, "", True)
    )
    assert failing == Rejudged(n=2, differ=()), "an error is no verdict"


# Budget


@pytest.mark.parametrize(
    ("tokens", "seconds", "state", "value"),
    [(None, None, "not applicable", None), (100, None, "quiet", 0.9), (100, 10.0, "alarm", 1.2)],
)
def test_the_budget_is_the_one_that_is_nearer(
    tokens: int | None, seconds: float | None, state: str, value: float | None
) -> None:
    reading = budget(90, 12.0, tokens, seconds)
    assert (reading.state, reading.value) == (state, value and pytest.approx(value))


# Too little evidence

LITTLE = st.integers(min_value=0, max_value=LEAST - 1)


@given(LITTLE, st.integers(2, 5), st.floats(-5, 0), st.floats(-5, 0))
def test_few_watched_items_raise_no_alarm(items: int, draws: int, now: float, then: float) -> None:
    told = line(
        watched("incumbent", [["1"] * draws] * items, logprob=then),
        watched("candidate", [["7"] * draws] * items, logprob=now),
    )
    assert collapse(told, NO_ANSWERS, RULE, LEVEL).state == "not measured"
    assert wrong_consensus(told, None, RULE, LEVEL).state == "not measured"


@given(LITTLE)
def test_few_judged_tasks_raise_no_alarm(items: int) -> None:
    told = line(
        judged("incumbent", [0.0] * items, [1.0] * items), judged("candidate", [1.0] * items, [0.0] * items)
    )
    assert reward_hacking(told, ["pleasing"], RULE, LEVEL).state == "not measured"


@given(LITTLE, LITTLE)
def test_few_known_answers_raise_no_alarm(accepted: int, shown: int) -> None:
    tried = summary(
        right=shown, right_accepted=0, corrupted=0, corrupted_accepted=accepted, bias=Bias(accepted, 0, 0)
    )
    told = {ROUND: tables([summary()]), NEXT: tables([tried], compared(accepted, accepted), accepted)}
    assert judge_errors(told, [], "answer", RULE, LEVEL).state == "not measured"
    assert judge_bias(told[NEXT], "answer", RULE, LEVEL).state == "not measured"


@given(st.integers(0, 4), st.integers(1, 30))
def test_four_flips_are_no_harm(to_wrong: int, rounds: int) -> None:
    flips = Flips(to_right=0, to_wrong=to_wrong, n=to_wrong + 1)
    assert harmful_refinement([(0, flips)], rounds, RULE).state == "quiet"


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 12))
def test_the_chance_of_harm_by_luck_is_bounded(to_wrong: int, to_right: int, rounds: int) -> None:
    """What it calls p is never below that of the exact test of the same flips."""
    n = to_wrong + to_right
    reading = harmful_refinement([(0, Flips(to_right=to_right, to_wrong=to_wrong, n=n + 1))], rounds, RULE)
    tail = sum(comb(n, k) for k in range(to_wrong, n + 1)) / 2**n
    assert reading.value is not None
    assert reading.value >= tail * (1 - 1e-9)
