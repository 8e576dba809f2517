"""Rewards of proposers and solvers (survey 2.4.3): each reward judges both roles, as its paper does.

A sample is a proposer's if its task has the verifier `proposing`. What became of it stands in the proposals
of the round; how its task was solved, in the samples of that task.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.acquisition.reasons import Reason
from selfimp_dagster.lifecycle.rewards.answer import answer_rewards
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.votes import MajorityVote, majority_vote
from selfimp_dagster.lifecycle.rouge import rouge_l, words
from selfimp_dagster.records import REWARDS, canonical_json, frame
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.pools import prompt_key, tasks_from_frame
from selfimp_dagster.tasks.programs import PROGRAM_VERIFIERS, well_formed
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.verifiers import PROPOSING, comparable_answer

_OURS = frozenset({Reason.EVALUATION.value, Reason.DEPTH.value, Reason.SHARE.value})
"""Reasons that are no fault of the proposer's: such a proposal has no reward."""

_SPICE_WIDTH = 0.01
"""The variance of SPICE's Gaussian over variances."""


@dataclass(frozen=True)
class Fate:
    """What became of a proposer's sample: the task that it became, or why it became none."""

    sample_id: str
    prompt: str
    task_id: str | None
    reason: str | None


Value = Callable[[Fate], tuple[float | None, Mapping[str, object]]]
"""What a proposal is worth, with the numbers behind it; none where that cannot be said."""


class RZero(BaseModel):
    """Parameters of the reward `r_zero`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alike: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Mean distance, 1 - ROUGE-L, up to which groups of questions count as one cluster.",
    )


@method(
    "reward",
    "r_zero",
    parameters=RZero,
    section="2.4.3",
    paper="arXiv:2508.05004",
    gives=frozenset({"score"}),
)
def r_zero(context: RewardContext, parameters: RZero) -> pl.DataFrame:
    """Solvers are rewarded for the majority's answer, proposers for questions that split them (R-Zero).

    In: the proposals of the round and several answers to each question; signal: p, the share of the most
    frequent answer; out (kind H): for an answer 1 if it is the majority's, else 0; for a proposal
    max(0, 1 - 2|p - 1/2| - s), where s is the share of all questions of the round that are in its cluster,
    and 0 for one that could not be used. Clusters join by mean distance; the paper measures it with BLEU,
    here it is 1 - ROUGE-L.
    """
    proposals, solvers = _roles(context)
    votes = _votes(solvers)
    fates = _fates(context, proposals)
    asked = [fate for fate in fates if fate.task_id is not None]
    shares = dict(
        zip(
            (fate.sample_id for fate in asked),
            repetition_shares([fate.prompt for fate in asked], parameters.alike),
            strict=True,
        )
    )

    def value(fate: Fate) -> tuple[float | None, Mapping[str, object]]:
        p = votes.get(str(fate.task_id))
        if p is None:
            return None, {"why": "its question was not answered"}
        repeated = shares[fate.sample_id]
        return r_zero_value(p, repeated), {"majority": p, "repeated": repeated}

    won = majority_vote(solvers, MajorityVote()).with_columns(pl.lit("r_zero").alias("reward"))
    return pl.concat([won, _proposers("r_zero", "H", fates, value, {"unusable": 0.0, "malformed": 0.0})])


class AbsoluteZero(BaseModel):
    """Parameters of the reward `absolute_zero`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@method(
    "reward",
    "absolute_zero",
    parameters=AbsoluteZero,
    section="2.4.3",
    paper="arXiv:2505.03335",
    gives=frozenset({"score"}),
)
def absolute_zero(context: RewardContext, parameters: AbsoluteZero) -> pl.DataFrame:
    """Solvers are rewarded for what execution confirms, proposers for tasks that are hard but solvable.

    In: the proposals of the round and several responses to each task; signal: p, the share that the executor
    confirms; out (kind V): for a proposal 1 - p, or 0 where p is 0 or 1; for a response 1 if it is right. In
    both roles something in the right form that is wrong or does not run is worth -0.5, and what has not that
    form -1 (Absolute Zero, section 3.3).
    """
    proposals, solvers = _roles(context)
    judged = answer_rewards(solvers.tasks, solvers.samples)
    rates = _pass_rates(solvers, judged)

    by_id = {task.task_id: task for task in tasks_from_frame(solvers.tasks)}
    formed = [
        id_
        for id_, task, response in solvers.samples.select("sample_id", "task_id", "response").iter_rows()
        if _has_form(by_id[task], response)
    ]
    wrong = pl.col("sample_id").is_in(formed)
    own = judged.with_columns(
        pl.lit("absolute_zero").alias("reward"),
        pl.when(pl.col("value") < 1)
        .then(pl.when(wrong).then(-0.5).otherwise(-1.0))
        .otherwise("value")
        .alias("value"),
    )
    fates = _fates(context, proposals)
    told = _proposers(
        "absolute_zero",
        "V",
        fates,
        _by_rate(rates, absolute_zero_value),
        {"unusable": -0.5, "malformed": -1.0},
    )
    return pl.concat([own, told])


class Spice(BaseModel):
    """Parameters of the reward `spice`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    penalty: float = Field(default=0.1, ge=0, description="What a proposal that cannot be used costs.")


@method(
    "reward", "spice", parameters=Spice, section="2.4.3", paper="arXiv:2510.24684", gives=frozenset({"score"})
)
def spice(context: RewardContext, parameters: Spice) -> pl.DataFrame:
    """Reasoners are rewarded for the text's answer, challengers for what they get right half the time.

    In: the proposals of the round, made with a text in sight, and several answers to each question, drawn
    without it; signal: Var, the variance p(1 - p) of the answers' correctness; out (kind V): for an answer 1
    if it is the text's, else 0; for a proposal exp(-(Var - 1/4)^2 / 0.02), or minus `penalty` if it cannot be
    used (SPICE, section 3).
    """
    proposals, solvers = _roles(context)
    judged = answer_rewards(solvers.tasks, solvers.samples)
    rates = _pass_rates(solvers, judged)

    fates = _fates(context, proposals)
    unused = {"unusable": -parameters.penalty, "malformed": -parameters.penalty}
    told = _proposers("spice", "V", fates, _by_rate(rates, spice_value), unused)
    return pl.concat([judged.with_columns(pl.lit("spice").alias("reward")), told])


def r_zero_value(p: float, repeated: float) -> float:
    """R-Zero's reward of a question: p of its answers agree, and its cluster has that share of all."""
    return max(0.0, 1 - 2 * abs(p - 0.5) - repeated)


def absolute_zero_value(p: float) -> float:
    """Absolute Zero's reward of a task that the share p of the responses solves."""
    return 0.0 if p in (0, 1) else 1 - p


def spice_value(p: float) -> float:
    """SPICE's reward of a question that the share p of the answers gets right."""
    return math.exp(-((p * (1 - p) - 0.25) ** 2) / (2 * _SPICE_WIDTH))


def repetition_shares(texts: Sequence[str], alike: float) -> list[float]:
    """For each text the share of all texts that are in its cluster, itself included.

    Clusters are joined by their mean distance, 1 - ROUGE-L, up to `alike` (average linkage).
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(texts) < 2:
        return [1.0] * len(texts)
    split = [words(text) for text in texts]
    distances = [1 - rouge_l(one, other) for n, one in enumerate(split) for other in split[n + 1 :]]
    clusters = fcluster(linkage(distances, method="average"), t=alike, criterion="distance").tolist()
    return [clusters.count(cluster) / len(texts) for cluster in clusters]


def _roles(context: RewardContext) -> tuple[pl.DataFrame, RewardContext]:
    """The proposers' samples, and the context with the others alone."""
    proposing = context.tasks.filter(verifier=PROPOSING)
    proposals = context.samples.join(proposing, on="task_id", how="semi", maintain_order="left")
    return proposals, replace(
        context,
        tasks=context.tasks.join(proposing, on="task_id", how="anti", maintain_order="left"),
        samples=context.samples.join(proposing, on="task_id", how="anti", maintain_order="left"),
    )


def _fates(context: RewardContext, proposals: pl.DataFrame) -> list[Fate]:
    """What became of the proposers' samples; one that says the same as another shares its task."""
    made = {row["draft_id"]: row for row in context.proposals.to_dicts() if row["draft_id"] is not None}
    tasks = {prompt_key(row["prompt"]): row["task_id"] for row in made.values() if row["task_id"] is not None}
    fates = []
    for id_ in proposals["sample_id"]:
        row = made.get(id_)
        if row is None:
            fates.append(Fate(id_, "", None, None))
            continue
        known = row["reason"] == Reason.KNOWN.value and prompt_key(row["prompt"]) in tasks
        task = tasks[prompt_key(row["prompt"])] if known else row["task_id"]
        fates.append(Fate(id_, row["prompt"], task, None if known else row["reason"]))
    return fates


def _proposers(
    name: str, kind: str, fates: Sequence[Fate], value: Value, unused: Mapping[str, float]
) -> pl.DataFrame:
    """The rewards of proposals; `unused` are those of what was not in its form, and of what was no use."""
    rows = []
    for fate in fates:
        told: float | None
        evidence: Mapping[str, object]
        if fate.task_id is not None:
            told, evidence = value(fate)
        elif fate.reason is None or fate.reason in _OURS:
            told, evidence = None, {"why": "it was set aside", "reason": fate.reason}
        else:
            bad = fate.reason in (Reason.FORM.value, Reason.EMPTY.value, Reason.ENDLESS.value)
            told, evidence = unused["malformed" if bad else "unusable"], {"rejected": fate.reason}
        rows.append(
            {
                "sample_id": fate.sample_id,
                "reward": name,
                "kind": kind,
                "value": told,
                "confidence": 0.0 if told is None else 1.0,
                "evidence": canonical_json({**evidence, "task": fate.task_id}),
            }
        )
    return frame(rows, REWARDS)


def _by_rate(rates: Mapping[str, float], worth: Callable[[float], float]) -> Value:
    """What a proposal is worth by the share of right responses to its task."""

    def value(fate: Fate) -> tuple[float | None, Mapping[str, object]]:
        p = rates.get(str(fate.task_id))
        return (None, {"why": "its task was not tried"}) if p is None else (worth(p), {"right": p})

    return value


def _has_form(task: Task, response: str) -> bool:
    if task.verifier in PROGRAM_VERIFIERS:
        return well_formed(task.verifier, response)
    return comparable_answer(task, response) is not None


def _votes(solvers: RewardContext) -> dict[str, float]:
    """The share of the most frequent answer among all responses to each task."""
    tasks = {task.task_id: task for task in tasks_from_frame(solvers.tasks)}
    found = {}
    for (id_,), samples in solvers.samples.partition_by("task_id", as_dict=True, maintain_order=True).items():
        answers = [comparable_answer(tasks[str(id_)], response) for response in samples["response"]]
        most = max((answers.count(answer) for answer in answers if answer is not None), default=0)
        found[str(id_)] = most / len(answers)
    return found


def _pass_rates(solvers: RewardContext, judged: pl.DataFrame) -> dict[str, float]:
    """The share of right responses to each task that has verdicts."""
    right = solvers.samples.select("sample_id", "task_id").join(judged, on="sample_id").drop_nulls("value")
    return dict(right.group_by("task_id").agg((pl.col("value") >= 1).mean()).iter_rows())
