"""Importance resampling: rows are drawn as if from the target's distribution."""

from itertools import pairwise
from zlib import crc32

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import SelectionContext, texts_of
from selfimp_dagster.lifecycle.selection.ranking import Fate, highest, judgements
from selfimp_dagster.lifecycle.selection.target import Target, target_samples
from selfimp_dagster.lifecycle.selection.text import tokens
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import method

_UNSEEN = 1e-8  # added to every probability, as in the authors' code


class DsirParameters(BaseModel):
    """Parameters of `dsir`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(default=0.5, gt=0, le=1, description="Share of the rows that is drawn.")
    buckets: int = Field(
        default=10_000, ge=2, description="Places that words and pairs of words are hashed to."
    )
    target: Target = Field(default=Target(), description="What the rows are to resemble.")


@method("selection", "dsir", parameters=DsirParameters, section="3.2.1", paper="arXiv:2302.03169")
def dsir(rows: pl.DataFrame, context: SelectionContext, parameters: DsirParameters) -> pl.DataFrame:
    """Draws rows with the probability that the target has of them, relative to that of all rows.

    DSIR (Xie et al., arXiv:2302.03169): words and pairs of neighbouring words are hashed into buckets, a
    bag of buckets is fitted to the target and one to all rows, and the score is a row's log importance
    weight: the sum of log p_target - log p_rows over its buckets. Rows are drawn without replacement by
    the highest sums of score and Gumbel noise. The paper's target is a corpus that people name; here it
    is what the target's reward accepts.

    Raises:
        SelfimpError: there is no target.
    """
    ngrams = hashed_ngrams(texts_of(rows), parameters.buckets)
    wanted = hashed_ngrams(texts_of(target_samples(context, parameters.target)), parameters.buckets)
    weights = log_importance(ngrams, wanted, parameters.buckets)
    noise = np.random.default_rng(derive_seed(context.seed, "dsir")).gumbel(size=rows.height)
    drawn = highest(
        [
            weight + luck if len(words) else None
            for weight, luck, words in zip(weights, noise.tolist(), ngrams, strict=True)
        ],
        parameters.share,
    )

    def fate(place: int) -> Fate:
        if not len(ngrams[place]):
            return Fate(None, False, "has no words", {})
        kept = place in drawn
        reason = "drawn by its importance weight" if kept else "not drawn by its importance weight"
        return Fate(weights[place], kept, reason, {"ngrams": len(ngrams[place])})

    return judgements(rows, map(fate, range(rows.height)))


def hashed_ngrams(texts: list[str], buckets: int) -> list[np.ndarray]:
    """The buckets that the words and the pairs of neighbouring words of each text fall into."""
    words = (
        pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(tokens(pl.col("text"))).to_series()
    )
    return [
        np.array(
            [
                crc32(ngram.encode("utf-8", "surrogatepass")) % buckets
                for ngram in (*found, *(f"{one} {other}" for one, other in pairwise(found)))
            ],
            dtype=np.int64,
        )
        for found in words.to_list()
    ]


def log_importance(ngrams: list[np.ndarray], target: list[np.ndarray], buckets: int) -> list[float]:
    """Each row's log importance weight, in nats.

    Args:
        ngrams: the buckets of each row; together they are the distribution that is drawn from.
        target: the buckets of each text of the target.
        buckets: how many there are.
    """
    log_ratio = np.log(_shares(target, buckets) + _UNSEEN) - np.log(_shares(ngrams, buckets) + _UNSEEN)
    return [float(log_ratio[row].sum()) for row in ngrams]


def _shares(ngrams: list[np.ndarray], buckets: int) -> np.ndarray:
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *ngrams]), minlength=buckets)
    return counts / max(1, counts.sum())
