"""Model optimization (survey section 4): how selected rows become new weights."""

from selfimp_dagster.lifecycle.optimization import sft  # noqa: F401  registers the method
