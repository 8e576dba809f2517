"""Rewards: judgements of samples, of kind H, M or V (survey 4.3). Importing it registers them."""

from selfimp_dagster.lifecycle.rewards import (  # noqa: F401  registers the rewards
    answer,
    consensus,
    judge,
    majority_vote,
    outcome,
    pairwise_judge,
    refined_over_first,
    weighted,
)
