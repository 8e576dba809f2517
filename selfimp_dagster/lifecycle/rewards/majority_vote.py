"""The reward `majority_vote`: whether a response gives the answer that most samples of its task give."""

from collections import Counter

import polars as pl
from pydantic import BaseModel, ConfigDict

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.records import REWARDS, frame
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.verifiers import comparable_answer

_NAME = "majority_vote"


class MajorityVote(BaseModel):
    """Parameters of `majority_vote`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@method("reward", _NAME, parameters=MajorityVote, section="4.3", paper="arXiv:2210.11610")
def majority_vote(context: RewardContext, parameters: MajorityVote) -> pl.DataFrame:
    """1 for the most frequent answer among a task's samples, 0 for any other (kind H); no ground truth.

    In: all samples of a task; signal: how many agree (LMSI); out: the value, with the share of the task's
    samples that give this response's answer as its confidence. Answers are compared in the form in which
    votes are counted. Where two answers are equally frequent neither is the majority. A response without an
    answer has 0 and no confidence. Demonstrations do not vote: theirs is the answer that came with the task.
    """
    tasks = {task.task_id: task for task in tasks_from_frame(context.tasks)}
    rows = []
    for (task_id,), samples in context.samples.partition_by(
        "task_id", as_dict=True, maintain_order=True
    ).items():
        task = tasks[str(task_id)]
        ballots = [
            (id_, generation == "D", comparable_answer(task, response))
            for id_, generation, response in samples.select("sample_id", "generation", "response").iter_rows()
        ]
        votes = Counter(answer for _, shown, answer in ballots if not shown and answer is not None)
        cast = sum(not shown for _, shown, _ in ballots)
        leaders = votes.most_common(2)
        tied = len(leaders) == 2 and leaders[0][1] == leaders[1][1]
        for id_, shown, answer in ballots:
            given = votes[answer] if answer is not None else 0
            wins = not tied and bool(leaders) and answer == leaders[0][0]
            rows.append(
                {
                    "sample_id": id_,
                    "reward": _NAME,
                    "kind": "H",
                    "value": 1.0 if shown else float(wins),
                    "confidence": 1.0 if shown else given / cast,
                    "evidence": "demonstration" if shown else f"{given} of {cast} votes",
                }
            )
    return frame(rows, REWARDS)
