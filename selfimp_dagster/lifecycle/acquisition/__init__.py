"""Data acquisition (survey section 2): where a round's tasks and samples come from."""

from selfimp_dagster.lifecycle.acquisition import (  # noqa: F401  registers the methods
    debating,
    pipeline,
    policy_sampling,
    reflect_retry,
    self_correction,
    self_labelling,
)
