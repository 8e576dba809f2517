"""Remove what this corpus or an earlier round already has.

Of equal rows, one of an ancestor round stays, otherwise the one with the lowest sample id. Put
these steps behind the one that verifies, or a wrong sample may stand for a right one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field
from rensa import RMinHash, RMinHashLSH

from selfimp_dagster.lifecycle.selection.chain import JUDGEMENTS, SelectionContext
from selfimp_dagster.lifecycle.selection.text import figures, normalised, tokens
from selfimp_dagster.registry import method

_PERMUTATIONS = 128
_RECALL = 0.99  # of pairs exactly at the threshold
_MINHASH_SEED = 1  # fixed: which rows are duplicates must not depend on the round's seed
_PUNCTUATION = frozenset(".,;:!?'\"`\u2019\u201c\u201d")
_CACHED_TEXTS = 10_000


class ExactDuplicatesParameters(BaseModel):
    """`exact_duplicates` has no parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@method(
    "selection",
    "exact_duplicates",
    parameters=ExactDuplicatesParameters,
    section="3.2",
    paper="arXiv:2107.06499",
)
def exact_duplicates(
    rows: pl.DataFrame, context: SelectionContext, parameters: ExactDuplicatesParameters
) -> pl.DataFrame:
    """Drops rows whose prompt and response an earlier row has, up to white space and Unicode form.

    The score is 1 for a duplicate, else 0; the evidence names the row that it repeats and that row's
    round. Deduplication as in Lee et al., arXiv:2107.06499.
    """
    pair = [normalised(pl.col("prompt")).alias("prompt"), normalised(pl.col("response")).alias("response")]
    original = (
        _earlier_then_current(rows, context)
        .select(pl.col("sample_id").alias("duplicate_of"), "round", "current", *pair)
        .unique(["prompt", "response"], keep="first", maintain_order=True)
    )
    duplicate = ~pl.col("current") | (pl.col("duplicate_of") != pl.col("sample_id"))
    return (
        rows.select("sample_id", *pair)
        .join(original, on=["prompt", "response"], how="left", maintain_order="left")
        .select(
            "sample_id",
            duplicate.cast(pl.Float64).alias("score"),
            (~duplicate).alias("kept"),
            pl.when(duplicate)
            .then(pl.format("repeats {} of round {}", "duplicate_of", "round"))
            .otherwise(pl.lit("no row has the same prompt and response"))
            .alias("reason"),
            pl.when(duplicate)
            .then(pl.struct("duplicate_of", "round").struct.json_encode())
            .otherwise(pl.lit("{}"))
            .alias("evidence"),
        )
        .cast(JUDGEMENTS)
    )


class NearDuplicatesParameters(BaseModel):
    """Parameters of `near_duplicates`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(default=0.9, gt=0, le=1, description="The Jaccard similarity of a duplicate.")
    ngram: int = Field(default=3, ge=1, description="Tokens of one shingle.")


@method(
    "selection",
    "near_duplicates",
    parameters=NearDuplicatesParameters,
    section="3.2",
    paper="arXiv:2107.06499",
)
def near_duplicates(
    rows: pl.DataFrame, context: SelectionContext, parameters: NearDuplicatesParameters
) -> pl.DataFrame:
    """Drops rows that say nearly what a row that stays says.

    Two rows are near-duplicates when the Jaccard similarity of the token n-grams of their prompts
    and that of their responses both reach the threshold (case and punctuation do not count), and
    their numbers and operators are the same in the same order: "12 + 45" and "12 + 46" are two
    problems however long the text around them, and so are two answers to one long prompt.
    Candidates come from MinHash LSH (Broder 1997; Lee et al., arXiv:2107.06499), which misses less
    than 1 % of the pairs at the threshold; every one of them is confirmed by its exact similarity.

    The score is the largest similarity to a row that stays, the smaller of its two parts, where it
    reaches the threshold, else 0; the evidence names that row, its round and the similarity.
    """
    found = pl.DataFrame(
        list(_near(_Texts.of(rows, context, parameters.ngram), parameters.threshold)),
        schema={
            "sample_id": pl.String,
            "similarity": pl.Float64,
            "duplicate_of": pl.String,
            "round": pl.String,
        },
        orient="row",
    )
    duplicate = pl.col("duplicate_of").is_not_null()
    return (
        rows.select("sample_id")
        .join(found, on="sample_id", how="left", maintain_order="left")
        .select(
            "sample_id",
            pl.col("similarity").fill_null(0.0).alias("score"),
            (~duplicate).alias("kept"),
            pl.when(duplicate)
            .then(pl.format("nearly repeats {} of round {}", "duplicate_of", "round"))
            .otherwise(pl.lit(f"no row is {parameters.threshold} similar"))
            .alias("reason"),
            pl.when(duplicate)
            .then(pl.struct("duplicate_of", "round", "similarity").struct.json_encode())
            .otherwise(pl.lit("{}"))
            .alias("evidence"),
        )
        .cast(JUDGEMENTS)
    )


def _earlier_then_current(rows: pl.DataFrame, context: SelectionContext) -> pl.DataFrame:
    """The rows in the order in which they may stay: ancestor rounds first, then by sample id."""
    columns = ["sample_id", "round", "prompt", "response"]
    earlier = context.earlier.select(columns).sort("round", "sample_id")
    return pl.concat(
        [
            earlier.with_columns(pl.col("prompt", "response").fill_null(""), current=pl.lit(False)),
            rows.select(columns).sort("sample_id").with_columns(current=pl.lit(True)),
        ]
    )


@dataclass(frozen=True)
class _Texts:
    """Rows whose figures another row has too, and the tokens of their prompts and responses by id."""

    rows: pl.DataFrame
    tokens: pl.Series
    ngram: int

    @classmethod
    def of(cls, rows: pl.DataFrame, context: SelectionContext, ngram: int) -> Self:
        both = _earlier_then_current(rows, context).with_row_index("row")
        distinct = (
            pl.concat([both["prompt"], both["response"]])
            .unique(maintain_order=True)
            .alias("text")
            .to_frame()
            .with_row_index("id")
        )
        ids = distinct.with_columns(figures(pl.col("text")).alias("figures"))
        key = ["prompt_figures", "response_figures"]
        blocks = (
            both.join(ids.select(pl.all().name.prefix("prompt_")), left_on="prompt", right_on="prompt_text")
            .join(ids.select(pl.all().name.prefix("response_")), left_on="response", right_on="response_text")
            .filter((pl.len().over(key) > 1) & pl.col("current").any().over(key))
            .with_columns(pl.struct(key).rank("dense").alias("block"))
            .sort("block", "row")
            .select("block", "row", "sample_id", "round", "current", "prompt_id", "response_id")
        )
        return cls(blocks, distinct.select(tokens(pl.col("text"))).to_series(), ngram)

    def shingles(self, text_id: int) -> frozenset[str]:
        words = [word for word in self.tokens[text_id] if word not in _PUNCTUATION]
        last = max(len(words) - self.ngram, 0)
        return frozenset(" ".join(words[start : start + self.ngram]) for start in range(last + 1))


def _near(texts: _Texts, threshold: float) -> Iterator[tuple[str, float, str, str]]:
    """Yields sample id, similarity, and the id and round of the row that stays, for each near-duplicate."""
    shingles = lru_cache(maxsize=_CACHED_TEXTS)(texts.shingles)
    bands = _bands(threshold)
    for _, block in groupby(texts.rows.iter_rows(named=True), key=itemgetter("block")):
        rows = list(block)
        parts = [(row["prompt_id"], row["response_id"]) for row in rows]
        staying = RMinHashLSH(threshold, _PERMUTATIONS, bands)
        for at, row in enumerate(rows):
            sketch = RMinHash(_PERMUTATIONS, _MINHASH_SEED)
            # Tagged, so that the similarity of the union is at least that of the worse part.
            for tag, text in zip(("prompt", "response"), parts[at], strict=True):
                sketch.update([f"{tag} {shingle}" for shingle in shingles(text)])
            if row["current"]:
                best, twin = 0.0, row
                for candidate in sorted(staying.query(sketch)):
                    similarity = min(
                        _jaccard(shingles(a), shingles(b))
                        for a, b in zip(parts[at], parts[candidate], strict=True)
                    )
                    if similarity > best:
                        best, twin = similarity, rows[candidate]
                if best >= threshold:
                    yield row["sample_id"], best, twin["sample_id"], twin["round"]
                    continue
            staying.insert(at, sketch)


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    if a == b:
        return 1.0
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def _bands(threshold: float) -> int:
    """The fewest LSH bands, a power of two, that find a pair at the threshold with probability _RECALL."""
    bands = 1
    while bands < _PERMUTATIONS and 1 - (1 - threshold ** (_PERMUTATIONS // bands)) ** bands < _RECALL:
        bands *= 2
    return bands
