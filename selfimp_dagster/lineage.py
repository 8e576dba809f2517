"""The store as SQL: every table of every round as a DuckDB view over its Parquet files."""

from collections import defaultdict
from pathlib import Path

import duckdb

from selfimp_dagster.store import ArtifactStore

_VIEWS = {
    ("generated_corpus", "tasks"): "tasks",
    ("generated_corpus", "samples"): "samples",
    ("generated_corpus", "rewards"): "rewards",
    ("selected_subset", "selection"): "selection",
    ("selected_subset", "subset"): "subset",
    ("checkpoint", "training"): "training",
    ("checkpoint", "training_curve"): "training_curve",
    ("refined_outputs", "tasks"): "refined_tasks",
    ("refined_outputs", "refinements"): "refinements",
    ("refined_outputs", "samples"): "refined_samples",
    ("refined_outputs", "rewards"): "refined_rewards",
    ("eval_report", "items"): "evaluation_items",
    ("eval_report", "evaluations"): "evaluations",
    ("eval_report", "rewordings"): "rewordings",
    ("eval_report", "dimensions"): "dimensions",
}


def connect(store: ArtifactStore) -> duckdb.DuckDBPyConnection:
    """An in-memory database with a view per table; nothing holds a file open for writing.

    Every view but `ledger` has the column `in_round`: the round whose artifact the row is in.
    """
    connection = duckdb.connect()
    files: dict[str, list[Path]] = defaultdict(list)
    for key in store.rounds():
        for (asset, table), view in _VIEWS.items():
            if store.has(key, asset):
                artifact = store.open(key, asset, verify=False)
                if artifact.has_table(table):
                    files[view].append(artifact.folder / f"{table}.parquet")
    for view, paths in files.items():
        listed = ", ".join(_quoted(path) for path in paths)
        connection.execute(
            f"CREATE VIEW {view} AS SELECT * EXCLUDE (filename), "
            r"regexp_extract(filename, '([^/]+/\d{4})/[^/]+/[^/]+/[^/]+$', 1) AS in_round "
            f"FROM read_parquet([{listed}], filename = true)"
        )
    ledger = store.folder / "ledger.parquet"
    if ledger.is_file():
        connection.execute(f"CREATE VIEW ledger AS SELECT * FROM read_parquet({_quoted(ledger)})")
    return connection


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
