"""The rows that ancestor rounds kept: looked up by their keys, so that a round need not read them all."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import polars as pl

from selfimp_dagster.lifecycle.selection.duplicate_index import FOLDER, LineIndex, Run
from selfimp_dagster.lifecycle.selection.sketches import Keys, Kind
from selfimp_dagster.progress import Progress
from selfimp_dagster.records import check_schema
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore

EARLIER = pl.Schema(
    {
        "sample_id": pl.String,
        "task_id": pl.String,
        "round": pl.String,
        "prompt": pl.String,
        "response": pl.String,
    }
)
"""Rows that the ancestor rounds kept; further columns are ignored."""

_SUBSET, _TABLE = "selected_subset", "subset.parquet"
_ROW_BITS = np.uint64(32)


class EarlierRows(Protocol):
    """The rows kept in the ancestor rounds. The places of rows are in the order of round and sample id."""

    @property
    def rows(self) -> pl.DataFrame:
        """All of them, in the schema EARLIER, in the order of their places."""
        ...

    def sharing(self, kind: Kind, keys: Keys) -> pl.DataFrame:
        """The rows that share a key: row (of `keys`) and place, each pair once, sorted."""
        ...

    def at(self, places: pl.Series) -> pl.DataFrame:
        """The rows at these places: place, and the columns of EARLIER."""
        ...


class HeldRows:
    """Rows in memory."""

    def __init__(self, rows: pl.DataFrame) -> None:
        known = rows.select(name for name in EARLIER if name in rows.columns)
        self.rows = (
            check_schema(known, EARLIER, "selected_subset, rows of earlier rounds")
            .with_columns(pl.col("prompt", "response").fill_null(""))
            .sort("round", "sample_id")
        )

    def sharing(self, kind: Kind, keys: Keys) -> pl.DataFrame:
        run = Run.of(kind.keys(self.rows), np.arange(self.rows.height))
        return _pairs(*run.find(keys.ravel()), keys.shape[1])

    def at(self, places: pl.Series) -> pl.DataFrame:
        wanted = places.unique().sort()
        return self.rows[wanted].insert_column(0, wanted.alias("place"))


class StoredRows:
    """The rows of a line of ancestors in a store, with its index of duplicates.

    A place is the number of the round and the row of its table. A table is read, and compared with its hash,
    when a row of it is asked for, or when it is not in the index yet.
    """

    def __init__(self, store: ArtifactStore, ancestors: Sequence[RoundKey], progress: Progress) -> None:
        self._store, self._ancestors, self._progress = store, ancestors, progress
        self._checked: dict[int, Artifact] = {}

    @property
    def rows(self) -> pl.DataFrame:
        tables = (self._scan(key).select(list(EARLIER)).collect() for key in self._ancestors)
        return pl.concat([EARLIER.to_frame(), *tables])

    def sharing(self, kind: Kind, keys: Keys) -> pl.DataFrame:
        def keys_of(position: int) -> tuple[Keys, np.ndarray]:
            key = self._ancestors[position]
            rows = self._scan(key).select("prompt", "response").collect()
            first = np.uint64(key.number) << _ROW_BITS
            return kind.keys(rows), first + np.arange(rows.height, dtype=np.uint64)

        folder = self._store.folder / FOLDER
        index = LineIndex(folder, kind.name, self._versions, keys_of, self._progress)
        return _pairs(*index.find(keys.ravel()), keys.shape[1])

    def at(self, places: pl.Series) -> pl.DataFrame:
        return pl.concat([pl.DataFrame(schema={"place": pl.UInt64, **EARLIER}), *self._at(places)])

    def _at(self, places: pl.Series) -> Iterator[pl.DataFrame]:
        wanted = places.unique().sort().to_numpy()
        for number in np.unique(wanted >> _ROW_BITS):
            first = number << _ROW_BITS
            rows = wanted[wanted >> _ROW_BITS == number] - first
            key = RoundKey(self._ancestors[0].campaign, int(number))
            yield (
                self._scan(key)
                .with_row_index("place")
                .filter(pl.col("place").is_in(rows.tolist()))
                .select(pl.col("place").cast(pl.UInt64) + first, *EARLIER)
                .collect(engine="streaming")
            )

    @cached_property
    def _versions(self) -> list[str]:
        return [self._store.data_version(key, _SUBSET) for key in self._ancestors]

    def _scan(self, key: RoundKey) -> pl.LazyFrame:
        if key.number not in self._checked:
            artifact = self._store.open(key, _SUBSET, verify=False)
            artifact.check([_TABLE])
            self._checked[key.number] = artifact
        return pl.scan_parquet(self._checked[key.number].folder / _TABLE, glob=False)


def _pairs(found: np.ndarray, places: np.ndarray, keys_of_a_row: int) -> pl.DataFrame:
    pairs = pl.DataFrame({"row": found // keys_of_a_row, "place": places.astype(np.uint64)})
    return pairs.unique().sort("row", "place")
