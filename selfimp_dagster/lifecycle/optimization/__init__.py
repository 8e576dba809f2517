"""Model optimization (survey section 4): how judged samples become new weights. Importing it registers."""

from selfimp_dagster.lifecycle.optimization import (
    dpo,
    grpo,
    kto,
    restrain,
    rloo,
    scpo,
    sequence,
    sft,
    spin,
    sppo,
)

__all__ = ["dpo", "grpo", "kto", "restrain", "rloo", "scpo", "sequence", "sft", "spin", "sppo"]
