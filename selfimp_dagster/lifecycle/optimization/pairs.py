"""Preference pairs: which response to a task is to be preferred to which. Pure functions over frames."""

from itertools import islice

import polars as pl

from selfimp_dagster.lifecycle.optimization.update import training_frame
from selfimp_dagster.lifecycle.optimization.votes import votes
from selfimp_dagster.records import MESSAGES, content_id

PAIRS = pl.Schema(
    {
        "pair_id": pl.String(),
        "task_id": pl.String(),
        "skill": pl.String(),
        "round": pl.String(),
        "messages": MESSAGES,
        "chosen_id": pl.String(),  # null: the task's own answer
        "rejected_id": pl.String(),
        "chosen": pl.String(),
        "rejected": pl.String(),
        "margin": pl.Float64(),  # by how much the reward of the chosen one is larger
        "weight": pl.Float64(),
    }
)
"""Two different responses to one task; `margin` is null where no reward compared them."""


def best_and_worst(judged: pl.DataFrame, *, margin: float = 0.0, per_task: int = 1) -> pl.DataFrame:
    """The best response to a task against its worst, the second best against the second worst, and so on.

    The better side is a kept row; the worse one is kept too or a contrast. The reward of the better side is
    larger, by `margin` at least, and no row is in two pairs. Equal rewards go by sample id, a hash, so that
    the choice among them is arbitrary but the same everywhere.

    Args:
        judged: rows of POOL with their `value`.
        margin: difference of the rewards.
        per_task: pairs of one task at most.
    """
    pairs = []
    usable = judged.filter(pl.col("fate").is_in(["kept", "contrast"]))
    for group in usable.partition_by("task_id", maintain_order=True):
        falling = group.filter(fate="kept").sort("value", "sample_id", descending=[True, False])
        rising = group.sort("value", "sample_id")
        both = zip(falling.iter_rows(named=True), rising.iter_rows(named=True), strict=False)
        for better, worse in islice(both, per_task):
            apart = better["value"] - worse["value"]
            if apart <= 0 or apart < margin:
                break
            pairs.append(_pair(better, worse, margin=apart))
    return _frame(pairs)


def answer_and_own(pool: pl.DataFrame, tasks: pl.DataFrame, *, per_task: int = 1) -> pl.DataFrame:
    """The task's own answer against responses of the policy that differ from it (SPIN).

    The responses are those that the policy drew by itself, kept or dropped for their reward alone. A response
    that is the answer would add the constant log 2 to the loss and nothing to its gradient; it is left out.
    """
    answers = dict(tasks.select("task_id", "answer").drop_nulls().iter_rows())
    pairs, found = [], dict.fromkeys(answers, 0)
    own = pool.filter(pl.col("own") & pl.col("fate").is_in(["kept", "contrast"]))
    for row in own.sort("task_id", "sample_id").iter_rows(named=True):
        task = row["task_id"]
        if task not in answers or found[task] == per_task:
            continue
        if row["response"].strip() != answers[task].strip():
            found[task] += 1
            pairs.append(_pair({**row, "sample_id": None, "response": answers[task]}, row, margin=None))
    return _frame(pairs)


def by_votes(pool: pl.DataFrame, tasks: pl.DataFrame, *, threshold: float) -> pl.DataFrame:
    """A response with the answer of most votes against one with the answer of fewest (ScPO).

    Votes are those of all responses that the policy drew to the task by itself. A task counts where the
    share of the most frequent answer reaches the threshold, and the weight of its pair is the difference of
    both shares, w(x) = (V(y+) - V(y-)) / k. Responses without an answer have no votes.
    """
    counted = votes(pool, tasks)
    pairs = []
    usable = counted.filter(pl.col("fate").is_in(["kept", "contrast"]))
    for group in usable.partition_by("task_id", maintain_order=True):
        kept = group.filter(fate="kept").sort("share", "sample_id", descending=[True, False])
        if kept.is_empty():
            continue
        best, worst = kept.row(0, named=True), group.sort("share", "sample_id").row(0, named=True)
        apart = best["share"] - worst["share"]
        if best["share"] >= threshold and apart > 0:
            pairs.append(_pair(best, worst, margin=apart, weight=apart))
    return _frame(pairs)


def pair_rows(pairs: pl.DataFrame, update: str) -> pl.DataFrame:
    """Both rows of each pair, in the schema of records.TRAINING."""
    return training_frame(
        {
            "sample_id": pair[f"{role}_id"],
            "task_id": pair["task_id"],
            "skill": pair["skill"],
            "update": update,
            "role": role,
            "pair_id": pair["pair_id"],
            "weight": pair["weight"],
            "origin_round": pair["round"],
        }
        for pair in pairs.iter_rows(named=True)
        for role in ("chosen", "rejected")
    )


def _pair(
    better: dict[str, object], worse: dict[str, object], *, margin: float | None, weight: float = 1.0
) -> dict[str, object]:
    return {
        **{name: worse[name] for name in ("task_id", "skill", "round", "messages")},
        "pair_id": content_id("pair", worse["task_id"], better["response"], worse["sample_id"]),
        "chosen_id": better["sample_id"],
        "rejected_id": worse["sample_id"],
        "chosen": better["response"],
        "rejected": worse["response"],
        "margin": margin,
        "weight": weight,
    }


def _frame(pairs: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema=PAIRS).sort("task_id", "pair_id")
