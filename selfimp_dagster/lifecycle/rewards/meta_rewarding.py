"""The reward `meta_rewarding`: responses by the judgements of them, and judgements by a meta-judge."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean, pvariance
from typing import Any

import polars as pl
from pydantic import Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.engines.chat import Reply
from selfimp_dagster.lifecycle.evaluation.statistics import bradley_terry
from selfimp_dagster.lifecycle.rewards.context import Question, RewardContext
from selfimp_dagster.lifecycle.rewards.judge import GRADE
from selfimp_dagster.lifecycle.rewards.parameters import NamedParameters
from selfimp_dagster.lifecycle.rewards.sources import IncumbentWeights, JudgeSource
from selfimp_dagster.lifecycle.rewards.verdicts import forges, question, quoted, read_reply
from selfimp_dagster.records import REWARDS, canonical_json, derive_seed, frame
from selfimp_dagster.registry import method

META_REWARDING = "meta_rewarding"
JUDGING = "judging"
"""The skill of tasks to judge a response; their `entry` says which, and the best grade."""

_WINNER = re.compile(r"Winner: ?(A|B)", re.IGNORECASE)
_TIE_BREAK = 1e-3  # of a grade: what length may decide within a tier


class MetaRewarding(NamedParameters):
    """Parameters of the reward `meta_rewarding`."""

    judge: JudgeSource = Field(
        default=IncumbentWeights(source="incumbent"),
        description="The meta-judge; in the paper the policy itself.",
    )
    tier: float = Field(
        default=0.1,
        ge=0,
        lt=0.5,
        description="Part of the range of a task's grades within which responses count as equally good, or "
        "equally bad, so that the shorter one is better.",
    )
    sampling: Sampling = Field(
        default=Sampling(max_new_tokens=128, temperature=0.7),
        description="How the meta-judge's words are drawn.",
    )


@method(
    "reward",
    META_REWARDING,
    parameters=MetaRewarding,
    section="4.3",
    paper="arXiv:2407.19594",
    gives=frozenset({"ordering"}),
)
def meta_rewarding(context: RewardContext, parameters: MetaRewarding) -> pl.DataFrame:
    """Responses are worth their mean grade, judgements what a meta-judge finds them worth (kind M).

    In: responses with several judgements of each, which the acquisition `meta_rewarding` draws. Signal: for a
    response the mean of its readable grades over the best one; within the best tier of its task, and within
    the worst, the shorter one is worth a little more (Wu et al., section 2.2, length control). For the
    judgements of the response whose grades vary most, one response of each task, the meta-judge says which of
    two is better, in both orders; a win counts with the share of wins that the other place has, which
    balances a liking for one place, and the value is the strength in these battles (section 2.3, there Elo
    scores, the same model on another scale). Other judgements, and what cannot be read, have no value.
    """
    judging = context.tasks.filter(skill=JUDGING, source=META_REWARDING)
    judged = {task: json.loads(entry) for task, entry in judging.select("task_id", "entry").iter_rows()}
    grades = _grades(context, judged)
    by_response: dict[str, list[float]] = {}
    for row in grades.values():
        by_response.setdefault(row["judges"], []).append(row["grade"])
    responses = context.samples.join(judging, on="task_id", how="anti", maintain_order="left")
    told = {"reward": parameters.name or META_REWARDING, "kind": "M"}
    rows = []
    varied: list[str] = []
    for group in responses.partition_by("task_id", maintain_order=True):
        lengths = dict(zip(group["sample_id"], group["response"].str.len_chars(), strict=True))
        means = {id_: fmean(by_response[id_]) for id_ in lengths if id_ in by_response}
        values = length_controlled(means, lengths, parameters.tier)
        for id_ in lengths:
            given = {"grades": by_response.get(id_, [])}
            rows.append(_row(id_, told, values.get(id_), given))
        if means:
            varied.append(max(means, key=lambda id_: (pvariance(by_response[id_]), id_)))
    battles = _battles(context, parameters, grades, varied)
    judgements = context.samples.join(judging, on="task_id", how="semi", maintain_order="left")
    rows += [
        _row(id_, told, *battles.get(id_, (None, {"why": _why(grades.get(id_))})))
        for id_ in judgements["sample_id"]
    ]
    return frame(rows, REWARDS)


def length_controlled(
    means: Mapping[str, float], lengths: Mapping[str, int], tier: float
) -> dict[str, float]:
    """Mean grades, where length decides within the best and the worst tier of them.

    Args:
        means: mean grade of each response, from 0 to 1.
        lengths: characters of each.
        tier: part of the range of the means that counts as one.
    """
    if not means:
        return {}
    low, high = min(means.values()), max(means.values())
    reach = tier * (high - low)
    longest = max(1, *(lengths[id_] for id_ in means))
    found = {}
    for id_, mean in means.items():
        brief = _TIE_BREAK * (1 - lengths[id_] / longest)
        if high > low and mean >= high - reach:
            found[id_] = high + brief
        elif high > low and mean <= low + reach:
            found[id_] = low + brief
        else:
            found[id_] = mean
    return found


def place_weights(first: int, second: int) -> tuple[float, float]:
    """What a win in the first place and one in the second count, when so many were won in each.

    The share of the other place: a judge that likes one place gives it more wins, which count less.
    """
    if first + second == 0:
        return 0.5, 0.5
    return second / (first + second), first / (first + second)


def _grades(context: RewardContext, judged: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The readable judgements by sample: the response that each judges, the grade from 0 to 1, its words."""
    found = {}
    rows = context.samples.filter(pl.col("task_id").is_in(list(judged)))
    for row in rows.iter_rows(named=True):
        entry = judged[row["task_id"]]
        reply = Reply("", row["response"], finish_reason=row["finish_reason"])
        verdict = read_reply(reply, GRADE)
        if verdict.said and int(verdict.said) <= entry["best"]:
            found[row["sample_id"]] = {
                "judges": entry["judges"],
                "grade": int(verdict.said) / entry["best"],
                "asked": row["messages"][-1]["content"],
                "said": row["response"],
            }
    return found


def _battles(
    context: RewardContext,
    parameters: MetaRewarding,
    grades: Mapping[str, Mapping[str, Any]],
    varied: Sequence[str],
) -> dict[str, tuple[float, dict[str, Any]]]:
    """The strength of each judgement of these responses, and the battles behind it."""
    groups = {
        response: [id_ for id_, row in grades.items() if row["judges"] == response] for response in varied
    }
    pairs = [
        (response, one, other) for response, ids in groups.items() for one, other in combinations(ids, 2)
    ]
    fair = [pair for pair in pairs if not any(forges(str(grades[id_]["said"]), _WINNER) for id_ in pair[1:])]
    questions = [
        _comparison(context.seed, grades, shown)
        for _, one, other in fair
        for shown in ((one, other), (other, one))
    ]
    label = f"{parameters.name or META_REWARDING}: comparing judgements"
    replies = context.judge(parameters.judge).ask(questions, parameters.sampling, label=label)
    said = [read_reply(reply, _WINNER).said.upper() for reply in replies]
    first, second = place_weights(said.count("A"), said.count("B"))
    games: dict[str, list[tuple[int, int, float]]] = {response: [] for response in groups}
    fought: dict[str, int] = {}
    for (response, one, other), straight, turned in zip(fair, said[::2], said[1::2], strict=True):
        place = groups[response].index
        for winner, weight in (
            ({"A": one, "B": other}.get(straight), first if straight == "A" else second),
            ({"A": other, "B": one}.get(turned), first if turned == "A" else second),
        ):
            if winner is None:
                continue
            # A win that counts w of a whole one is a game won by (1 + w) / 2: a draw where it counts nothing.
            games[response].append(
                (place(one), place(other), (1 + (weight if winner == one else -weight)) / 2)
            )
            for id_ in (one, other):
                fought[id_] = fought.get(id_, 0) + 1
    found = {}
    for response, ids in groups.items():
        strengths = bradley_terry(len(ids), games[response])
        for id_, strength in zip(ids, strengths, strict=True):
            if id_ in fought:
                found[id_] = (
                    strength / (1 + strength),
                    {"battles": fought[id_], "grade": grades[id_]["grade"]},
                )
    return found


def _comparison(seed: int, grades: Mapping[str, Mapping[str, Any]], shown: tuple[str, str]) -> Question:
    asked = str(grades[shown[0]]["asked"])
    one, other = (quoted(str(grades[id_]["said"])) for id_ in shown)
    return question(
        derive_seed(seed, META_REWARDING, *shown),
        "Two judges were asked the same, and judged as follows.",
        f"What they were asked:\n{quoted(asked)}",
        f"Judgement A:\n{one}",
        f"Judgement B:\n{other}",
        "Say which judgement is the better one: which keeps to what was asked, reasons rightly and gives the "
        "grade that the answer deserves. Reply with a short reason, and then on a last line of its own with "
        "the word Winner, a colon and A or B.",
    )


def _row(id_: str, told: Mapping[str, str], value: float | None, evidence: dict[str, Any]) -> dict[str, Any]:
    return {
        "sample_id": id_,
        **told,
        "value": value,
        "confidence": 0.0 if value is None else 1.0,
        "evidence": canonical_json(evidence),
    }


def _why(row: Mapping[str, Any] | None) -> str:
    return "it could not be read" if row is None else "it was not compared with another judgement"
