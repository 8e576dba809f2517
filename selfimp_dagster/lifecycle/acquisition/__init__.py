"""Data acquisition (survey section 2): where a round's tasks and samples come from."""

from selfimp_dagster.lifecycle.acquisition import policy_sampling  # noqa: F401  registers the method
