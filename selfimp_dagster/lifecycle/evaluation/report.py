"""What an evaluation says of a round: scores, verdict, cost."""

from collections.abc import Iterable

import polars as pl
from pydantic import BaseModel, ConfigDict

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.cost import StageCost
from selfimp_dagster.lifecycle.evaluation.dimensions import cost_dimensions, in_order
from selfimp_dagster.lifecycle.evaluation.monitors.budget import budget
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading, readings_of
from selfimp_dagster.lifecycle.evaluation.promotion import Verdict
from selfimp_dagster.lifecycle.evaluation.summary import Counted, RoundSummary
from selfimp_dagster.records import DIMENSIONS, MONITORS
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

ASSET = "eval_report"


class Score(BaseModel):
    """Accuracy of one arm on one suite, on the campaign's mix, with its 95 % interval."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    suite: str
    arm: str
    accuracy: float
    low: float
    high: float
    n: int


class SkillScore(Score):
    """Accuracy of one arm on the items of one skill in one suite."""

    skill: str


class LevelScore(BaseModel):
    """Sum of the scores of one arm on the anchor and fresh items of one skill and level of difficulty."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skill: str
    level: float
    arm: str
    right: float
    n: int


MEASURED: dict[str, bool | dict[str, bool]] = {"costs": True, "summary": {"tokens": True, "seconds": True}}
"""What two evaluations of one round may differ in: kept with the artifact's measurements, not its content."""


class EvalReport(BaseModel):
    """The report of a round. `fingerprint` names the harness that measured both arms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    round: str
    fingerprint: str
    harness: dict[str, object]
    scores: tuple[Score, ...]
    skills: tuple[SkillScore, ...]
    levels: tuple[LevelScore, ...] = ()
    verdict: Verdict
    summary: RoundSummary
    costs: dict[str, StageCost]

    def score(self, suite: str, arm: str) -> Score | None:
        """The score of an arm on a suite, or none if the campaign has no such suite."""
        return next((s for s in self.scores if (s.suite, s.arm) == (suite, arm)), None)


def skill_counts(skills: Iterable[SkillScore], arm: str) -> dict[str, Counted]:
    """The anchor items that an arm got right, by skill."""
    mine = (score for score in skills if (score.arm, score.suite) == (arm, "anchor"))
    return {score.skill: Counted(right=round(score.accuracy * score.n, 9), n=score.n) for score in mine}


def level_counts(levels: Iterable[LevelScore], arm: str) -> dict[str, dict[float, Counted]]:
    """The items that an arm got right, by skill and level."""
    found: dict[str, dict[float, Counted]] = {}
    for score in levels:
        if score.arm == arm:
            found.setdefault(score.skill, {})[score.level] = Counted(right=score.right, n=score.n)
    return found


def read_report(store: ArtifactStore, key: RoundKey) -> EvalReport:
    """The evaluation report of a round.

    Raises:
        SelfimpError: there is none, or it was altered.
    """
    artifact = store.open(key, ASSET)
    report = artifact.json("report")
    costs: dict[str, dict[str, float]] = artifact.measurements["stages"]
    report["costs"] = costs
    report["summary"] |= {
        measure: sum(cost[measure] for cost in costs.values()) for measure in ("tokens", "seconds")
    }
    return EvalReport.model_validate(report)


def is_quarantined(store: ArtifactStore, key: RoundKey) -> bool:
    """Whether nothing of what a round made may be trained on, because its evaluator was tampered with."""
    return store.has(key, ASSET) and bool(store.manifest(key, ASSET).facts.get("quarantined"))


def read_dimensions(store: ArtifactStore, key: RoundKey) -> pl.DataFrame:
    """The dimensions of a round (records.DIMENSIONS), those that hang on its cost included.

    Raises:
        SelfimpError: there is no report, it was altered, or it was made before dimensions were measured.
    """
    artifact = store.open(key, ASSET)
    if not artifact.has_table("dimensions"):
        raise SelfimpError(
            "the report was made before dimensions were measured",
            where=f"{key} {ASSET}",
            fix=f"materialize {ASSET} of {key} again",
        )
    report = read_report(store, key)
    costs = cost_dimensions(
        report.verdict,
        report.summary.seconds,
        report.summary.tokens,
        report.costs["generated_corpus"].tokens,
        store.open(key, "selected_subset", verify=False).facts["kept"],
    )
    return in_order(pl.concat([artifact.table("dimensions", DIMENSIONS), costs]))


def dimensions_of(store: ArtifactStore, keys: Iterable[RoundKey]) -> pl.DataFrame:
    """The dimensions of several rounds with the column `round` before the others.

    Rounds without a report and reports from before dimensions were measured are left out.

    Raises:
        SelfimpError: an artifact was altered.
    """
    measured = [
        key
        for key in keys
        if store.has(key, ASSET) and store.open(key, ASSET, verify=False).has_table("dimensions")
    ]
    tables = [
        read_dimensions(store, key).insert_column(0, pl.lit(str(key)).alias("round")) for key in measured
    ]
    return pl.concat([pl.DataFrame(schema={"round": pl.String, **DIMENSIONS}), *tables])


def read_monitors(store: ArtifactStore, key: RoundKey) -> tuple[Reading, ...]:
    """What every monitor says of a round, in the order of MONITORS; nothing where there were none yet.

    Raises:
        SelfimpError: there is no report, or it or an earlier one of the line was altered.
    """
    artifact = store.open(key, ASSET)
    if not artifact.has_table("monitors"):
        return ()
    readings = readings_of(artifact.table("monitors", MONITORS))
    start = store.open(key, "incumbent_policy").json("policy")
    limits = start["campaign"]["continuation"].get("budget", {})
    rounds = (*start["ancestors"], str(key)) if any(limits.values()) else ()
    line = [read_report(store, RoundKey.parse(round_)).summary for round_ in rounds]
    spent = budget(
        sum(summary.tokens for summary in line),
        sum(summary.seconds for summary in line),
        limits.get("tokens"),
        limits.get("seconds"),
    )
    return (*readings, spent)
