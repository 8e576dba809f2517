"""Inference refinement (survey section 5): better answers without changing weights."""

from selfimp_dagster.lifecycle.refinement import self_consistency  # noqa: F401  registers the method
