"""Remove what this corpus or an earlier round already has.

Of equal rows, one of an ancestor round stays, otherwise the one with the lowest sample id. Put
these steps behind the one that verifies, or a wrong sample may stand for a right one.
"""

from collections.abc import Iterator

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import EARLIER, JUDGEMENTS, SelectionContext
from selfimp_dagster.lifecycle.selection.row_keys import (
    Nearness,
    Shingled,
    jaccard,
    sharing,
    shingled,
)
from selfimp_dagster.lifecycle.selection.text import normalised
from selfimp_dagster.registry import method

_AT_A_TIME = 1_000  # rows whose texts, and those of what they may repeat, are in memory at once


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
    keys, met = sharing(context.keys.of(rows, None), context.keys_of_earlier(None))
    original = (
        _earlier_then_current(rows.join(keys, on="sample_id", how="semi"), met, context)
        .select(pl.col("sample_id").alias("duplicate_of"), "round", "current", *pair)
        .unique(["prompt", "response"], keep="first", maintain_order=True)
    )
    duplicate = (~pl.col("current") | (pl.col("duplicate_of") != pl.col("sample_id"))).fill_null(False)
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

    @property
    def nearness(self) -> Nearness:
        """What the keys of rows depend on."""
        return Nearness.of(self.threshold, self.ngram)


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
        list(_near(rows, context, parameters)),
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


def _earlier_then_current(rows: pl.DataFrame, met: pl.DataFrame, context: SelectionContext) -> pl.DataFrame:
    """The earlier rows that have one of these keys, and the rows, in the order in which they may stay.

    Those of ancestor rounds come first, then by sample id.
    """
    columns = ["sample_id", "round", "prompt", "response"]
    earlier = EARLIER.to_frame().select(columns)
    if not met.is_empty():
        wanted = pl.col("sample_id").is_in(met["sample_id"].unique().implode())
        known = context.earlier.lazy().select(columns).filter(wanted)
        earlier = known.collect(engine="streaming").sort("round", "sample_id")
    return pl.concat(
        [
            earlier.with_columns(pl.col("prompt", "response").fill_null(""), current=pl.lit(False)),
            rows.select(columns).sort("sample_id").with_columns(current=pl.lit(True)),
        ]
    )


def _near(
    rows: pl.DataFrame, context: SelectionContext, parameters: NearDuplicatesParameters
) -> Iterator[tuple[str, float, str, str]]:
    """Yields sample id, similarity, and the id and round of the row that stays, for each near-duplicate."""
    nearness = parameters.nearness
    keys, met = sharing(context.keys.of(rows, nearness), context.keys_of_earlier(nearness))
    both = _earlier_then_current(rows.join(keys, on="sample_id", how="semi"), met, context)
    keys_of: dict[str, list[int]] = {}
    for part in (keys, met):
        for key, id_ in part.unique().iter_rows():
            keys_of.setdefault(id_, []).append(key)
    ids, rounds, current = (both[name].to_list() for name in ("sample_id", "round", "current"))
    staying: dict[int, list[int]] = {}  # the rows that stay, by the keys that they have

    def met_by(at: int) -> set[int]:
        return {one for key in keys_of[ids[at]] for one in staying.get(key, ())}

    for start in range(0, both.height, _AT_A_TIME):
        window = range(start, min(start + _AT_A_TIME, both.height))
        compared = [at for at in window if current[at]]
        needed = {*window, *(one for at in compared for one in met_by(at))} if compared else set()
        parts = _read(both, sorted(needed), parameters.ngram)
        for at in window:
            if current[at]:
                best, twin = 0.0, at
                for candidate in sorted(met_by(at)):
                    similarity = min(map(_similarity, parts[at], parts[candidate]))
                    if similarity > best:
                        best, twin = similarity, candidate
                if best >= parameters.threshold:
                    yield ids[at], best, ids[twin], rounds[twin]
                    continue
            for key in keys_of[ids[at]]:
                staying.setdefault(key, []).append(at)


def _read(both: pl.DataFrame, places: list[int], ngram: int) -> dict[int, tuple[Shingled, Shingled]]:
    """The prompts and responses of these rows."""
    rows = both[places]
    read = (shingled(rows[name], ngram) for name in ("prompt", "response"))
    return dict(zip(places, zip(*read, strict=True), strict=True))


def _similarity(one: Shingled, other: Shingled) -> float:
    """The Jaccard similarity of two texts with the same figures; 0 where a key brought others together."""
    return jaccard(one.shingles, other.shingles) if one.figures == other.figures else 0.0
