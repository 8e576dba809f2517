"""The ledger: one row per round over all campaigns, read back from the evaluation reports."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.report import ASSET, EvalReport
from selfimp_dagster.lifecycle.evaluation.summary import RoundSummary
from selfimp_dagster.lifecycle.fates import DIRECTIVES, Fate, fates, read_obeyed
from selfimp_dagster.lifecycle.history import FinishedRound, decide_after, read_finished
from selfimp_dagster.lifecycle.obedience import Obeyed
from selfimp_dagster.lifecycle.oversight import Standing, read_standing
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
        "recipe_changes": pl.String(),  # JSON of what the line has changed in the campaign's recipe
        "weights_round": pl.String(),  # whose checkpoint the round started from; null: the base model
        "promoted": pl.Boolean(),  # and approved where the campaign demands it: in force
        "status": pl.String(),  # of the candidate: promoted, rejected, waiting or refused (by a person)
        "champion": pl.Boolean(),  # see `champions`
        **{
            f"{arm}_{suite}{part}": pl.Float64()
            for suite in _SUITES
            for arm in _ARMS
            for part in ("", "_low", "_high")
        },
        "anchor_set": pl.Int64(),  # which set of anchor items, see pools.anchor_rounds
        "p_value": pl.Float64(),
        "alpha": pl.Float64(),
        "verdict": pl.String(),
        "alarms": pl.String(),  # the monitors whose alarm sounds, with commas; empty: none
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


def read_ledger(
    store: ArtifactStore, campaign: str | None = None, unreadable: list[SelfimpError] | None = None
) -> pl.DataFrame:
    """A row of LEDGER for each round that has an evaluation report, in the order of the rounds.

    With `unreadable`, rounds that cannot be read are left out and their errors put there.

    Raises:
        SelfimpError: a round cannot be read and `unreadable` is not given.
    """
    return _ledger(store, (key for key in store.rounds(campaign) if store.has(key, ASSET)), unreadable)


def read_line(store: ArtifactStore, key: RoundKey) -> pl.DataFrame:
    """The rows of LEDGER of a finished round and its ancestors, as the ledger was when it had only them."""
    return _ledger(store, read_policy(store, key)[0].line)


def read_fates(store: ArtifactStore, rounds: Iterable[str]) -> pl.DataFrame:
    """A row of DIRECTIVES for each directive that these rounds of a ledger were given.

    Raises:
        SelfimpError: a round cannot be read.
    """
    finished = _finished(store)
    rows = []
    for round_ in rounds:
        policy, _ = read_policy(store, RoundKey.parse(round_))
        if policy.directives:
            rows += [{"round": round_, **fate.row} for fate in _fates(store, policy, finished)]
    return frame(rows, DIRECTIVES)


def _fates(store: ArtifactStore, policy: Policy, finished: Callable[[str], FinishedRound]) -> list[Fate]:
    """What became of a finished round's directives, as far as its parent and its stages can be read."""
    before: RoundSummary | None = None
    told: dict[str, list[Obeyed]] = {}
    with suppress(SelfimpError):
        before = finished(policy.parent).summary if policy.parent else None
    with suppress(SelfimpError):
        told = read_obeyed(store, RoundKey.parse(policy.round))
    return fates(policy.directives, told, before, finished(policy.round).summary)


def newest_lines(store: ArtifactStore, ledger: pl.DataFrame) -> list[tuple[RoundKey, ...]]:
    """For each campaign of the ledger, its newest round with its ancestors."""
    newest = {key.campaign: key for key in map(RoundKey.parse, ledger["round"])}
    return [read_policy(store, key)[0].line for key in newest.values()]


def write_ledger(store: ArtifactStore, ledger: pl.DataFrame, directives: pl.DataFrame) -> Path:
    """Writes the ledger and its directives (DIRECTIVES) beside the campaigns, each atomically.

    Both can be rebuilt from the reports at any time.
    """
    path = store.folder / "ledger.parquet"
    write_parquet(store.folder / "directives.parquet", directives)
    write_parquet(path, ledger)
    return path


def champions(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """The round of each campaign whose checkpoint is its champion; none where only base models are in force.

    A round is the tip of a line if no round of the ledger has it as its parent. In force at a tip is the
    tip's own checkpoint if it was promoted, else the weights that the tip started from. Champion is, of
    the checkpoints in force at the tips, the one with the highest anchor accuracy, measured when it was
    promoted; on ties that of the earlier round. It is a pointer for people: nothing is decided by it.

    Args:
        rows: hold round, parent, weights_round, promoted and candidate_anchor, in the order of the rounds.
    """
    parents = {row["parent"] for row in rows}
    in_force = {
        row["round"] if row["promoted"] else row["weights_round"]
        for row in rows
        if row["round"] not in parents
    }
    best: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        campaign = RoundKey.parse(row["round"]).campaign
        if row["round"] in in_force and (campaign not in best or _anchor(row) > _anchor(best[campaign])):
            best[campaign] = row
    return {row["round"] for row in best.values()}


def _anchor(row: Mapping[str, Any]) -> float:
    accuracy: float | None = row["candidate_anchor"]
    return -1.0 if accuracy is None else accuracy  # a campaign need not have anchor items


def _ledger(
    store: ArtifactStore, keys: Iterable[RoundKey], unreadable: list[SelfimpError] | None = None
) -> pl.DataFrame:
    """The rows of these rounds."""
    finished = _finished(store)
    rows = []
    for key in keys:
        try:
            rows.append(_row(store, key, finished))
        except SelfimpError as error:
            if unreadable is None:
                raise
            unreadable.append(error)
    champion = champions(rows)
    return frame(({**row, "champion": row["round"] in champion} for row in rows), LEDGER)


def _finished(store: ArtifactStore) -> Callable[[str], FinishedRound]:
    """A reader of finished rounds that reads every log and report once, however many lines a round is on."""

    @cache
    def standing(campaign: str) -> Standing:
        return read_standing(store, campaign)

    @cache
    def finished(round_: str) -> FinishedRound:
        key = RoundKey.parse(round_)
        return read_finished(store, key, standing(key.campaign))

    return finished


def _row(store: ArtifactStore, key: RoundKey, finished: Callable[[str], FinishedRound]) -> dict[str, Any]:
    policy, _ = read_policy(store, key)
    report, outcome = finished(policy.round).report, finished(policy.round).outcome
    return {
        "round": str(key),
        "parent": policy.parent,
        "recipe_changes": json.dumps(policy.recipe_changes),
        "weights_round": policy.weights_round,
        "promoted": outcome.promoted,
        "status": outcome.status,
        **_scores(report),
        "anchor_set": policy.campaign.pools.anchor_set(key.number),
        "p_value": report.verdict.p_value,
        "alpha": report.verdict.alpha,
        "verdict": " ".join(report.verdict.reasons),
        "alarms": ", ".join(report.verdict.raised),
        "decision": _decision(policy, finished),
        "directives": "[" + ",".join(d.model_dump_json() for d in policy.directives) + "]",
        "tokens": report.summary.tokens,
        "seconds": report.summary.seconds,
        **{f"{stage}_seconds": cost.seconds for stage, cost in report.costs.items()},
        **{f"{stage}_tokens": cost.tokens for stage, cost in report.costs.items()},
        "checkpoint_hash": store.open(key, "checkpoint", verify=False).facts["policy_hash"],
        "fingerprint": report.fingerprint,
    }


def _decision(policy: Policy, finished: Callable[[str], FinishedRound]) -> str:
    try:
        line = [finished(round_) for round_ in (*policy.ancestors, policy.round)]
    except SelfimpError as error:  # of an ancestor: what the round itself measured is known
        return f"Not known: {error.where}: {error.what}."
    return decide_after(line, policy.campaign).reason


def _scores(report: EvalReport) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for suite in _SUITES:
        for arm in _ARMS:
            score = report.score(suite, arm)
            columns[f"{arm}_{suite}"] = score.accuracy if score else None
            columns[f"{arm}_{suite}_low"] = score.low if score else None
            columns[f"{arm}_{suite}_high"] = score.high if score else None
    return columns
