"""What a score depends on besides the weights: the harness."""

from importlib.metadata import version
from typing import Any

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.records import content_hash

SCORER_VERSION = 1
"""Raised whenever answers are extracted or judged differently."""


def harness(campaign: Campaign, engine: dict[str, Any]) -> dict[str, Any]:
    """Everything that can move a score without the weights having moved."""
    return {
        "engine": engine,
        "instruction": campaign.instruction,
        "sampling": answering(campaign).model_dump(),
        "scorer": SCORER_VERSION,
        "reasoning-gym": version("reasoning-gym"),
        "math-verify": version("math-verify"),
    }


def answering(campaign: Campaign) -> Sampling:
    """Evaluation decodes greedily: a score must not hang on a draw."""
    return Sampling(max_new_tokens=campaign.evaluation.max_new_tokens, temperature=0)


def fingerprint(harness: dict[str, Any]) -> str:
    """16 hex digits that two comparable measurements share."""
    return content_hash(harness)[:16]
