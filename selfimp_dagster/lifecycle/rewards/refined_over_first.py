"""The reward `refined_over_first`: what was refined is better than what it came from, by rule."""

import polars as pl
from pydantic import BaseModel, ConfigDict

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.descent import Descent
from selfimp_dagster.records import REWARDS, frame
from selfimp_dagster.registry import method

_NAME = "refined_over_first"


class RefinedOverFirst(BaseModel):
    """Parameters of `refined_over_first`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@method(
    "reward",
    _NAME,
    parameters=RefinedOverFirst,
    section="4.3",
    paper="arXiv:2410.06961",
    gives=frozenset({"ordering"}),
)
def refined_over_first(context: RewardContext, parameters: RefinedOverFirst) -> pl.DataFrame:
    """1 for a response that refines another one and was not refined itself, 0 for a first one (kind H).

    In: samples with their parents; signal: their order, nothing else. Responses in between, and those that
    neither refine nor were refined, have no value. It is a belief, that refining helps (SynPO, Dong et al.,
    arXiv:2410.06961): nobody looks at what is right.
    """
    descent = Descent(context.samples)
    rows = []
    for id_ in context.samples["sample_id"]:
        refines, refined = descent.has_parent(id_), not descent.is_end(id_)
        if refines != refined:
            told = "refines another response" if refines else "was refined"
            rows.append(
                {
                    "sample_id": id_,
                    "reward": _NAME,
                    "kind": "H",
                    "value": float(refines),
                    "confidence": 1.0,
                    "evidence": told,
                }
            )
    return frame(rows, REWARDS)
