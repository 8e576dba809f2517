"""Keys by which rows that say the same, or nearly the same, find each other without being read.

A row has one key for its exact text and one for each band of its MinHash sketch; rows that share a key may be
duplicates, and whoever looks decides by their texts. What a round keeps is stored with its keys, so that a
later round reads the texts of no row but those that share a key with one of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from hashlib import blake2b
from typing import Self

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict
from rensa import RMinHash

from selfimp_dagster.lifecycle.selection.text import figures, normalised, tokens

ROW_KEYS = pl.Schema({"key": pl.UInt64, "sample_id": pl.String})
"""Keys of rows; in a file, sorted."""

_PERMUTATIONS = 128
_RECALL = 0.99  # of pairs exactly at the threshold
_MINHASH_SEED = 1  # fixed: which rows are duplicates must not depend on the round's seed
_PUNCTUATION = frozenset(".,;:!?'\"`\u2019\u201c\u201d")
_SLICE = 10_000  # rows whose shingles are in memory at once
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so no n-gram's hash forgets a token
_ODD = np.random.default_rng(0).integers(0, 2**63, _PERMUTATIONS, np.uint64) * 2 + 1


class Nearness(BaseModel):
    """What the keys of near-duplicates depend on. `algorithm` is rensa's, `hashes` says whose hashes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ngram: int
    bands: int
    permutations: int = _PERMUTATIONS
    seed: int = _MINHASH_SEED
    algorithm: int = RMinHash.ALGORITHM_VERSION
    hashes: str = f"polars {pl.__version__}"

    @classmethod
    def of(cls, threshold: float, ngram: int) -> Self:
        """What finds the pairs of this Jaccard similarity of token n-grams."""
        return cls(ngram=ngram, bands=bands_for(threshold))


class RowKeys:
    """The keys of rows, each computed once."""

    def __init__(self) -> None:
        self._made: dict[Nearness | None, pl.DataFrame] = {}

    def of(self, rows: pl.DataFrame, nearness: Nearness | None) -> pl.DataFrame:
        """The keys of these rows (ROW_KEYS): those of their exact texts, or of near ones."""
        made = self._made.get(nearness, ROW_KEYS.to_frame())
        missing = rows.join(made, on="sample_id", how="anti")
        if not missing.is_empty():
            new = exact_keys(missing) if nearness is None else near_keys(missing, nearness)
            made = self._made[nearness] = pl.concat([made, new]).sort("key", "sample_id")
        return made.join(rows, on="sample_id", how="semi", maintain_order="left")


@dataclass(frozen=True)
class Shingled:
    """The figures of a text, and the n-grams of its tokens without punctuation."""

    figures: str
    shingles: frozenset[str]


def exact_keys(rows: pl.DataFrame) -> pl.DataFrame:
    """The key of each row's prompt and response, up to white space and Unicode form (ROW_KEYS)."""
    texts = rows.select(normalised(pl.col("prompt")), normalised(pl.col("response")))
    keys = [_hashed("exact", prompt, response) for prompt, response in texts.iter_rows()]
    return _frame(np.array(keys, np.uint64), rows["sample_id"])


def near_keys(rows: pl.DataFrame, nearness: Nearness) -> pl.DataFrame:
    """The keys of the bands of each row's sketch (ROW_KEYS).

    Rows share a key only if they have the same figures (numbers and operators, in their order).
    """
    found = [ROW_KEYS.to_frame()]
    for part in rows.iter_slices(_SLICE):
        hashes, ends = _shingle_hashes(part, nearness.ngram)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, ends, nearness.permutations, nearness.seed
        )
        digests = np.array(matrix.to_rows(), np.uint64).reshape(part.height, nearness.bands, -1)
        block = pl.concat_str(figures(pl.col("prompt")), figures(pl.col("response")), separator="\0").hash()
        with np.errstate(over="ignore"):
            keys = (digests * _ODD[: digests.shape[2]]).sum(2) * _ODD[: nearness.bands]
            keys += part.select(block).to_numpy()
            keys ^= keys >> np.uint64(29)
        found.append(_frame(keys.ravel(), part["sample_id"].gather(_each(part.height, nearness.bands))))
    return pl.concat(found)


def _shingle_hashes(rows: pl.DataFrame, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each n-gram of the rows' texts, row by row, and where the rows begin and the last one ends.

    Those of prompts and of responses differ, so that the similarity of the union is at least that of the
    worse part. A text of fewer tokens has one n-gram, and one without tokens none.
    """
    parts = []
    for tag, name in enumerate(("prompt", "response")):
        words = (
            rows.select(tokens(pl.col(name)).alias("word"))
            .with_row_index("row")
            .explode("word", empty_as_null=False)
            .filter(~pl.col("word").is_in(_PUNCTUATION))
            .select("row", pl.col("word").hash(seed=tag))
            .with_columns(left=pl.len().over("row") - pl.int_range(pl.len()).over("row"))
        )
        ahead = [
            pl.when(pl.col("left") > step).then(pl.col("word").shift(-step)).otherwise(0)
            for step in range(1, ngram)
        ]
        hashed = reduce(
            lambda found, word: found * pl.lit(_MULTIPLIER, pl.UInt64) + word, ahead, pl.col("word")
        )
        first = pl.col("row") != pl.col("row").shift(1).fill_null(2**32 - 1)
        parts.append(words.select("row", hashed, kept=(pl.col("left") >= ngram) | first).filter("kept"))
    shingles = pl.concat(parts).sort("row", maintain_order=True)
    counts = np.bincount(shingles["row"].to_numpy(), minlength=rows.height)
    return shingles["word"].to_numpy(), np.concatenate([[0], counts.cumsum()]).astype(np.uint64)


def shingled(texts: pl.Series, ngram: int) -> Iterator[Shingled]:
    """The figures and shingles of each text."""
    read = texts.to_frame("text").select(figures(pl.col("text")), tokens(pl.col("text")).alias("tokens"))
    for found, every in read.iter_rows():
        words = [word for word in every if word not in _PUNCTUATION]
        last = max(len(words) - ngram, 0)
        yield Shingled(found, frozenset(" ".join(words[start : start + ngram]) for start in range(last + 1)))


def sharing(keys: pl.DataFrame, earlier: pl.LazyFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The keys (ROW_KEYS) that several of these rows have, or one of them and an earlier one.

    Returns:
        Those keys of these rows, and of the earlier rows.
    """
    met = earlier.join(keys.lazy().select("key").unique(), on="key", how="semi").collect(engine="streaming")
    several = keys.filter(pl.col("key").is_duplicated())
    both = keys.join(met, on="key", how="semi")
    return pl.concat([several, both]).unique(), met


def bands_for(threshold: float) -> int:
    """The fewest LSH bands, a power of two, that find a pair at the threshold with probability _RECALL."""
    bands = 1
    while bands < _PERMUTATIONS and 1 - (1 - threshold ** (_PERMUTATIONS // bands)) ** bands < _RECALL:
        bands *= 2
    return bands


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """The share of all that is in both."""
    if one == other:
        return 1.0
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def _hashed(*parts: str) -> int:
    return int.from_bytes(blake2b("\0".join(parts).encode(), digest_size=8).digest())


def _each(rows: int, times: int) -> pl.Series:
    return pl.Series(np.repeat(np.arange(rows), times))


def _frame(keys: np.ndarray, ids: pl.Series) -> pl.DataFrame:
    return pl.DataFrame({"key": keys, "sample_id": ids}, schema=ROW_KEYS)
