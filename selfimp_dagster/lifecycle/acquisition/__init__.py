"""Data acquisition (survey section 2): where a round's tasks and samples come from."""

from selfimp_dagster.lifecycle.acquisition import (  # noqa: F401  registers the methods
    mixture,
    policy_sampling,
    prompted_synthesis,
    self_labelling,
)
