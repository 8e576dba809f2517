"""Data acquisition (survey section 2): where a round's tasks and samples come from."""

from selfimp_dagster.lifecycle.acquisition import (  # noqa: F401  registers the methods
    absolute_zero,
    curation,
    debating,
    meta_rewarding,
    mixture,
    pipeline,
    policy_sampling,
    prompted_synthesis,
    reflect_retry,
    self_challenging,
    self_chat,
    self_correction,
    self_labelling,
    self_play,
    tool_use,
    transformation,
    worlds,
)
