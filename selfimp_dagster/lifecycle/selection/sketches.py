"""Keys of rows: two rows that share a key may be duplicates, and two that share none are not looked at.

The keys of a kind are all that is remembered of a row of an earlier round (`duplicate_index.py`), so they
follow from its texts alone. Sets of shingles are sets of 64-bit hashes: two differing shingles that hash
alike, one pair in 10^19, count as one.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from os import cpu_count
from typing import Protocol

import numpy as np
import polars as pl

from selfimp_dagster.lifecycle.selection.text import figures, normalised, tokens
from selfimp_dagster.records import content_hash

PERMUTATIONS = 128
_RECALL = 0.99  # of pairs exactly at the threshold
_SEED = 1  # fixed: which rows are duplicates must not depend on the round's seed
_PUNCTUATION = (".", ",", ";", ":", "!", "?", "'", '"', "`", "\u2019", "\u201c", "\u201d")
_ROWS_AT_A_TIME = 20_000
_SHINGLES_AT_A_TIME = 1 << 15  # what stays in a processor's cache through all permutations
_TAGS = {"prompt": np.uint64(0x5851F42D4C957F2D), "response": np.uint64(0x14057B7EF767814F)}
_FILLER = np.uint64(0xD1342543DE82EF95)  # stands behind the words of a text that is shorter than a shingle
_ODD = np.uint64(0x9E3779B97F4A7C15)
_PROBE = pl.DataFrame(
    {
        "prompt": ["What is 12 + 45?", "Write \u00e9\ufb01\u00f1 a story of three long sentences."],
        "response": ["57", ""],
    }
)

Keys = np.ndarray
"""(rows, keys of a row), unsigned 64-bit."""


class Kind(Protocol):
    """A way to give rows keys. Rows have the columns prompt and response."""

    def keys(self, rows: pl.DataFrame) -> Keys: ...

    @property
    def name(self) -> str:
        """What the keys are a function of beside the rows; other versions of a hash have another name."""
        ...


@dataclass(frozen=True)
class ContentKeys:
    """One key: that of prompt and response, up to white space and Unicode form."""

    def keys(self, rows: pl.DataFrame) -> Keys:
        if rows.is_empty():
            return np.empty((0, 1), np.uint64)
        pair = pl.struct(normalised(pl.col("prompt")), normalised(pl.col("response")))
        parts = [part.select(pair.hash()).to_series() for part in rows.iter_slices(_ROWS_AT_A_TIME)]
        return np.concatenate([part.to_numpy() for part in parts]).reshape(-1, 1)

    @cached_property
    def name(self) -> str:
        return content_hash(["content", self.keys(_PROBE).tolist()])


@dataclass(frozen=True)
class NearKeys:
    """One key for each LSH band of the row's MinHash signature (Broder 1997), mixed with its figures.

    The signature is that of the union of the shingles of prompt and response, each with a tag, so that the
    similarity of the union is at least that of the worse part.
    """

    ngram: int
    bands: int

    @classmethod
    def at(cls, threshold: float, ngram: int) -> "NearKeys":
        """With the fewest bands, a power of two, that find a pair at the threshold with probability 0.99."""
        bands = 1
        while bands < PERMUTATIONS and found_with(bands, threshold) < _RECALL:
            bands *= 2
        return cls(ngram, bands)

    def keys(self, rows: pl.DataFrame) -> Keys:
        parts = [self._part(part) for part in rows.iter_slices(_ROWS_AT_A_TIME)]
        return np.concatenate([np.empty((0, self.bands), np.uint64), *parts])

    @cached_property
    def name(self) -> str:
        return content_hash(["near", self.ngram, self.bands, self.keys(_PROBE).tolist()])

    def _part(self, rows: pl.DataFrame) -> Keys:
        signature = np.full((rows.height, PERMUTATIONS), np.iinfo(np.uint64).max)
        block = np.zeros(rows.height, np.uint64)
        for column, tag in _TAGS.items():
            texts = rows.select(pl.col(column).alias("text")).unique(maintain_order=True).with_row_index("id")
            of_row = rows.select(column).join(texts, left_on=column, right_on="text", maintain_order="left")
            ids = of_row["id"].to_numpy()
            own = _signatures(Shingles.of(texts["text"], self.ngram), tag)
            figure = texts.select(figures(pl.col("text")).hash()).to_series().to_numpy()
            np.minimum(signature, own[ids], out=signature)
            block = mixed(block ^ mixed(figure[ids] ^ tag))
        keys = np.empty((rows.height, self.bands), np.uint64)
        for band, part in enumerate(np.split(signature, self.bands, axis=1)):
            key = mixed(block + np.uint64(band))
            for column_of_band in part.T:
                key = mixed(key ^ column_of_band)
            keys[:, band] = key
        return keys


def found_with(bands: int, similarity: float) -> float:
    """The probability that two rows of that similarity share a key of that many bands."""
    return float(1 - (1 - similarity ** (PERMUTATIONS // bands)) ** bands)


@dataclass(frozen=True)
class Shingles:
    """The shingles of texts: those of text i are `hashes[starts[i]:starts[i + 1]]`, repeated ones too."""

    hashes: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, texts: pl.Series, ngram: int) -> "Shingles":
        """The runs of `ngram` words of each text, case and punctuation aside; at least one for each text."""
        parts = [_shingles(part, ngram) for part in _slices(texts)]
        counts = np.concatenate([np.empty(0, np.int64), *(count for _, count in parts)])
        hashes = np.concatenate([np.empty(0, np.uint64), *(part for part, _ in parts)])
        return cls(hashes, np.concatenate([[0], np.cumsum(counts)]))

    def of_text(self, text: int) -> frozenset[int]:
        return frozenset(self.hashes[self.starts[text] : self.starts[text + 1]].tolist())


def _slices(texts: pl.Series) -> Iterator[pl.Series]:
    for start in range(0, texts.len(), _ROWS_AT_A_TIME):
        yield texts.slice(start, _ROWS_AT_A_TIME)


def _shingles(texts: pl.Series, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the texts' shingles, one text after the other, and how many each has."""
    words = (
        texts.alias("word")
        .to_frame()
        .with_row_index("text")
        .with_columns(tokens(pl.col("word")))
        .explode("word", empty_as_null=False)
        .filter(~pl.col("word").is_in(_PUNCTUATION))
        .select("text", pl.col("word").hash())
    )
    has = np.bincount(words["text"].to_numpy(), minlength=texts.len())
    length = np.maximum(has, ngram)
    ends = np.cumsum(length)
    filled = np.full(int(ends[-1]) if texts.len() else 0, _FILLER)
    shift = np.repeat(ends - length - (np.cumsum(has) - has), has)
    filled[np.arange(words.height) + shift] = words["word"].to_numpy()
    rolled = filled.copy()
    for ahead in range(1, ngram):
        rolled *= _ODD
        rolled[:-ahead] += filled[ahead:]
    count = length - ngram + 1
    first = np.ones(filled.size, bool)  # where a shingle starts that ends in the same text
    for back in range(1, ngram):
        first[ends - back] = False
    return mixed(rolled[first]), count


def _signatures(shingles: Shingles, tag: np.uint64) -> np.ndarray:
    """(texts, PERMUTATIONS): the least value of each text's shingles under each permutation."""
    random = np.random.default_rng(_SEED)
    factors = random.integers(1 << 64, size=PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
    shifts = random.integers(1 << 64, size=PERMUTATIONS, dtype=np.uint64)
    texts = shingles.starts.size - 1
    signatures = np.empty((texts, PERMUTATIONS), np.uint64)

    def sign(span: tuple[int, int]) -> None:
        start, stop = span
        starts = shingles.starts[start : stop + 1]
        hashes = mixed(shingles.hashes[starts[0] : starts[-1]] ^ tag)
        permuted = np.empty_like(hashes)
        least = np.empty((PERMUTATIONS, stop - start), np.uint64)
        for place, (factor, shift) in enumerate(zip(factors, shifts, strict=True)):
            np.multiply(hashes, factor, out=permuted)
            np.add(permuted, shift, out=permuted)
            np.minimum.reduceat(permuted, starts[:-1] - starts[0], out=least[place])
        signatures[start:stop] = least.T

    with ThreadPoolExecutor(cpu_count()) as threads:
        list(threads.map(sign, _spans(shingles.starts)))
    return signatures


def _spans(starts: Sequence[int] | np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of texts with about _SHINGLES_AT_A_TIME shingles."""
    start, texts = 0, len(starts) - 1
    while start < texts:
        stop = int(np.searchsorted(starts, starts[start] + _SHINGLES_AT_A_TIME, side="right")) - 1
        stop = min(max(stop, start + 1), texts)
        yield start, stop
        start = stop


def mixed(values: np.ndarray) -> np.ndarray:
    """Each value spread over all 64 bits (the finalizer of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
