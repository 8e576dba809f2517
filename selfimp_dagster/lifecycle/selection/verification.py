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
    minimum_confidence: float = Field(
        default=0.0, ge=0, le=1, description="The smallest confidence of the reward that is kept."
    )


@method(
    "selection",
    "verified",
    parameters=VerifiedParameters,
    section="3.2.1",
    paper="arXiv:2203.14465",
    needs=frozenset({"verifier"}),
)
def verified(rows: pl.DataFrame, context: SelectionContext, parameters: VerifiedParameters) -> pl.DataFrame:
    """Keeps samples whose named reward is at least the minimum, and sure enough.

    The score is the reward's value. A sample without that reward is dropped: STaR's filter (Zelikman
    et al., arXiv:2203.14465).

    Raises:
        SelfimpError: no sample has that reward.
    """
    name, minimum, sure = parameters.reward, parameters.minimum, parameters.minimum_confidence
    value, confidence = pl.col("value"), pl.col("confidence")
    return (
        rows.select("sample_id")
        .join(context.reward(name), on="sample_id", how="left", maintain_order="left")
        .select(
            "sample_id",
            value.alias("score"),
            ((value >= minimum) & (confidence >= sure)).fill_null(False).alias("kept"),
            pl.when(value.is_null())
            .then(pl.lit(f"has no {name} reward"))
            .when(value < minimum)
            .then(pl.lit(f"{name} reward is below {minimum}"))
            .when((confidence >= sure).fill_null(False))
            .then(pl.lit(f"{name} reward is at least {minimum}"))
            .otherwise(pl.lit(f"confidence of the {name} reward is below {sure}"))
            .alias("reason"),
            pl.struct(pl.lit(name).alias("reward"), "kind", "value", "confidence", "evidence")
            .struct.json_encode()
            .alias("evidence"),
        )
        .cast(JUDGEMENTS)
    )


class FinishedParameters(BaseModel):
    """Parameters of `finished`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@method("selection", "finished", parameters=FinishedParameters, section="3.2.1", paper="arXiv:2308.01825")
def finished(rows: pl.DataFrame, context: SelectionContext, parameters: FinishedParameters) -> pl.DataFrame:
    """Keeps samples that the policy ended by itself, so that a cut-off response is never imitated.

    The score is 1 for an ended response and 0 for one that reached the token limit.
    """
    ended = pl.col("finish_reason") == "stop"
    return rows.select(
        "sample_id",
        ended.cast(pl.Float64).alias("score"),
        ended.alias("kept"),
        pl.when(ended)
        .then(pl.lit("ended by itself"))
        .otherwise(pl.lit("was cut off at the token limit"))
        .alias("reason"),
        pl.struct("finish_reason", "completion_tokens").struct.json_encode().alias("evidence"),
    ).cast(JUDGEMENTS)
