"""Model optimization (survey section 4): how judged samples become new weights. Importing it registers."""

from selfimp_dagster.lifecycle.optimization import (
    dpo,
    grpo,
    kto,
    restrain,
    reward_model,
    rloo,
    scpo,
    sequence,
    sft,
    spin,
    sppo,
    verifier,
)

__all__ = [
    "dpo",
    "grpo",
    "kto",
    "restrain",
    "reward_model",
    "rloo",
    "scpo",
    "sequence",
    "sft",
    "spin",
    "sppo",
    "verifier",
]
