"""The store as SQL: every table of every round as a DuckDB view over its Parquet files, and the manifests."""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from selfimp_dagster.campaign import Approval
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.cost import StageCost
from selfimp_dagster.lifecycle.fates import DIRECTIVES
from selfimp_dagster.lifecycle.ledger import LEDGER, read_fates, read_ledger
from selfimp_dagster.lifecycle.oversight import Standing, read_standing, status_of
from selfimp_dagster.lifecycle.selection.spare import SPARE
from selfimp_dagster.lifecycle.selection.stage import SUBSET
from selfimp_dagster.lineage.inventory import Inventory, take_inventory, verified
from selfimp_dagster.records import (
    DIMENSIONS,
    DOCUMENTS,
    EPISODES,
    EVALUATIONS,
    JUDGE_PROBE,
    MONITORS,
    PROPOSALS,
    REFINEMENTS,
    REWARDED,
    REWARDS,
    REWORDINGS,
    SAMPLES,
    SELECTION,
    TASKS,
    TRAINING,
    TRAINING_CURVE,
    TRAINING_METRICS,
    TWINS,
    WATCHED,
)
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore, write_error

_VIEWS = {
    ("generated_corpus", "tasks"): ("tasks", TASKS),
    ("generated_corpus", "samples"): ("samples", SAMPLES),
    ("generated_corpus", "rewards"): ("rewards", REWARDS),
    ("generated_corpus", "judge_probe"): ("judge_probe", JUDGE_PROBE),
    ("generated_corpus", "proposals"): ("proposals", PROPOSALS),
    ("generated_corpus", "drafts"): ("drafts", SAMPLES),
    ("generated_corpus", "documents"): ("documents", DOCUMENTS),
    ("selected_subset", "selection"): ("selection", SELECTION),
    ("selected_subset", "subset"): ("subset", SUBSET),
    ("selected_subset", "spare"): ("spare", SPARE),
    ("checkpoint", "training"): ("training", TRAINING),
    ("checkpoint", "training_curve"): ("training_curve", TRAINING_CURVE),
    ("checkpoint", "training_metrics"): ("training_metrics", TRAINING_METRICS),
    ("checkpoint", "rollouts"): ("rollouts", SAMPLES),
    ("checkpoint", "rollout_rewards"): ("rollout_rewards", REWARDS),
    ("refined_outputs", "tasks"): ("refined_tasks", TASKS),
    ("refined_outputs", "refinements"): ("refinements", REFINEMENTS),
    ("refined_outputs", "samples"): ("refined_samples", SAMPLES),
    ("refined_outputs", "rewards"): ("refined_rewards", REWARDS),
    ("eval_report", "items"): ("evaluation_items", TASKS),
    ("eval_report", "evaluations"): ("evaluations", EVALUATIONS),
    ("eval_report", "rewordings"): ("rewordings", REWORDINGS),
    ("eval_report", "twins"): ("twins", TWINS),
    ("eval_report", "episodes"): ("episodes", EPISODES),
    ("eval_report", "dimensions"): ("dimensions", DIMENSIONS),
    ("eval_report", "watched"): ("watched", WATCHED),
    ("eval_report", "rewarded"): ("rewarded", REWARDED),
    ("eval_report", "monitors"): ("monitors", MONITORS),
}

ROUNDS = pl.Schema(
    {
        "round": pl.String(),
        "campaign": pl.String(),
        "number": pl.Int64(),
        "parent": pl.String(),
        "weights_round": pl.String(),  # whose checkpoint the round started from; null: the base model
        "policy_hash": pl.String(),  # the weights it started from
        "candidate_hash": pl.String(),  # the weights that it trained; null: none yet
        "promoted": pl.Boolean(),  # null: not measured yet
        "seed": pl.Int64(),
    }
)

POLICIES = pl.Schema(
    {
        "policy_hash": pl.String(),
        "trained_in": pl.String(),  # null: a base model
        "updates": pl.Int64(),  # checkpoints on the way from the base model; null: a round between is gone
    }
)

ARTIFACTS = pl.Schema(
    {
        "round": pl.String(),
        "asset": pl.String(),
        "data_version": pl.String(),
        "config_hash": pl.String(),
        "code_version": pl.String(),
        "seconds": pl.Float64(),
        "tokens": pl.Int64(),
        "processor_seconds": pl.Float64(),  # of all threads of its process
        "peak_memory_bytes": pl.Int64(),
        "peak_gpu_memory_bytes": pl.Int64(),  # null: it used no GPU
        "halvings": pl.Int64(),  # batches that were halved for want of memory
        "files": pl.String(),  # JSON: file to sha256
        "parents": pl.String(),  # JSON: what it was made from, to the data version of that
        "facts": pl.String(),  # JSON: what the artifact says of itself
    }
)

_LINES = """
CREATE VIEW lines AS
WITH RECURSIVE line(round, ancestor, steps) AS (
    SELECT round, round, 0 FROM rounds
    UNION ALL
    SELECT line.round, rounds.parent, steps + 1
    FROM line JOIN rounds ON rounds.round = line.ancestor
    WHERE rounds.parent IS NOT NULL
)
FROM line
"""

LISTING = """
SELECT table_name AS "view", string_agg(column_name, ', ' ORDER BY ordinal_position) AS columns
FROM information_schema.columns GROUP BY ALL ORDER BY ALL
"""
"""The query that lists the views."""

_MEMORY = "1GB"
_BATCH = 10_000  # rows of a result that are in memory at once
_SQL_TYPES: dict[object, str] = {
    pl.String(): "VARCHAR",
    pl.Float64(): "DOUBLE",
    pl.Int64(): "BIGINT",
    pl.Boolean(): "BOOLEAN",
}


def connect(store: ArtifactStore, inventory: Inventory | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory database over what of the store can be read; nothing holds a file open for writing.

    The views of `table_views`, and beside them `rounds`, `lines`, `policies`, `artifacts`, `ledger` and
    `directives`.
    `inventory` is that of the store, if it was taken already; its gaps say what the views leave out.
    """
    inventory = inventory or take_inventory(store)
    connection = table_views(inventory)
    _table(connection, "rounds", ROUNDS, list(_rounds(store, inventory)))
    _table(connection, "policies", POLICIES, list(_policies(inventory)))
    artifacts = [_described(artifact) for held in inventory.artifacts.values() for artifact in held.values()]
    _table(connection, "artifacts", ARTIFACTS, artifacts)
    connection.execute(_LINES)
    _ledger(connection, store, inventory)
    return connection


@dataclass(frozen=True)
class Answer:
    """The result of a query, and the inventory of what it was asked of."""

    inventory: Inventory
    columns: tuple[str, ...]
    _first: list[tuple[Any, ...]]
    _result: duckdb.DuckDBPyConnection

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """All rows, once, a batch at a time."""
        batch = self._first
        while batch:
            yield from batch
            batch = self._result.fetchmany(_BATCH)


def ask(store: ArtifactStore, query: str, into: Path | None = None) -> Answer:
    """The answer of the store to a query; with `into` it is written into that Parquet file.

    A query that fails because a table was damaged is asked again of the tables that are what was written.

    Raises:
        SelfimpError: the query is wrong, or what can be read of the store cannot answer it.
    """
    inventory = take_inventory(store)
    try:
        try:
            return _asked(store, inventory, query, into)
        except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException):
            raise
        except duckdb.Error:
            checked = verified(inventory)
            if checked.gaps == inventory.gaps:
                raise
            return _asked(store, checked, query, into)
    except duckdb.Error as error:
        raise SelfimpError(str(error), where="query", fix="`selfimp sql` lists views and columns") from error


def _asked(store: ArtifactStore, inventory: Inventory, query: str, into: Path | None) -> Answer:
    connection = connect(store, inventory)
    if into is None:
        result = connection.execute(query)
        columns = tuple(column[0] for column in result.description or ())
        return Answer(inventory, columns, result.fetchmany(_BATCH), result)
    partial = into.with_name(f".{into.name}.partial")
    try:
        connection.execute(f"COPY ({query.rstrip().rstrip(';')}) TO {quoted([partial])} (FORMAT parquet)")
        os.replace(partial, into)
    except OSError as error:
        raise write_error(error, into) from error
    finally:
        partial.unlink(missing_ok=True)
    return Answer(inventory, (), [], connection)


def table_views(inventory: Inventory) -> duckdb.DuckDBPyConnection:
    """A database with one view per table of the artifacts; a view whose table no round has is empty.

    Each has the column `in_round`: the round whose artifact the row is in. A query that restricts it opens
    the files of those rounds alone. Queries use at most 1 GB of memory and then the disk.
    """
    connection = duckdb.connect(
        config={"memory_limit": _MEMORY, "temp_directory": str(Path(tempfile.gettempdir()) / "selfimp-sql")}
    )
    for (asset, table), (view, schema) in _VIEWS.items():
        _view(connection, view, schema, inventory.files(asset, f"{table}.parquet"))
    return connection


@dataclass(frozen=True)
class Descent:
    """Where weights come from: the round that trained them (none: a base model), and the updates behind them.

    `updates` are the rounds whose checkpoints lead from the base model to these weights; none where a round
    between is gone.
    """

    trained_in: str | None
    updates: tuple[str, ...] | None


def descents(inventory: Inventory) -> dict[str, Descent]:
    """Where every set of weights that the store mentions comes from, by its hash."""
    known: dict[str, Descent] = {}
    for held in inventory.artifacts.values():  # by number: weights before what was trained from them
        if "incumbent_policy" in held:
            start = held["incumbent_policy"].facts
            origin = start["weights_round"]
            known.setdefault(start["policy_hash"], Descent(origin, () if origin is None else None))
        if "checkpoint" in held:
            manifest = held["checkpoint"].manifest
            before = known.get(manifest.facts["parent_policy_hash"], Descent(None, None))
            updates = () if manifest.facts.get("trained_from") == "base" else before.updates
            line = None if updates is None else (*updates, manifest.round)
            known.setdefault(manifest.facts["policy_hash"], Descent(manifest.round, line))
    return known


def _view(connection: duckdb.DuckDBPyConnection, name: str, schema: pl.Schema, paths: Sequence[Path]) -> None:
    if not paths:
        _table(connection, name, pl.Schema({**schema, "in_round": pl.String()}), [])
        return
    connection.execute(
        f"CREATE VIEW {name} AS SELECT * EXCLUDE (filename), "
        r"regexp_extract(filename, '([^/]+/\d{4})/[^/]+/[^/]+/[^/]+$', 1) AS in_round "
        f"FROM read_parquet([{quoted(paths)}], filename = true)"
    )


def _table(
    connection: duckdb.DuckDBPyConnection, name: str, schema: pl.Schema, rows: Sequence[Mapping[str, Any]]
) -> None:
    columns = [f'"{column}" {_sql_type(kind)}' for column, kind in schema.items()]
    connection.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
    if rows:
        values = ", ".join(f"unnest(?::{_sql_type(kind)}[])" for kind in schema.values())
        connection.execute(
            f"INSERT INTO {name} SELECT {values}", [[row[column] for row in rows] for column in schema]
        )


def _sql_type(kind: object) -> str:
    if isinstance(kind, pl.List):
        return f"{_sql_type(kind.inner)}[]"
    if isinstance(kind, pl.Struct):
        return f"STRUCT({', '.join(f'{field.name} {_sql_type(field.dtype)}' for field in kind.fields)})"
    return _SQL_TYPES[kind]


def _rounds(store: ArtifactStore, inventory: Inventory) -> Iterator[dict[str, Any]]:
    @cache
    def standing(campaign: str) -> Standing:
        return read_standing(store, campaign)

    for key, held in inventory.artifacts.items():
        if "incumbent_policy" not in held:
            continue
        start = held["incumbent_policy"]
        checkpoint, report = held.get("checkpoint"), held.get("eval_report")
        policy = _policy(start)
        yield {
            "round": str(key),
            "campaign": key.campaign,
            "number": key.number,
            **{name: start.facts[name] for name in ("parent", "weights_round", "policy_hash")},
            "candidate_hash": checkpoint.facts["policy_hash"] if checkpoint else None,
            "promoted": _is_promoted(key, policy, report, standing) if policy and report else None,
            "seed": policy.get("seed") if policy else None,
        }


def _policy(start: Artifact) -> dict[str, Any] | None:
    try:
        policy: dict[str, Any] = start.json("policy")
    except (OSError, ValueError):  # a gap of its own, or altered: whoever opens it is told
        return None
    return policy


def _is_promoted(
    key: RoundKey, policy: dict[str, Any], report: Artifact, standing: Callable[[str], Standing]
) -> bool | None:
    """Whether the candidate is in force; none if that cannot be told, since people had a say and their log
    was altered."""
    try:
        approval = Approval.model_validate(policy["campaign"].get("approval", {}))
        version, verdict = report.data_version, report.facts["promoted"]
        return status_of(str(key), verdict, version, approval, standing(key.campaign)) == "promoted"
    except (SelfimpError, ValueError, KeyError):
        return None


def _policies(inventory: Inventory) -> Iterator[dict[str, Any]]:
    for policy, descent in descents(inventory).items():
        yield {
            "policy_hash": policy,
            "trained_in": descent.trained_in,
            "updates": None if descent.updates is None else len(descent.updates),
        }


def _described(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "round": manifest.round,
        "asset": manifest.asset,
        "data_version": manifest.data_version,
        "config_hash": manifest.config_hash,
        "code_version": manifest.code_version,
        **{name: manifest.measurements.get(name) for name in StageCost.model_fields},
        **{name: json.dumps(getattr(manifest, name)) for name in ("files", "parents", "facts")},
    }


def _ledger(connection: duckdb.DuckDBPyConnection, store: ArtifactStore, inventory: Inventory) -> None:
    """Ledger and directives as they were last written, or read from the reports where they are behind."""
    tables = {"ledger": LEDGER, "directives": DIRECTIVES}
    paths = {name: store.folder / f"{name}.parquet" for name in tables}
    measured = {str(key) for key, _ in inventory.facts("eval_report")}
    alone = store.mirror is None  # else another machine may have measured a round again
    if (
        alone
        and all(_is_current(paths[name], schema) for name, schema in tables.items())
        and (set(pl.read_parquet(paths["ledger"], columns=["round"], glob=False)["round"]) >= measured)
    ):
        for name, path in paths.items():
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({quoted([path])})")
    else:
        ledger = read_ledger(store, unreadable=[])
        _table(connection, "ledger", LEDGER, ledger.to_dicts())
        _table(connection, "directives", DIRECTIVES, read_fates(store, ledger["round"]).to_dicts())


def _is_current(path: Path, schema: pl.Schema) -> bool:
    """Whether a table of the ledger is there, can be read and was written by this version."""
    try:
        return pl.read_parquet_schema(path) == schema
    except (OSError, pl.exceptions.PolarsError):
        return False


def quoted(values: Iterable[object]) -> str:
    """The values as SQL text literals, with commas between; NULL where there are none."""
    return ", ".join("'" + str(value).replace("'", "''") + "'" for value in values) or "NULL"
