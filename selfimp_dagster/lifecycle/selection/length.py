"""Drop responses that are too short for their kind of task."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import JUDGEMENTS, SelectionContext
from selfimp_dagster.registry import method


class LengthFilterParameters(BaseModel):
    """Parameters of `length_filter`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Characters that a response must have, as a share of the longest one of its group.",
    )


@method(
    "selection", "length_filter", parameters=LengthFilterParameters, section="3.2.1", paper="arXiv:2502.01612"
)
def length_filter(
    rows: pl.DataFrame, context: SelectionContext, parameters: LengthFilterParameters
) -> pl.DataFrame:
    """Keeps responses that are about as long as the longest of the same skill and difficulty.

    In: rows with their difficulty; signal: a response's characters over those of the longest one in its
    group; out: the long ones. A model that is asked for more than it has learnt tends to leave something out,
    so its wrong answers are short (Lee et al., section 5). The score is the ratio. Of use where tasks of one
    difficulty have answers of one length.
    """
    characters = pl.col("response").str.len_chars()
    ratio = characters / characters.max().over("skill", "difficulty").clip(lower_bound=1)
    long_enough = ratio >= parameters.share
    return rows.select(
        "sample_id",
        ratio.alias("score"),
        long_enough.alias("kept"),
        pl.when(long_enough)
        .then(pl.lit("about as long as the longest of its kind"))
        .otherwise(pl.lit(f"shorter than {parameters.share} of the longest of its kind"))
        .alias("reason"),
        pl.struct(characters.alias("characters")).struct.json_encode().alias("evidence"),
    ).cast(JUDGEMENTS)
