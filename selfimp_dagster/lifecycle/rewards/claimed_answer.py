"""The reward `claimed_answer`: whether a response gives the answer that came with a task unchecked."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.records import REWARDS, frame
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.verifiers import claimed_answer as claim_of
from selfimp_dagster.tasks.verifiers import comparable_answer

_NAME = "claimed_answer"


class ClaimedAnswer(BaseModel):
    """Parameters of `claimed_answer`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: float = Field(
        default=0.5, gt=0, le=1, description="How sure it is that what was claimed is right."
    )


@method(
    "reward",
    _NAME,
    parameters=ClaimedAnswer,
    section="4.3",
    paper="arXiv:2507.23751",
    gives=frozenset({"verdict"}),
)
def claimed_answer(context: RewardContext, parameters: ClaimedAnswer) -> pl.DataFrame:
    """1 for a response that gives the answer that its task's writer claims, 0 for any other (kind H).

    In: tasks that a model wrote together with their answers. Signal: that the answer is the same, compared as
    votes are. Nobody has checked the claim, so the confidence is a number that the recipe gives. Other tasks
    have no such answer, and their samples no row.
    """
    tasks = {task.task_id: task for task in tasks_from_frame(context.tasks)}
    rows = []
    for id_, task_id, response in context.samples.select("sample_id", "task_id", "response").iter_rows():
        task = tasks[task_id]
        if (claim := claim_of(task)) is None:
            continue
        answer = comparable_answer(task, response)
        same = answer is not None and answer == comparable_answer(task, claim)
        rows.append(
            {
                "sample_id": id_,
                "reward": _NAME,
                "kind": "H",
                "value": float(same),
                "confidence": parameters.confidence,
                "evidence": "as claimed" if same else "not as claimed",
            }
        )
    return frame(rows, REWARDS)
