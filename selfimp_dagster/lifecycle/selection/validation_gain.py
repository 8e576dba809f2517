"""A selector that learns from what its choices were worth: the accuracy that the round gained."""

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.sampling import unaided
from selfimp_dagster.lifecycle.selection.chain import SelectionContext, texts_of
from selfimp_dagster.lifecycle.selection.ranking import Fate, judgements
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.pools import quotas

FEATURES = ("prompt_length", "response_length", "loss", "difficulty", "times_kept")
"""What the selector sees of a row, each standardised over the round's rows: the logarithm of the
characters of prompt and response, the incumbent's loss in nats a token, the share of wrong samples of its
task, and how often earlier rounds kept a row of its task."""


class ValidationGainParameters(BaseModel):
    """Parameters of `validation_gain`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(default=0.5, gt=0, le=1, description="Share of the rows that is kept.")
    groups: int = Field(
        default=8, ge=1, description="Clusters of rows in the policy's embedding space; each keeps its share."
    )
    learning_rate: float = Field(
        default=5.0, gt=0, description="Step of the feature weights, per accuracy gained beyond the mean."
    )
    reward: str = Field(default="answer", description="The reward that says whether a sample is right.")
    minimum: float = Field(default=1.0, description="The smallest value that is right.")


class Selector(BaseModel):
    """What the selector has learnt: the weight of each feature, and what it needs to learn from this
    round.

    `trace` is the gradient of the log-probability of this round's choice by the weights, per row chosen;
    `mean_gain` the mean of the `gains` gains that were seen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: dict[str, float]
    trace: dict[str, float]
    gains: int = Field(ge=0)
    mean_gain: float


@method(
    "selection",
    "validation_gain",
    parameters=ValidationGainParameters,
    section="3.3",
    paper="arXiv:2504.07282",
    needs=frozenset({"logprobs", "embeddings", "verifier"}),
    state=Selector,
)
def validation_gain(
    rows: pl.DataFrame, context: SelectionContext, parameters: ValidationGainParameters
) -> tuple[pl.DataFrame, Selector]:
    """Keeps what has been worth keeping: a selector learns from the accuracy that each round gained.

    RAISE (Lv et al., arXiv:2504.07282): rows have features (FEATURES), an acquisition function makes a
    score of them, each cluster of the rows' embeddings keeps its share by the scores, and reinforcement
    learning with the gain on validation items as reward trains the function. The paper trains a network
    by PPO on a reward per batch; a campaign has one per round, so the function is linear, the choice is
    drawn without replacement from the softmax of the scores, and REINFORCE with the mean gain as baseline
    moves the weights. The reward is the accuracy of the candidate less that of the incumbent on the
    parent round's fresh items, whether it was promoted or not. Put the step last, so that what it chooses
    is what is trained on. Empty answers are dropped.

    Raises:
        SelfimpError: no sample has the reward.
    """
    spoken = rows.filter(pl.col("response").str.strip_chars() != "")
    selector = learnt(_parent(context), context.parent_gain, parameters.learning_rate)
    features = standardised(_features(spoken, context, parameters))
    groups = _clusters(spoken, context, parameters.groups)
    scores = features @ np.array([selector.weights[name] for name in FEATURES])
    luck = np.random.default_rng(derive_seed(context.seed, "validation_gain"))
    kept, trace = choose(features, scores, groups, parameters.share, luck)
    at = {sample_id: place for place, sample_id in enumerate(spoken["sample_id"])}

    def fate(sample_id: str) -> Fate:
        if sample_id not in at:
            return Fate(None, False, "is empty", {})
        place = at[sample_id]
        seen = dict(zip(FEATURES, features[place].tolist(), strict=True)) | {"cluster": int(groups[place])}
        reason = (
            f"{'drawn' if place in kept else 'not drawn'} by what its features were worth in earlier rounds"
        )
        return Fate(float(scores[place]), place in kept, reason, seen)

    left = selector.model_copy(update={"trace": dict(zip(FEATURES, trace.tolist(), strict=True))})
    return judgements(rows, map(fate, rows["sample_id"])), left


def learnt(selector: Selector, gain: float | None, learning_rate: float) -> Selector:
    """The selector after it is told what its last choice gained; unchanged if nobody knows."""
    if gain is None:
        return selector
    step = learning_rate * (gain - selector.mean_gain)
    gains = selector.gains + 1
    return Selector(
        weights={name: weight + step * selector.trace[name] for name, weight in selector.weights.items()},
        trace=selector.trace,
        gains=gains,
        mean_gain=selector.mean_gain + (gain - selector.mean_gain) / gains,
    )


def choose(
    features: np.ndarray, scores: np.ndarray, groups: np.ndarray, share: float, luck: np.random.Generator
) -> tuple[set[int], np.ndarray]:
    """The rows that are drawn, and the gradient of that draw's log-probability by the weights, per row.

    Each group keeps its part of the share, one row after the other with the probability of the softmax of
    the scores over those that are left (Plackett-Luce, drawn as the highest sums of score and Gumbel
    noise).

    Args:
        features: shape (rows, features).
        scores: shape (rows,).
        groups: of each row, shape (rows,).
    """
    keys = scores + luck.gumbel(size=len(scores))
    members = {int(group): np.flatnonzero(groups == group) for group in np.unique(groups)}
    total = max(1, round(share * len(scores))) if len(scores) else 0
    places = quotas({str(group): len(rows) for group, rows in members.items()}, total) if total else {}
    kept: set[int] = set()
    gradient = np.zeros(features.shape[1])
    for group, rows in members.items():
        left = rows[np.argsort(-keys[rows], kind="stable")]
        for chosen in range(places[str(group)]):
            rest = left[chosen:]
            weights = np.exp(scores[rest] - scores[rest].max())
            gradient += features[left[chosen]] - weights @ features[rest] / weights.sum()
        kept |= set(left[: places[str(group)]].tolist())
    return kept, gradient / max(1, len(kept))


def standardised(features: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and standard deviation 1; a column of equal values becomes 0."""
    if not len(features):
        return features
    spread = features.std(axis=0)
    return np.where(spread > 0, (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1), 0.0)


def _parent(context: SelectionContext) -> Selector:
    nothing = dict.fromkeys(FEATURES, 0.0)
    return (
        context.state
        if isinstance(context.state, Selector)
        else Selector(weights=nothing, trace=nothing, gains=0, mean_gain=0.0)
    )


def _features(
    rows: pl.DataFrame, context: SelectionContext, parameters: ValidationGainParameters
) -> np.ndarray:
    """The raw features of the rows, in the order of FEATURES: (rows, features)."""
    right = context.reward(parameters.reward).drop_nulls("value")
    rate = (
        unaided(context.samples)
        .join(right, on="sample_id")
        .group_by("task_id")
        .agg(difficulty=1 - (pl.col("value") >= parameters.minimum).mean())
    )
    kept = context.earlier.lazy().group_by("task_id").agg(times_kept=pl.len()).collect()
    losses = context.models.losses("incumbent", context.asked(rows), "losses")
    return (
        rows.select(
            "task_id",
            prompt_length=pl.col("prompt").str.len_chars().log1p(),
            response_length=pl.col("response").str.len_chars().log1p(),
            loss=pl.Series(losses, dtype=pl.Float64).fill_null(0.0),
        )
        .join(rate, on="task_id", how="left", maintain_order="left")
        .join(kept, on="task_id", how="left", maintain_order="left")
        .select(pl.col(name).cast(pl.Float64).fill_null(0.0) for name in FEATURES)
        .to_numpy()
    )


def _clusters(rows: pl.DataFrame, context: SelectionContext, groups: int) -> np.ndarray:
    """Which cluster of the embeddings each row is in: (rows,)."""
    from scipy.cluster.vq import kmeans2

    points = context.models.embed("incumbent", texts_of(rows), "embedding")
    distinct, place = np.unique(points.round(4), axis=0, return_inverse=True)
    if len(distinct) <= groups:
        return place
    _, labels = kmeans2(
        points.astype(float), groups, minit="++", seed=derive_seed(context.seed, "clusters") % 2**32
    )
    return labels
