"""Selection: a chain of named steps over a corpus (survey section 3). Importing it registers the steps."""

from selfimp_dagster.lifecycle.selection import (
    decontamination,
    difficulty,
    diversity,
    duplicates,
    length,
    verification,
)
from selfimp_dagster.lifecycle.selection.chain import (
    ALWAYS_ON,
    EARLIER,
    JUDGEMENTS,
    SelectionContext,
    SelectionStep,
    check_chain,
    funnel,
    kept_sample_ids,
    run_chain,
)

__all__ = [
    "ALWAYS_ON",
    "EARLIER",
    "JUDGEMENTS",
    "SelectionContext",
    "SelectionStep",
    "check_chain",
    "decontamination",
    "difficulty",
    "diversity",
    "duplicates",
    "funnel",
    "kept_sample_ids",
    "length",
    "run_chain",
    "verification",
]
