"""The reward `proof`: whether the response's answer is provably equal to the right one."""

import polars as pl
from pydantic import BaseModel, ConfigDict

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.records import REWARDS, frame
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.verifiers import prove

_NAME = "proof"


class Proof(BaseModel):
    """Parameters of `proof`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@method(
    "reward",
    _NAME,
    parameters=Proof,
    section="4.3",
    paper="arXiv:2203.14465",
    needs=frozenset({"verifier"}),
    gives=frozenset({"verdict", "answers"}),
)
def proof(context: RewardContext, parameters: Proof) -> pl.DataFrame:
    """1 where the answer is proved equal to the right one, 0 where refuted, nothing where neither (kind V).

    In: the answer of the task and of the response, read as mathematics; signal: sympy, in exact arithmetic,
    transforms their difference to zero, or finds a value or a form at which it is not zero; out: the verdict.
    A verifier has to say right or wrong and rounds to get there (to math-verify 0.333333 is 1/3); a prover
    may also say that it does not know. It does not where the answer is no mathematics, or sympy finds neither
    or needs more than five seconds. No paper of the survey trains on it; STaR's verdict is refined by it.
    """
    tasks = {task.task_id: task for task in tasks_from_frame(context.tasks)}
    rows = []
    for id_, task, response in context.samples.select("sample_id", "task_id", "response").iter_rows():
        judgement = prove(tasks[task], response)
        undecided = judgement.error
        rows.append(
            {
                "sample_id": id_,
                "reward": _NAME,
                "kind": "V",
                "value": None if undecided else judgement.value,
                "confidence": 0.0 if undecided else 1.0,
                "evidence": judgement.evidence,
            }
        )
    return frame(rows, REWARDS)
