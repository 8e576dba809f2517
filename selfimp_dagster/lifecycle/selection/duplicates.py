"""Remove what this corpus or an earlier round already has.

Of equal rows, one of an ancestor round stays, otherwise the one with the lowest sample id. Put
these steps behind the one that verifies, or a wrong sample may stand for a right one.

Rows of ancestor rounds are looked up in the index of duplicates; only those that share a key with a row of
this corpus are read.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import JUDGEMENTS, SelectionContext
from selfimp_dagster.lifecycle.selection.sketches import ContentKeys, Keys, NearKeys, Shingles
from selfimp_dagster.lifecycle.selection.text import normalised
from selfimp_dagster.registry import method

_CACHED_TEXTS = 10_000
_ROWS_AT_A_TIME = 250_000  # whose counterparts of earlier rounds are in memory at once
_TEXTS = ("prompt", "response")
_FOUND = pl.Schema(
    {"sample_id": pl.String, "similarity": pl.Float64, "duplicate_of": pl.String, "round": pl.String}
)


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
    ordered = rows.select("sample_id", "round", *_TEXTS).sort("sample_id")
    keys = ContentKeys().keys(ordered)
    found = pl.concat([_of_earlier(ordered, keys, context), _of_current(ordered, keys)]).unique(
        "sample_id", keep="first", maintain_order=True
    )
    duplicate = pl.col("duplicate_of").is_not_null()
    return (
        rows.select("sample_id")
        .join(found, on="sample_id", how="left", maintain_order="left")
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
        list(_near(rows.select("sample_id", "round", *_TEXTS).sort("sample_id"), context, parameters)),
        schema=_FOUND,
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


def _of_earlier(ordered: pl.DataFrame, keys: Keys, context: SelectionContext) -> pl.DataFrame:
    """Rows that an ancestor round has, with the first of it that does (_FOUND)."""
    shared = context.earlier.sharing(ContentKeys(), keys)
    parts = [
        _same_texts(ordered[part["row"]], context.earlier.at(part["place"]), part)
        for part in shared.iter_slices(_ROWS_AT_A_TIME)
    ]
    return pl.concat([_FOUND.to_frame(), *parts])


def _same_texts(current: pl.DataFrame, earlier: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """The pairs whose texts are the same: `current` has a row for each, `earlier` one for each place."""
    other = pairs.select("place").join(earlier, on="place", how="left", maintain_order="left")
    return _equal(current, other.with_columns(pl.col(_TEXTS).fill_null("")))


def _of_current(ordered: pl.DataFrame, keys: Keys) -> pl.DataFrame:
    """Rows that this corpus has, with the first of it (_FOUND)."""
    place = pl.DataFrame({"key": keys[:, 0]}).with_row_index("row")
    first = place.select("row", first=pl.col("row").first().over("key"))
    repeats = first.filter(pl.col("row") != pl.col("first"))
    return _equal(ordered[repeats["row"]], ordered[repeats["first"]])


def _equal(current: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """Where two rows have the same texts and not only the same key: the first repeats the second (_FOUND)."""
    texts = [normalised(pl.col(text)) for text in _TEXTS]
    same = (current.select(texts).to_struct() == other.select(texts).to_struct()).alias("same")
    return pl.DataFrame(
        {
            "sample_id": current["sample_id"],
            "similarity": pl.repeat(1.0, current.height, eager=True),
            "duplicate_of": other["sample_id"],
            "round": other["round"],
        },
        schema=_FOUND,
    ).filter(same)


def _near(
    ordered: pl.DataFrame, context: SelectionContext, parameters: NearDuplicatesParameters
) -> Iterator[tuple[str, float, str, str]]:
    """Yields sample id, similarity, and the id and round of the row that stays, for each near-duplicate."""
    kind = NearKeys.at(parameters.threshold, parameters.ngram)
    keys = kind.keys(ordered)
    groups = _groups(keys)
    shared = context.earlier.sharing(kind, keys)
    looked_at = np.union1d(np.flatnonzero((groups >= 0).any(axis=1)), shared["row"].to_numpy())
    earlier = context.earlier.at(shared["place"]).sort("place").with_row_index("at")
    of_earlier = dict(
        shared.join(earlier.select("place", "at"), on="place").group_by("row").agg(pl.col("at")).iter_rows()
    )
    columns = ["sample_id", "round", *_TEXTS]
    pool = pl.concat([earlier.select(columns), ordered[looked_at].select(columns)])  # in order of precedence
    similarity = _similarity(pool, parameters.ngram)
    ids, rounds = pool["sample_id"], pool["round"]
    staying = defaultdict[int, list[int]](list)
    for at, row in enumerate(looked_at.tolist(), start=earlier.height):
        of_row = groups[row][groups[row] >= 0].tolist()
        best, twin = 0.0, at
        for candidate in sorted({*of_earlier.get(row, ()), *(at for g in of_row for at in staying[g])}):
            similar = similarity(at, candidate)
            if similar > best:
                best, twin = similar, candidate
        if best >= parameters.threshold:
            yield ids[at], best, ids[twin], rounds[twin]
            continue
        for group in of_row:
            staying[group].append(at)


def _groups(keys: Keys) -> np.ndarray:
    """(rows, keys of a row): the number of each key that several rows have, and -1 for others."""
    groups = np.full(keys.shape, -1, np.int32)
    known = 0
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band])
        same = np.diff(keys[order, band]) == 0
        number = np.concatenate([[0], np.cumsum(~same)])[: order.size]
        several = (
            np.concatenate([same, [False]])[: order.size] | np.concatenate([[False], same])[: order.size]
        )
        groups[order[several], band] = number[several] + known
        known += order.size
    return groups


def _similarity(pool: pl.DataFrame, ngram: int) -> Callable[[int, int], float]:
    """The similarity of two rows: the smaller of the Jaccard similarities of their prompts and responses."""
    texts = pl.concat([pool[text].alias("text") for text in _TEXTS]).unique().to_frame().with_row_index("id")
    parts = [
        pool.select(text)
        .join(texts, left_on=text, right_on="text", how="left", maintain_order="left")["id"]
        .to_list()
        for text in _TEXTS
    ]
    shingles = lru_cache(maxsize=_CACHED_TEXTS)(Shingles.of(texts["text"], ngram).of_text)

    def jaccard(a: int, b: int) -> float:
        return 1.0 if a == b else _jaccard(shingles(a), shingles(b))

    return lambda one, other: min(jaccard(part[one], part[other]) for part in parts)


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    if a == b:
        return 1.0
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)
