"""Rewards: judgements of samples."""

import polars as pl

from selfimp_dagster.records import REWARDS, frame
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.verifiers import verify


def answer_rewards(tasks: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
    """The reward `answer` (kind V): each sample's response judged by its task's verifier.

    A verifier that raised or hung counts as a wrong answer of confidence 0, with what happened as
    evidence.
    """
    by_id = {task.task_id: task for task in tasks_from_frame(tasks)}
    rows = []
    for id_, task, response in samples.select("sample_id", "task_id", "response").iter_rows():
        judgement = verify(by_id[task], response)
        rows.append(
            {
                "sample_id": id_,
                "reward": "answer",
                "kind": "V",
                "value": judgement.value,
                "confidence": 0.0 if judgement.error else 1.0,
                "evidence": judgement.evidence,
            }
        )
    return frame(rows, REWARDS)
