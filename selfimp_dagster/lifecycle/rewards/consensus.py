"""The reward `consensus`: whether a response gives the answer that a debate ended with."""

from collections import Counter

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.descent import Descent
from selfimp_dagster.records import REWARDS, frame
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.verifiers import comparable_answer

CONSENSUS = "consensus"


class Consensus(BaseModel):
    """Parameters of `consensus`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="Share of the last answers that the winner must exceed; else nobody is judged.",
    )


@method(
    "reward",
    CONSENSUS,
    parameters=Consensus,
    section="4.3",
    paper="arXiv:2501.05707",
    gives=frozenset({"verdict", "ordering"}),
)
def consensus(context: RewardContext, parameters: Consensus) -> pl.DataFrame:
    """1 for the answer that most of the last answers to a task give, 0 for others (kind H); no ground truth.

    In: samples with their parents; signal: the answers that nothing goes on from, which are what a debate
    ended with; out: the value for every sample of the task, the first answers too, with the winner's share of
    the last answers as confidence. Where no answer has more than `share` of them, no sample of the task has
    a value: the debate did not agree (Subramaniam et al., arXiv:2501.05707, section 3).
    """
    tasks = {task.task_id: task for task in tasks_from_frame(context.tasks)}
    descent = Descent(context.samples)
    rows = []
    for (task_id,), samples in context.samples.partition_by(
        "task_id", as_dict=True, maintain_order=True
    ).items():
        task = tasks[str(task_id)]
        answers = {
            id_: comparable_answer(task, response)
            for id_, response in samples.select("sample_id", "response").iter_rows()
        }
        last = [answer for id_, answer in answers.items() if descent.is_end(id_)]
        leaders = Counter(answer for answer in last if answer is not None).most_common(1)
        winner, votes = leaders[0] if leaders else ("", 0)
        agreed = votes > parameters.share * len(last)
        for id_, answer in answers.items():
            rows.append(
                {
                    "sample_id": id_,
                    "reward": CONSENSUS,
                    "kind": "H",
                    "value": float(answer == winner) if agreed else None,
                    "confidence": votes / len(last) if agreed else 0.0,
                    "evidence": f"{votes} of {len(last)} last answers agree",
                }
            )
    return frame(rows, REWARDS)
