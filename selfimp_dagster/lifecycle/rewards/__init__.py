"""Rewards: judgements of samples, of kind H, M or V (survey 4.3). Importing it registers them."""

from selfimp_dagster.lifecycle.rewards import (  # noqa: F401  registers the rewards
    answer,
    claimed_answer,
    judge,
    majority_vote,
    pairwise_judge,
    weighted,
)
