"""Data acquisition (survey section 2): where a round's tasks and samples come from."""

from selfimp_dagster.lifecycle.acquisition import (  # noqa: F401  registers the methods
    policy_sampling,
    self_labelling,
)
