"""Keep what a model finds neither obvious nor absurd."""

from typing import Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from selfimp_dagster.lifecycle.selection.chain import SelectionContext
from selfimp_dagster.lifecycle.selection.models import Role, perplexity
from selfimp_dagster.lifecycle.selection.ranking import Fate, judgements
from selfimp_dagster.registry import method


class PerplexityBandParameters(BaseModel):
    """Parameters of `perplexity_band`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(default=0.25, ge=0, le=1, description="Share of the rows, likeliest first, left out.")
    high: float = Field(default=0.75, ge=0, le=1, description="Share of the rows at which the band ends.")
    model: Role = Field(default="incumbent", description="Whose perplexity: `incumbent` or `base`.")

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self


@method(
    "selection",
    "perplexity_band",
    parameters=PerplexityBandParameters,
    section="3.2.1",
    paper="arXiv:2309.04564",
    needs=frozenset({"logprobs"}),
)
def perplexity_band(
    rows: pl.DataFrame, context: SelectionContext, parameters: PerplexityBandParameters
) -> pl.DataFrame:
    """Keeps the answers in a band of the ranks by perplexity, by default the middle half.

    The score is the perplexity of the answer given its question; of n ranked rows, row i (from 0) lies
    at (i + 1/2) / n. Pruning to the middle is that of Marion et al. (arXiv:2309.04564), who rank whole
    documents; here the question is not part of what is scored. A row of an empty answer is dropped.
    """
    low, high = parameters.low, parameters.high
    losses = context.models.losses(parameters.model, context.asked(rows), "perplexity")
    ranked = sorted((loss, place) for place, loss in enumerate(losses) if loss is not None)
    where = {place: (rank + 0.5) / len(ranked) for rank, (_, place) in enumerate(ranked)}

    def fate(place: int, loss: float | None) -> Fate:
        if loss is None:
            return Fate(None, False, "has no tokens", {})
        at = where[place]
        if at < low:
            reason = f"likelier than the band: among the first {low:.0%} by perplexity"
        elif at > high:
            reason = f"less likely than the band: behind {high:.0%} of the rows by perplexity"
        else:
            reason = f"between {low:.0%} and {high:.0%} of the rows by perplexity"
        return Fate(perplexity(loss), low <= at <= high, reason, {"loss": loss, "quantile": at})

    return judgements(rows, (fate(place, loss) for place, loss in enumerate(losses)))
