"""Consistency: whether a policy answers the same question alike, however it is worded."""

from collections.abc import Iterator

import polars as pl

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.lifecycle.evaluation.fingerprint import answering
from selfimp_dagster.lifecycle.sampling import DurableSampler, SampleRequest
from selfimp_dagster.records import REWORDINGS, frame
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.verifiers import comparable_answer, verify

PLAIN = "plain"
"""The wording in which the item is asked by the evaluation itself."""


def reworded_items(items: pl.DataFrame, count: int) -> pl.DataFrame:
    """The anchor items that are asked in other words: the smallest ids, so the same in every round."""
    return items.filter(pl.col("pool") == "anchor").sort("task_id").head(count)


def reworded_answers(
    sampler: DurableSampler,
    campaign: Campaign,
    items: pl.DataFrame,
    evaluations: pl.DataFrame,
    earlier: pl.DataFrame,
) -> pl.DataFrame:
    """The answers of one arm to every wording of the items (records.REWORDINGS), the plain one included.

    Args:
        sampler: draws from the weights of the arm.
        items: anchor items, records.TASKS.
        evaluations: the arm's answers to the items as they are asked plainly, records.EVALUATIONS.
        earlier: rewordings of earlier rounds; what the same weights answered there under the same harness
            is taken over, since greedy decoding would only repeat it.
    """
    if items.is_empty() or not campaign.evaluation.rewordings:
        return REWORDINGS.to_frame()
    plain = {
        row["item_id"]: row for row in evaluations.filter(pl.col("suite") == "anchor").iter_rows(named=True)
    }
    arm = next(iter(plain.values()))
    same = earlier.filter(
        (pl.col("policy_hash") == arm["policy_hash"]) & (pl.col("fingerprint") == arm["fingerprint"])
    )
    known = {(row["item_id"], row["wording"]): row for row in same.iter_rows(named=True)}
    asked = {
        (item["task_id"], wording): messages
        for item in items.iter_rows(named=True)
        for wording, messages in campaign.reworded(item["prompt"]).items()
    }
    missing = [key for key in asked if key not in known]
    drawn = sampler.sample(
        [SampleRequest(item, asked[item, wording], 0) for item, wording in missing],
        answering(campaign),
        generation="SE",
        label=f"rewording for {arm['arm']}",
    )
    answers = {**known, **dict(zip(missing, drawn.iter_rows(named=True), strict=True))}

    def rows() -> Iterator[dict[str, object]]:
        for task in tasks_from_frame(items):
            wordings = {PLAIN: plain[task.task_id]} | {
                wording: answers[item, wording] for item, wording in asked if item == task.task_id
            }
            for wording, answer in wordings.items():
                yield {
                    "item_id": task.task_id,
                    "skill": task.skill,
                    "arm": arm["arm"],
                    "policy_hash": arm["policy_hash"],
                    "wording": wording,
                    "response": answer["response"],
                    "answer": comparable_answer(task, answer["response"]),
                    "score": verify(task, answer["response"]).value,
                    "prompt_tokens": answer["prompt_tokens"],
                    "completion_tokens": answer["completion_tokens"],
                    "fingerprint": arm["fingerprint"],
                    "reused": (task.task_id, wording) in known,
                }

    return frame(rows(), REWORDINGS)


def consistent_items(rewordings: pl.DataFrame) -> pl.DataFrame:
    """One row per arm and item: whether it was answered alike in every wording (`consistent`).

    Alike is the same answer, or one that is right in every wording: "Paris" and "It is Paris." are.
    """
    return (
        rewordings.group_by("arm", "skill", "item_id")
        .agg(consistent=(pl.col("answer").n_unique() == 1) | (pl.col("score") >= 1).all())
        .sort("arm", "item_id")
    )
