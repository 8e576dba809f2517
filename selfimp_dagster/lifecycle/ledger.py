"""The ledger: one row per round over all campaigns, read back from the evaluation reports."""

from pathlib import Path

import polars as pl

from selfimp_dagster.lifecycle.evaluation.continuation import decide
from selfimp_dagster.lifecycle.evaluation.report import ASSET, EvalReport, read_report
from selfimp_dagster.lifecycle.history import read_history
from selfimp_dagster.lifecycle.policy import Policy, read_policy
from selfimp_dagster.records import frame
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore, write_parquet

_SUITES = ("anchor", "fresh", "guard")
_ARMS = ("incumbent", "candidate")

STAGES = ("incumbent_policy", "generated_corpus", "selected_subset", "checkpoint", "refined_outputs", ASSET)
"""The artifacts of a round, in the order in which they are made."""

LEDGER = pl.Schema(
    {
        "round": pl.String(),
        "parent": pl.String(),
        "weights_round": pl.String(),  # whose checkpoint the round started from; null: the base model
        "promoted": pl.Boolean(),
        **{
            f"{arm}_{suite}{part}": pl.Float64()
            for suite in _SUITES
            for arm in _ARMS
            for part in ("", "_low", "_high")
        },
        "p_value": pl.Float64(),
        "alpha": pl.Float64(),
        "verdict": pl.String(),
        "decision": pl.String(),
        "directives": pl.String(),  # JSON of the directives that the round was started with
        "tokens": pl.Int64(),
        "seconds": pl.Float64(),
        **{f"{stage}_seconds": pl.Float64() for stage in STAGES[1:]},
        **{f"{stage}_tokens": pl.Int64() for stage in STAGES[1:]},
        "checkpoint_hash": pl.String(),
        "fingerprint": pl.String(),
    }
)


def read_ledger(store: ArtifactStore, campaign: str | None = None) -> pl.DataFrame:
    """A row of LEDGER for each round that has an evaluation report, in the order of the rounds."""
    keys = [key for key in store.rounds(campaign) if store.has(key, ASSET)]
    return frame((_row(store, key) for key in keys), LEDGER)


def newest_lines(store: ArtifactStore, ledger: pl.DataFrame) -> list[tuple[RoundKey, ...]]:
    """For each campaign of the ledger, its newest round with its ancestors."""
    newest = {key.campaign: key for key in map(RoundKey.parse, ledger["round"])}
    return [read_policy(store, key)[0].line for key in newest.values()]


def write_ledger(store: ArtifactStore, ledger: pl.DataFrame) -> Path:
    """Writes the ledger beside the campaigns, atomically; it can be rebuilt from the reports at any time."""
    path = store.folder / "ledger.parquet"
    write_parquet(path, ledger)
    return path


def _row(store: ArtifactStore, key: RoundKey) -> dict[str, object]:
    policy, _ = read_policy(store, key)
    report = read_report(store, key)
    return {
        "round": str(key),
        "parent": policy.parent,
        "weights_round": policy.weights_round,
        "promoted": report.verdict.promoted,
        **_scores(report),
        "p_value": report.verdict.p_value,
        "alpha": report.verdict.alpha,
        "verdict": " ".join(report.verdict.reasons),
        "decision": _decision(store, key, policy),
        "directives": "[" + ",".join(d.model_dump_json() for d in policy.directives) + "]",
        "tokens": report.summary.tokens,
        "seconds": report.summary.seconds,
        **{f"{stage}_seconds": cost.seconds for stage, cost in report.costs.items()},
        **{f"{stage}_tokens": cost.tokens for stage, cost in report.costs.items()},
        "checkpoint_hash": store.open(key, "checkpoint", verify=False).facts["policy_hash"],
        "fingerprint": report.fingerprint,
    }


def _scores(report: EvalReport) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for suite in _SUITES:
        for arm in _ARMS:
            score = report.score(suite, arm)
            columns[f"{arm}_{suite}"] = score.accuracy if score else None
            columns[f"{arm}_{suite}_low"] = score.low if score else None
            columns[f"{arm}_{suite}_high"] = score.high if score else None
    return columns


def _decision(store: ArtifactStore, key: RoundKey, policy: Policy) -> str:
    history = read_history(store, policy.line)
    return decide(history, policy.campaign.continuation, policy.campaign.skill_weights).reason
