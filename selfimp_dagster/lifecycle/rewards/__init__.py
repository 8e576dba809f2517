"""Rewards: judgements of samples, of kind H, M or V (survey 4.3). Importing it registers them."""

from selfimp_dagster.lifecycle.rewards import answer, majority_vote  # noqa: F401  registers the rewards
