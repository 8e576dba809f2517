"""Drop responses that are too short, or too long, for their kind of task."""

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
    outliers: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of a group that is set aside, the longest first, before the longest one is taken: "
        "a single response that does not end would otherwise drop all others.",
    )


@method(
    "selection", "length_filter", parameters=LengthFilterParameters, section="3.2.1", paper="arXiv:2502.01612"
)
def length_filter(
    rows: pl.DataFrame, context: SelectionContext, parameters: LengthFilterParameters
) -> pl.DataFrame:
    """Keeps responses that are about as long as the longest of the same skill and difficulty, outliers aside.

    In: rows with their difficulty; signal: a response's characters over those of the longest one in its
    group; out: the long ones. A model that is asked for more than it has learnt tends to leave something out,
    so its wrong answers are short (Lee et al., section 5). The score is the ratio, which must not be above
    1 / share either. Of use where tasks of one difficulty have answers of one length.
    """
    characters = pl.col("response").str.len_chars()
    longest = characters.quantile(1 - parameters.outliers, "lower").over("skill", "difficulty")
    ratio = characters / longest.clip(lower_bound=1)
    fitting = ratio.is_between(parameters.share, 1 / parameters.share)
    return rows.select(
        "sample_id",
        ratio.alias("score"),
        fitting.alias("kept"),
        pl.when(fitting)
        .then(pl.lit("about as long as the longest of its kind"))
        .when(ratio > 1)
        .then(pl.lit("an outlier, longer than the longest of its kind that counts"))
        .otherwise(pl.lit(f"shorter than {parameters.share} of the longest of its kind"))
        .alias("reason"),
        pl.struct(characters.alias("characters")).struct.json_encode().alias("evidence"),
    ).cast(JUDGEMENTS)
