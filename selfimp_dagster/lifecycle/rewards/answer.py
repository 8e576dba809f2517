"""The reward `answer`: whether the task's verifier accepts the response."""

import polars as pl
from pydantic import BaseModel, ConfigDict

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.episodes import Played, replayed
from selfimp_dagster.records import REWARDS, frame
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.verifiers import PROPOSING, UNVERIFIED, verify

ANSWER = "answer"

NOT_MEASURED = "not measured: nobody knows the right answer"
"""The evidence where the task is unverified."""

_WITHOUT_VERDICT = {
    UNVERIFIED: NOT_MEASURED,
    PROPOSING: "not measured: a proposal is neither right nor wrong by itself",
}


class Answer(BaseModel):
    """Parameters of `answer`: none."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@method(
    "reward",
    ANSWER,
    parameters=Answer,
    section="4.3",
    paper="arXiv:2203.14465",
    needs=frozenset({"verifier"}),
    gives=frozenset({"verdict", "answers"}),
)
def answer(context: RewardContext, parameters: Answer) -> pl.DataFrame:
    """The verdict of the task's verifier on the response, from 0 to 1 (kind V).

    The answers of the train pool are supervision. A recipe without this reward never learns them: its samples
    are judged by their verifiers all the same, but only to measure (`judging.visible`).
    """
    return answer_rewards(context.tasks, context.samples)


def answer_rewards(tasks: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
    """The reward `answer` of every sample.

    A verifier that raised or hung counts as a wrong answer of confidence 0, with what happened as
    evidence. Where nobody knows the right answer there is no value: such a sample is neither right nor wrong.
    A turn in an environment has the outcome of its episode, which is replayed.
    """
    by_id = {task.task_id: task for task in tasks_from_frame(tasks)}
    episodes = replayed(tasks, samples)
    rows: list[dict[str, object]] = []
    for id_, task, response in samples.select("sample_id", "task_id", "response").iter_rows():
        told = {"sample_id": id_, "reward": ANSWER, "kind": "V"}
        if why := _WITHOUT_VERDICT.get(by_id[task].verifier):
            rows.append({**told, "value": None, "confidence": 0.0, "evidence": why})
        elif id_ in episodes:
            rows.append({**told, **_outcome(episodes[id_])})
        else:
            judgement = verify(by_id[task], response)
            rows.append(
                {
                    **told,
                    "value": judgement.value,
                    "confidence": 0.0 if judgement.error else 1.0,
                    "evidence": judgement.evidence,
                }
            )
    return frame(rows, REWARDS)


def _outcome(played: Played) -> dict[str, object]:
    """A turn is worth the outcome of its episode, and nothing if its action could not be understood."""
    if played.fault is not None:
        return {"value": None, "confidence": 0.0, "evidence": played.fault}
    value = played.episode.outcome if played.valid else 0.0
    return {"value": value, "confidence": 1.0, "evidence": played.evidence()}
