"""Which rounds mention an id: a cache beside the artifacts, so that one row is found among millions.

A block of the index covers a run of rounds of one campaign and is a Parquet file of (id, view, in_round),
sorted by id. It carries the hash of the data versions that it was made from; a block whose rounds have
changed is made again by whoever asks next, and the whole folder can be deleted at any time.
"""

import os
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import duckdb
import polars as pl

from selfimp_dagster.lineage.inventory import Inventory
from selfimp_dagster.lineage.views import quoted, table_views
from selfimp_dagster.records import content_hash
from selfimp_dagster.store import ArtifactStore

FOLDER = ".index"
_ROUNDS_PER_BLOCK = 50
_ROWS_PER_GROUP = 16_384  # what one look-up reads of a block
_KEY = "selfimp_key"

_MENTIONS = """
SELECT DISTINCT id, view, in_round FROM (
    SELECT sample_id AS id, 'samples' AS view, in_round FROM samples
    UNION ALL SELECT sample_id, 'refined_samples', in_round FROM refined_samples
    UNION ALL SELECT task_id, 'tasks', in_round FROM tasks
    UNION ALL SELECT task_id, 'refined_tasks', in_round FROM refined_tasks
    UNION ALL SELECT task_id, 'evaluation_items', in_round FROM evaluation_items
    UNION ALL SELECT sample_id, 'training', in_round FROM training
    UNION ALL SELECT parent_sample_id, 'descendants', in_round FROM samples
    UNION ALL SELECT parent_sample_id, 'descendants', in_round FROM refined_samples
    UNION ALL SELECT unnest(parent_ids), 'descendants', in_round FROM tasks
    UNION ALL SELECT TRY_CAST(evidence AS JSON) ->> '$.duplicate_of', 'copies', in_round
        FROM selection WHERE NOT kept AND contains(evidence, '"duplicate_of"')
    UNION ALL SELECT TRY_CAST(evidence AS JSON) ->> '$.item_id', 'contamination', in_round
        FROM selection WHERE NOT kept AND contains(evidence, '"item_id"')
) WHERE id IS NOT NULL ORDER BY id
"""


@dataclass(frozen=True)
class Mention:
    """An id in a view of a round.

    Beside the views that hold rows of that id there are `descendants`, rows made from it, `copies`, samples
    dropped in its favour, and `contamination`, samples dropped because of it.
    """

    id: str
    view: str
    in_round: str


class RowIndex:
    """Look-ups in the index of a store, brought up to date when it is opened.

    Where the store cannot be written to, blocks are made in a temporary folder: slower, and as right.
    """

    def __init__(self, store: ArtifactStore, inventory: Inventory) -> None:
        self._folder = store.folder / FOLDER
        self._temporary = tempfile.TemporaryDirectory(prefix="selfimp-index-")
        self._connection = duckdb.connect()
        self._blocks = [self._block(inventory.of(rounds)) for rounds in _runs(inventory)]

    def starting_with(self, prefix: str) -> list[Mention]:
        """The mentions of every id that begins so, sorted."""
        return self._mentions("id >= $1 AND id < $1 || chr(1114111)", prefix)

    def of(self, ids: Collection[str]) -> list[Mention]:
        """The mentions of these ids, sorted."""
        return self._mentions(f"id IN ({quoted(ids)})")

    def _mentions(self, condition: str, *values: str) -> list[Mention]:
        if not self._blocks:
            return []
        found = self._connection.execute(
            f"SELECT id, view, in_round FROM read_parquet([{quoted(self._blocks)}]) "
            f"WHERE {condition} ORDER BY ALL",
            list(values),
        )
        return [Mention(*row) for row in found.fetchall()]

    def _block(self, rounds: Inventory) -> str:
        """The file of a block that is up to date."""
        first = next(iter(rounds.artifacts))
        path = self._folder / f"{first.campaign}-{first.number // _ROUNDS_PER_BLOCK:03d}.parquet"
        key = _key(rounds)
        if _key_of(path) == key:
            return str(path)
        try:
            path.parent.mkdir(exist_ok=True)
            return _write(rounds, path, key)
        except (OSError, duckdb.IOException):
            return _write(rounds, Path(self._temporary.name) / path.name, key)


def _runs(inventory: Inventory) -> Iterator[set[str]]:
    """The rounds of each block."""
    for _, keys in groupby(inventory.artifacts, lambda key: (key.campaign, key.number // _ROUNDS_PER_BLOCK)):
        yield {str(key) for key in keys}


def _key(rounds: Inventory) -> str:
    """A hash of all that a block is made from."""
    made_from = [
        [str(key), asset, artifact.data_version]
        for key, held in rounds.artifacts.items()
        for asset, artifact in held.items()
    ]
    unread = sorted(f"{path.parent.parent.parent.name}/{path.name}" for path in rounds.missing)
    return content_hash([_MENTIONS, made_from, unread])


def _key_of(path: Path) -> str | None:
    try:
        return pl.read_parquet_metadata(path).get(_KEY)
    except (OSError, pl.exceptions.PolarsError):
        return None


def _write(rounds: Inventory, path: Path, key: str) -> str:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        table_views(rounds).execute(
            f"COPY ({_MENTIONS}) TO {quoted([partial])} "
            f"(FORMAT parquet, ROW_GROUP_SIZE {_ROWS_PER_GROUP}, KV_METADATA {{{_KEY}: '{key}'}})"
        )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return str(path)
