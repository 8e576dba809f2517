"""The reward `outcome`: whether what was said led to a right answer."""

from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.rewards.answer import answer_rewards
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.descent import Descent
from selfimp_dagster.records import REWARDS, frame
from selfimp_dagster.registry import method

OUTCOME = "outcome"


class Outcome(BaseModel):
    """Parameters of `outcome`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    judged: Literal["all", "between"] = Field(
        default="all",
        description="all: every sample; between: those alone that stand between a first answer and a last "
        "one, such as reflections.",
    )


@method(
    "reward",
    OUTCOME,
    parameters=Outcome,
    section="4.3",
    paper="arXiv:2502.04780",
    needs=frozenset({"verifier"}),
    gives=frozenset({"verdict", "score"}),
)
def outcome(context: RewardContext, parameters: Outcome) -> pl.DataFrame:
    """The verifier's verdict on what a turn led to, for every turn of a dialogue (kind V).

    In: samples with their parents; signal: the verdict of the task's verifier on the samples that nothing
    goes on from; out: for each sample the mean verdict on the ends of the dialogues that go through it, its
    own where it is an end. So an agent earns what its team earned (SiriuS, Zhao et al., arXiv:2502.04780),
    and a reflection what the retry after it earned (Bensal et al., arXiv:2505.24726).
    """
    descent = Descent(context.samples)
    verdicts = {row["sample_id"]: row for row in answer_rewards(context.tasks, context.samples).to_dicts()}
    values = {id_: row["value"] for id_, row in verdicts.items()}
    rows = []
    for id_ in context.samples["sample_id"]:
        if parameters.judged == "between" and (descent.is_end(id_) or not descent.has_parent(id_)):
            continue
        ends = descent.ends(id_)
        rows.append(
            {
                "sample_id": id_,
                "reward": OUTCOME,
                "kind": "V",
                "value": sum(values[end] for end in ends) / len(ends),
                "confidence": min(verdicts[end]["confidence"] for end in ends),
                "evidence": f"{sum(values[end] >= 1 for end in ends)} of {len(ends)} ends are right",
            }
        )
    return frame(rows, REWARDS)
