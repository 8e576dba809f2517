"""Rejection sampling: keep what a reward accepts."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import JUDGEMENTS, SelectionContext
from selfimp_dagster.registry import method


class VerifiedParameters(BaseModel):
    """Parameters of `verified`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reward: str = Field(default="answer", description="The reward that decides.")
    minimum: float = Field(default=1.0, description="The smallest value that is kept.")


@method("selection", "verified", parameters=VerifiedParameters, section="3.2.1", paper="arXiv:2203.14465")
def verified(rows: pl.DataFrame, context: SelectionContext, parameters: VerifiedParameters) -> pl.DataFrame:
    """Keeps samples whose named reward is at least the minimum.

    The score is the reward's value. A sample without that reward is dropped: STaR's filter (Zelikman
    et al., arXiv:2203.14465).

    Raises:
        SelfimpError: no sample has that reward.
    """
    name, minimum = parameters.reward, parameters.minimum
    value = pl.col("value")
    return (
        rows.select("sample_id")
        .join(context.reward(name), on="sample_id", how="left", maintain_order="left")
        .select(
            "sample_id",
            value.alias("score"),
            (value >= minimum).fill_null(False).alias("kept"),
            pl.when(value.is_null())
            .then(pl.lit(f"has no {name} reward"))
            .when(value >= minimum)
            .then(pl.lit(f"{name} reward is at least {minimum}"))
            .otherwise(pl.lit(f"{name} reward is below {minimum}"))
            .alias("reason"),
            pl.struct(pl.lit(name).alias("reward"), "kind", "value", "evidence")
            .struct.json_encode()
            .alias("evidence"),
        )
        .cast(JUDGEMENTS)
    )
