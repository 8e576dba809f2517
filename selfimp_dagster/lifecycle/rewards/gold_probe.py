"""The gold probe of judges: each is tried on answers that are known to be right or wrong, every round.

A judge whose precision there lies below its floor says nothing in that round.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import polars as pl
from pydantic import BaseModel, ConfigDict

from selfimp_dagster.lifecycle.evaluation.probe import Gold, gold_answers
from selfimp_dagster.lifecycle.evaluation.statistics import Estimate, rogan_gladen, wilson
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.lifecycle.rewards.context import Judge, RewardContext
from selfimp_dagster.lifecycle.rewards.judging import Reward
from selfimp_dagster.lifecycle.rewards.parameters import JudgeParameters
from selfimp_dagster.lifecycle.rewards.sources import JudgeSource
from selfimp_dagster.lifecycle.sampling import unaided
from selfimp_dagster.records import JUDGE_PROBE, REWARDS, SAMPLES, content_id, frame
from selfimp_dagster.tasks.pools import tasks_frame
from selfimp_dagster.tasks.suites import Task


class JudgeRecord(BaseModel):
    """A judge of a round, as the corpus records it. `barred` says why it is silent; empty: it is not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reward: str
    judge: str
    policy_hash: str | None  # of its weights; none: nobody can see them
    absolute: bool  # its values say how good a response is by itself
    accept: float
    floor: float
    barred: str


class Bias(NamedTuple):
    """Comparisons that were readable in both orders, and those that followed the position."""

    pairs: int
    for_first: int
    for_second: int

    @property
    def followed(self) -> int:
        return self.for_first + self.for_second


class JudgeSummary(NamedTuple):
    """What a round knows of one of its judges.

    `right` and `corrupted` count the answers of the probe that it gave a value; `silent` those that it did
    not. The rest is about the round's own samples: `judged` have a value, `abstained` have none; `unaided_*`
    are those of the judged that were drawn without help, `compared` those that the verifier judged too,
    without an error, and `agreed` those of these that both accept or both refuse.
    """

    record: JudgeRecord
    right: int
    right_accepted: int
    corrupted: int
    corrupted_accepted: int
    silent: int
    judged: int
    abstained: int
    unaided_judged: int
    unaided_accepted: int
    compared: int
    agreed: int
    bias: Bias

    @property
    def precision(self) -> Estimate | None:
        """Right answers among those that it accepted on the probe; none where it accepted nothing."""
        return _share(self.right_accepted, self.right_accepted + self.corrupted_accepted)

    @property
    def recall(self) -> Estimate | None:
        """Accepted answers among the right ones of the probe: its sensitivity."""
        return _share(self.right_accepted, self.right)

    @property
    def specificity(self) -> Estimate | None:
        """Refused answers among the corrupted ones of the probe."""
        return _share(self.corrupted - self.corrupted_accepted, self.corrupted)

    @property
    def accepted_rate(self) -> Estimate | None:
        """The share of the unaided samples that it accepted."""
        return _share(self.unaided_accepted, self.unaided_judged)

    @property
    def corrected_rate(self) -> Estimate | None:
        """The share of right samples behind `accepted_rate`; none where it has no absolute values."""
        if not self.record.absolute:
            return None
        return rogan_gladen(
            self.unaided_accepted,
            self.unaided_judged,
            (self.right_accepted, self.right),
            (self.corrupted - self.corrupted_accepted, self.corrupted),
        )

    @property
    def agreement(self) -> Estimate | None:
        """The share of compared samples on which judge and verifier agree; none without absolute values."""
        return _share(self.agreed, self.compared) if self.record.absolute else None

    @property
    def position_bias(self) -> Estimate | None:
        """The share of comparisons that followed the position."""
        return _share(self.bias.followed, self.bias.pairs)

    @classmethod
    def of(
        cls, record: JudgeRecord, probe: pl.DataFrame, rewards: pl.DataFrame, samples: pl.DataFrame
    ) -> Self:
        """The summary of a judge from the tables of its corpus: judge_probe, rewards, samples."""
        tried = probe.filter(pl.col("reward") == record.reward)
        told = tried.drop_nulls("accepted")
        right, corrupted = told.filter("right"), told.filter(~pl.col("right"))
        own = rewards.filter(pl.col("reward") == record.reward)
        judged = own.drop_nulls("value").with_columns(accepted=pl.col("value") >= record.accept)
        verifier = rewards.filter(pl.col("reward") == ANSWER, pl.col("confidence") > 0)
        both = judged.join(verifier.select("sample_id", right=pl.col("value") >= 1), on="sample_id")
        alone = judged.join(unaided(samples), on="sample_id", how="semi")
        return cls(
            record=record,
            right=right.height,
            right_accepted=int(right["accepted"].sum()),
            corrupted=corrupted.height,
            corrupted_accepted=int(corrupted["accepted"].sum()),
            silent=tried.height - told.height,
            judged=judged.height,
            abstained=own.height - judged.height,
            unaided_judged=alone.height,
            unaided_accepted=int(alone["accepted"].sum()),
            compared=both.height,
            agreed=both.filter(pl.col("accepted") == pl.col("right")).height,
            bias=position_bias([*tried["evidence"], *own["evidence"]]),
        )


def judges_of(rewards: Sequence[Reward]) -> list[tuple[Reward, JudgeParameters]]:
    """The rewards that models give."""
    return [(reward, p) for reward in rewards if isinstance(p := reward.parameters, JudgeParameters)]


def probe_judges(
    rewards: Sequence[Reward],
    tasks: Sequence[Task],
    judge: Callable[[JudgeSource], Judge],
    seed: int,
) -> pl.DataFrame:
    """Has every judge judge right and corrupted answers to train tasks (records.JUDGE_PROBE).

    The judges see these as they see all samples, and by the reward's own rules: a reward that compares
    compares the two answers to a task.
    """
    rows = []
    for reward, parameters in judges_of(rewards):
        shown = gold_answers(tasks, parameters.probe)
        if not shown:
            continue
        context = RewardContext(
            tasks=tasks_frame([gold.task for gold in shown], "train"),
            samples=frame((row for gold in shown for row in _samples(gold)), SAMPLES),
            rewards=REWARDS.to_frame(),
            seed=seed,
            judge=judge,
        )
        judged = {row["sample_id"]: row for row in reward.method.function(context, parameters).to_dicts()}
        for gold in shown:
            for right, sample in zip((True, False), _samples(gold), strict=True):
                verdict = judged[sample["sample_id"]]
                value = verdict["value"]
                rows.append(
                    {
                        "reward": reward.name,
                        "task_id": gold.task.task_id,
                        "skill": gold.task.skill,
                        "prompt": gold.task.prompt,
                        "response": sample["response"],
                        "right": right,
                        "value": value,
                        "confidence": verdict["confidence"],
                        "accepted": None if value is None else value >= parameters.accept,
                        "evidence": verdict["evidence"],
                    }
                )
    return frame(rows, JUDGE_PROBE)


def judge_records(
    rewards: Sequence[Reward], probe: pl.DataFrame, judge: Callable[[JudgeSource], Judge]
) -> list[JudgeRecord]:
    """Every judge with its standing: barred if its precision lies wholly below its floor."""
    return [
        JudgeRecord(
            reward=reward.name,
            judge=parameters.judge.label,
            policy_hash=judge(parameters.judge).policy_hash,
            absolute=parameters.absolute,
            accept=parameters.accept,
            floor=parameters.floor,
            barred=why_barred(probe.filter(pl.col("reward") == reward.name), parameters.floor),
        )
        for reward, parameters in judges_of(rewards)
    ]


def why_barred(probe: pl.DataFrame, floor: float) -> str:
    """Why a judge with these rows of its probe is silent; empty if it is not."""
    accepted = probe.filter("accepted")
    right, count = int(accepted["right"].sum()), accepted.height
    if wilson(right, count).high >= floor:
        return ""
    return (
        f"of {count} answers to the gold probe that the judge accepted, {right} are right: a precision of "
        f"{right / count:.2f}, below its floor of {floor:g} with the whole interval"
    )


def barred(records: Iterable[JudgeRecord]) -> Mapping[str, str]:
    """The rewards that say nothing, with the reason."""
    return {record.reward: record.barred for record in records if record.barred}


def position_bias(evidence: Iterable[str]) -> Bias:
    """How often the verdicts followed the position, from the evidence of a judge's rows.

    A game stands in the evidence of every sample that it is about, and counts once.
    """
    games = {
        order["game"]: (order["first"], order["second"])
        for text in evidence
        for order in json.loads(text).get("orders", ())
    }
    came_of = Counter(both for both in games.values() if None not in both)
    return Bias(came_of.total(), came_of[1.0, 0.0], came_of[0.0, 1.0])


def _samples(gold: Gold) -> list[dict[str, object]]:
    """The right and the corrupted answer as samples that no weights drew."""
    return [
        {
            "sample_id": content_id("gold", gold.task.task_id, response),
            "task_id": gold.task.task_id,
            "policy_hash": "",
            "response": response,
        }
        for response in (gold.right, gold.corrupted)
    ]


def _share(count: int, total: int) -> Estimate | None:
    return Estimate(count / total, *wilson(count, total), total) if total else None
