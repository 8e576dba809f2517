"""Keep corrections that correct."""

from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import SelectionContext
from selfimp_dagster.lifecycle.selection.ranking import Fate, judgements
from selfimp_dagster.registry import method


class ImprovementParameters(BaseModel):
    """Parameters of `improvement`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reward: str = Field(default="answer", description="The reward that says how good a response is.")
    minimum: float = Field(default=1.0, description="The smallest reward of a correction that is kept.")
    than_parent: Literal["better", "no worse"] = Field(
        default="better",
        description="How a correction must compare with what it corrects. no worse: right answers that stay "
        "right are kept too, so that the policy does not learn to change all it said.",
    )


@method(
    "selection", "improvement", parameters=ImprovementParameters, section="3.2.1", paper="arXiv:2503.08681"
)
def improvement(
    rows: pl.DataFrame, context: SelectionContext, parameters: ImprovementParameters
) -> pl.DataFrame:
    """Keeps responses that earn enough, and more than the response that they go on from.

    The score is by how much the reward is larger than that of the parent (the improving and the
    non-decreasing filter of Moskvoretskii et al., arXiv:2503.08681). What has no parent in the corpus
    corrects nothing and is dropped, and so is what, or whose parent, has no such reward.

    Raises:
        SelfimpError: no sample has that reward.
    """
    values = dict(context.reward(parameters.reward).select("sample_id", "value").iter_rows())

    def fate(id_: str, parent: str | None) -> Fate:
        value, before = values.get(id_), values.get(parent) if parent else None
        evidence = {"value": value, "parent": parent, "parent_value": before}
        if parent not in values:
            return Fate(None, False, "goes on from no response of this corpus", evidence)
        if value is None or before is None:
            return Fate(None, False, f"has no {parameters.reward} reward to compare", evidence)
        gain = value - before
        if value < parameters.minimum:
            return Fate(gain, False, f"{parameters.reward} reward is below {parameters.minimum:g}", evidence)
        kept = gain > 0 or (gain == 0 and parameters.than_parent == "no worse")
        compared = "better than" if gain > 0 else "as good as" if gain == 0 else "worse than"
        return Fate(gain, kept, f"is {compared} the response that it corrects", evidence)

    return judgements(rows, (fate(*row) for row in rows.select("sample_id", "parent_sample_id").iter_rows()))
