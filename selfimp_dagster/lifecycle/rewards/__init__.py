"""Rewards: judgements of samples, of kind H, M or V (survey 4.3). Importing it registers them."""

from selfimp_dagster.lifecycle.rewards import (  # noqa: F401  registers the rewards
    answer,
    claimed_answer,
    companions,
    consensus,
    episodes,
    form,
    judge,
    length_controlled,
    meta_rewarding,
    novelty,
    outcome,
    pairwise_judge,
    proof,
    refined_over_first,
    self_play,
    votes,
    weighted,
)
