"""What selected rows are to resemble: samples that a reward accepts, of the skills that are to get better."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.selection.chain import SelectionContext


class Target(BaseModel):
    """Which samples of the corpus are the target."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    skills: tuple[str, ...] = Field(default=(), description="Skills that are the target; none named: all.")
    reward: str = Field(default="answer", description="The reward that says which samples are right.")
    minimum: float = Field(default=1.0, description="The smallest value that is right.")


def target_samples(context: SelectionContext, target: Target) -> pl.DataFrame:
    """The samples with their tasks that are the target: ids, skill, prompt, chat, messages and response.

    In the order of skills, tasks and samples; those that earlier steps dropped are among them. Evaluation
    items never are: what is tuned on them measures nothing.

    Raises:
        SelfimpError: a skill is not in the corpus, no sample has that reward, or none is right.
    """
    known = context.tasks["skill"].unique()
    if unknown := sorted(set(target.skills) - set(known)):
        raise SelfimpError(
            f"no task of the corpus is of the skill {', '.join(unknown)}",
            where="recipe.selection: target.skills",
            fix=f"name some of: {', '.join(sorted(known))}",
        )
    right = (
        context.samples.join(
            context.reward(target.reward).filter(pl.col("value") >= target.minimum),
            on="sample_id",
            how="semi",
        )
        .join(context.tasks.select("task_id", "skill", "prompt", "chat"), on="task_id")
        .filter(pl.col("skill").is_in(target.skills or known.to_list()))
        .select("sample_id", "task_id", "skill", "prompt", "chat", "messages", "response")
        .sort("skill", "task_id", "sample_id")
    )
    if right.is_empty() and not context.samples.is_empty():
        raise SelfimpError(
            f"no sample has a reward {target.reward} of at least {target.minimum:g}: there is no target",
            where="recipe.selection: target",
            fix="lower minimum, name other skills, or make the tasks easier",
        )
    return right
