"""The index of duplicates: which rows of earlier rounds have which keys (`sketches.py`), on disk.

A run is a file with the keys of some consecutive rounds of a line, sorted, and the place of the row of each.
Runs of one round are merged into longer ones as the line grows, so that a look-up opens few files and a row
is written a few times however many rounds follow. A run is named by the kind of its keys and the data
versions of its rounds: branches share the runs of their common ancestors, a round that is materialized again
has other runs, and the folder can be deleted at any time.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.selection.sketches import Keys
from selfimp_dagster.progress import Progress
from selfimp_dagster.records import content_hash
from selfimp_dagster.store import write_error

FOLDER = ".duplicates"
_FAN = 16
_LONGEST = 256  # rounds of one run
_SUFFIX = ".run"
_MAGIC = b"selfimp1"
_HEADER = struct.Struct("<8sQI4x")  # magic, number of keys, checksum of fences and checksums
_PER_BLOCK = 512  # keys that one look-up reads and checks
_MERGED_AT_A_TIME = 1 << 22
_QUERIES_AT_A_TIME = 1 << 22


class DamagedRun(Exception):
    """A run that is not what was written."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is not what was written")
        self.path = path


@dataclass(frozen=True)
class Run:
    """Sorted keys in memory and the place of the row that has each."""

    keys: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, keys: Keys, places: np.ndarray) -> Self:
        """The keys of rows, (rows, keys of a row), and the place of each row."""
        flat, repeated = keys.ravel(), np.repeat(places.astype(np.uint64), keys.shape[1])
        order = np.argsort(flat)
        return cls(flat[order], repeated[order])

    def find(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The queries that are keys of rows, and whose: position of a query and place, for each pair."""
        first = np.searchsorted(self.keys, queries, side="left")
        count = np.searchsorted(self.keys, queries, side="right") - first
        hit = np.flatnonzero(count)
        found = np.repeat(hit, count[hit])
        ahead = np.arange(found.size) - np.repeat(np.cumsum(count[hit]) - count[hit], count[hit])
        return found, self.places[first[found] + ahead]

    def between(self, low: int, high: int) -> "Run":
        """The part with keys from `low` up to and without `high`, which may be past the largest key."""
        start = np.searchsorted(self.keys, np.uint64(low))
        stop = self.keys.size if high >= 1 << 64 else np.searchsorted(self.keys, np.uint64(high))
        return Run(self.keys[start:stop], self.places[start:stop])


@dataclass(frozen=True)
class RunFile:
    """A run on disk. A look-up reads the blocks that may hold its keys, and checks what it reads.

    `fences` are the first keys of the blocks, `checksums` those of the blocks' keys and places.
    """

    path: Path
    size: int
    fences: np.ndarray
    checksums: np.ndarray

    @classmethod
    def open(cls, path: Path) -> Self:
        """A run that was written.

        Raises:
            FileNotFoundError: there is none.
            DamagedRun: it is cut off, or its head was altered.
        """
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                raise DamagedRun(path)
            magic, size, checksum = _HEADER.unpack(head)
            blocks = -(-size // _PER_BLOCK)
            expected = _HEADER.size + 12 * blocks + 16 * size
            if magic != _MAGIC or os.fstat(file.fileno()).st_size != expected:
                raise DamagedRun(path)
            index = file.read(12 * blocks)
        if zlib.crc32(index) != checksum:
            raise DamagedRun(path)
        fences = np.frombuffer(index, np.uint64, blocks)
        return cls(path, size, fences, np.frombuffer(index, np.uint32, blocks, 8 * blocks))

    def find(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Run.find`.

        Raises:
            DamagedRun: a block that was read is not what was written.
        """
        if self.size == 0:
            return np.empty(0, np.int64), np.empty(0, np.uint64)
        order = np.argsort(queries)
        ordered = queries[order]
        # Equal keys may go on over several blocks, from the last one that begins before them.
        low = np.maximum(np.searchsorted(self.fences, ordered, side="left") - 1, 0)
        high = np.maximum(np.searchsorted(self.fences, ordered, side="right"), 1)
        found, places = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
        with self.path.open("rb") as file:
            start = 0
            while start < ordered.size:
                first, last = int(low[start]), int(high[start])
                stop = int(np.searchsorted(low, first, side="right"))
                last = max(last, int(high[start:stop].max()))
                at, where = self._blocks(file.fileno(), first, last).find(ordered[start:stop])
                found.append(order[start + at])
                places.append(where)
                start = stop
        return np.concatenate(found), np.concatenate(places)

    def between(self, low: int, high: int) -> Run:
        """As `Run.between`.

        Raises:
            DamagedRun: a block that was read is not what was written.
        """
        first = max(int(np.searchsorted(self.fences, np.uint64(low))) - 1, 0)
        last = self.fences.size if high >= 1 << 64 else int(np.searchsorted(self.fences, np.uint64(high)))
        with self.path.open("rb") as file:
            return self._blocks(file.fileno(), first, last).between(low, high)

    def _blocks(self, descriptor: int, first: int, last: int) -> Run:
        """The blocks from `first` up to and without `last`."""
        start, stop = first * _PER_BLOCK, min(last * _PER_BLOCK, self.size)
        offset = _HEADER.size + 12 * self.fences.size
        keys = os.pread(descriptor, 8 * (stop - start), offset + 8 * start)
        places = os.pread(descriptor, 8 * (stop - start), offset + 8 * (self.size + start))
        for block in range(first, last):
            part = slice(8 * _PER_BLOCK * (block - first), 8 * _PER_BLOCK * (block - first + 1))
            if zlib.crc32(places[part], zlib.crc32(keys[part])) != self.checksums[block]:
                raise DamagedRun(self.path)
        return Run(np.frombuffer(keys, np.uint64), np.frombuffer(places, np.uint64))


def write_run(path: Path, runs: Sequence[Run | RunFile]) -> RunFile:
    """Merges runs into a file, atomically, a range of keys at a time.

    Raises:
        DamagedRun: one of them is not what was written.
        SelfimpError: the disk is full or refuses.
    """
    size = sum(run.keys.size if isinstance(run, Run) else run.size for run in runs)
    blocks = -(-size // _PER_BLOCK)
    offset = _HEADER.size + 12 * blocks
    fences, checksums = np.empty(blocks, np.uint64), np.empty(blocks, np.uint32)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w+b") as file:
            written, held = 0, Run(np.empty(0, np.uint64), np.empty(0, np.uint64))
            for low, high in _ranges(size):
                held = _merged([held, *(run.between(low, high) for run in runs)])
                # Whole blocks, and the rest with what comes next.
                ready = held.keys.size // _PER_BLOCK * _PER_BLOCK
                if written + held.keys.size == size:
                    ready = held.keys.size
                for start in range(0, ready, _PER_BLOCK):
                    stop = min(start + _PER_BLOCK, ready)
                    block = (written + start) // _PER_BLOCK
                    fences[block] = held.keys[start]
                    checksums[block] = zlib.crc32(
                        held.places[start:stop].tobytes(), zlib.crc32(held.keys[start:stop].tobytes())
                    )
                os.pwrite(file.fileno(), held.keys[:ready].tobytes(), offset + 8 * written)
                os.pwrite(file.fileno(), held.places[:ready].tobytes(), offset + 8 * (size + written))
                written += ready
                held = Run(held.keys[ready:], held.places[ready:])
            index = fences.tobytes() + checksums.tobytes()
            os.pwrite(file.fileno(), _HEADER.pack(_MAGIC, size, zlib.crc32(index)) + index, 0)
        os.replace(partial, path)
    except OSError as error:
        raise write_error(error, path) from error
    finally:
        partial.unlink(missing_ok=True)
    return RunFile.open(path)


def _ranges(size: int) -> Iterator[tuple[int, int]]:
    """Ranges of keys that hold about _MERGED_AT_A_TIME each: keys are spread evenly."""
    count = -(-size // _MERGED_AT_A_TIME)
    bounds = [place * (1 << 64) // count for place in range(count)]
    yield from pairwise([*bounds, 1 << 64])


def _merged(runs: Sequence[Run]) -> Run:
    keys = np.concatenate([run.keys for run in runs])
    order = np.argsort(keys)
    return Run(keys[order], np.concatenate([run.places for run in runs])[order])


class LineIndex:
    """The runs of a line of rounds, made as far as they are not there yet.

    Args:
        folder: where the runs of all lines are.
        kind: the name of the kind of keys.
        versions: for each round of the line, from the first on, the data version of its rows.
        keys_of: the keys of the rows of the round at a position of the line, and their places.
        progress: where it is shown that more than the last round is hashed, and why.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        versions: Sequence[str],
        keys_of: Callable[[int], tuple[Keys, np.ndarray]],
        progress: Progress,
    ) -> None:
        self._folder, self._kind, self._versions, self._keys_of = folder, kind, versions, keys_of
        self._progress = progress
        self._damaged: list[Path] = []

    def find(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Run.find`, over all rounds of the line; runs that are gone or damaged are made again.

        Raises:
            SelfimpError: the disk is full or refuses, or does not give back what was written.
        """
        runs = self._runs()
        found, places = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
        for start in range(0, queries.size, _QUERIES_AT_A_TIME):
            part = queries[start : start + _QUERIES_AT_A_TIME]
            for place in range(len(runs)):
                while True:
                    try:
                        at, where = runs[place].find(part)
                        break
                    except DamagedRun as damage:
                        self._discard(damage)
                        runs = self._runs()
                found.append(at + start)
                places.append(where)
        return np.concatenate(found), np.concatenate(places)

    def _runs(self) -> list[RunFile]:
        """The runs that together cover the line."""
        spans = list(_spans(len(self._versions)))
        missing = [position for span in spans for position in self._missing(*span)]
        with self._shown(missing) as done:
            return [self._run(*span, done) for span in spans]

    @contextmanager
    def _shown(self, missing: Sequence[int]) -> Iterator[Callable[[], None]]:
        """Nothing is shown where only the last round, which is new, is to be hashed."""
        if not self._damaged and missing in ([], [len(self._versions) - 1]):
            yield lambda: None
            return
        why = "is damaged" if self._damaged else "is not there for all of them"
        label = f"hashing rows of earlier rounds: the index of duplicates {why} and is made again"
        with self._progress.stage(label, total=len(missing), unit="rounds") as bar:
            yield bar.advance

    def _missing(self, start: int, size: int) -> list[int]:
        """The positions whose rows have to be hashed for the run of that span."""
        if self._written(start, size) is not None:
            return []
        if size == 1:
            return [start]
        return [position for part in _parts(start, size) for position in self._missing(*part)]

    def _written(self, start: int, size: int) -> RunFile | None:
        try:
            return RunFile.open(self._path(start, size))
        except FileNotFoundError:
            return None
        except DamagedRun as damage:
            self._discard(damage)
            return None

    def _run(self, start: int, size: int, done: Callable[[], None]) -> RunFile:
        written = self._written(start, size)
        if written is not None:
            return written
        path = self._path(start, size)
        if size == 1:
            run = write_run(path, [Run.of(*self._keys_of(start))])
            done()
            return run
        while True:
            try:
                return write_run(path, [self._run(*part, done) for part in _parts(start, size)])
            except DamagedRun as damage:
                self._discard(damage)

    def _path(self, start: int, size: int) -> Path:
        made_from = [self._kind, *self._versions[start : start + size]]
        return self._folder / f"{content_hash(made_from)[:32]}{_SUFFIX}"

    def _discard(self, damage: DamagedRun) -> None:
        if damage.path in self._damaged:
            raise SelfimpError(
                "the index of duplicates was made again and is damaged again",
                where=str(damage.path),
                fix="check the disk; what it holds is not what was written",
            ) from damage
        self._damaged.append(damage.path)
        damage.path.unlink(missing_ok=True)


def _spans(rounds: int) -> Iterator[tuple[int, int]]:
    """The runs of a line of that many rounds: the first position of each, and how many rounds it has."""
    start = 0
    while start < rounds:
        size = _LONGEST
        while start % size or start + size > rounds:
            size //= _FAN
        yield start, size
        start += size


def _parts(start: int, size: int) -> Iterator[tuple[int, int]]:
    """The runs that a run is merged from."""
    for part in range(_FAN):
        yield start + part * (size // _FAN), size // _FAN
