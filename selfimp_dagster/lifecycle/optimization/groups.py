"""Advantages: how much better a response is than the others that the policy drew to the same task."""

import math
from typing import Literal

import polars as pl

SPREAD = 1e-4
"""What is added to a standard deviation before dividing by it, as in TRL."""


def group_rows(judged: pl.DataFrame) -> pl.DataFrame:
    """The groups of the selected tasks: all rows that the policy drew by itself, the repeated ones too.

    A task counts where the selection kept a row of it. What was dropped of its group stays in it: without
    the responses that a reward or a duplicate step dropped, the group would not be what the policy answers.
    Groups of one response are left out.
    """
    selected = judged.filter(fate="kept").select("task_id").unique()
    own = judged.filter("own").join(selected, on="task_id", how="semi")
    return own.filter(pl.len().over("task_id") > 1).sort("task_id", "sample_id")


def grpo_advantages(groups: pl.DataFrame, *, scale: Literal["group", "none"]) -> pl.DataFrame:
    """With `advantage`: the reward minus its mean over the group; with `scale: group` over its deviation.

    The deviation is that of a sample (divided by n - 1), and 0.0001 is added to it. Without scaling it is the
    advantage of Dr. GRPO (arXiv:2503.20783), which does not favour groups that nearly agree.
    """
    value = pl.col("value")
    centred = value - value.mean().over("task_id")
    spread = value.std(ddof=1).over("task_id") + SPREAD
    return groups.with_columns(advantage=centred / spread if scale == "group" else centred)


def rloo_advantages(groups: pl.DataFrame) -> pl.DataFrame:
    """With `advantage`: the reward minus the mean reward of the others in the group (arXiv:2402.14740)."""
    value = pl.col("value")
    others = (value.sum().over("task_id") - value) / (pl.len().over("task_id") - 1)
    return groups.with_columns(advantage=value - others)


def win_rates(groups: pl.DataFrame) -> pl.DataFrame:
    """With `win_rate`: the chance to be preferred to a response of the group, drawn from all of it.

    P(y > pi | x) as the mean over the group, the response itself counted as a draw: 1 against a smaller
    reward, 1/2 against an equal one, 0 against a larger one (arXiv:2405.00675, section 4).
    """
    lower = pl.col("value").rank("min").over("task_id") - 1
    not_higher = pl.col("value").rank("max").over("task_id")
    return groups.with_columns(win_rate=(lower + not_higher) / 2 / pl.len().over("task_id"))


def bell(share: float, centre: float, width: float) -> float:
    """The Gaussian exp(-(share - centre)^2 / (2 width^2))."""
    return math.exp(-((share - centre) ** 2) / (2 * width**2))


def restrain_advantages(
    counted: pl.DataFrame, *, centre: float, width: float, least_votes: int, penalty: float
) -> pl.DataFrame:
    """With `advantage`, that of RESTRAIN (arXiv:2510.02172), by the votes of each group, and `penalised`.

    Every answer j of a group, with the share f_j of its votes, is a label of weight w_j = g(f_j) / sum g(f).
    A response has the GRPO advantage A_ij of the reward 1 if its answer is j, else 0. Where the most frequent
    answer has fewer than `least_votes` votes all rewards are 0, and `penalty` is taken off every advantage.
    The advantage is u sum_j w_j A_ij, with the weight u = g(M / n) of the task for its M most frequent votes
    of n.

    Args:
        counted: rows of groups with `answer` and `share` (see `votes`).
        centre, width: of the Gaussian g over shares.
        least_votes, penalty: kappa and delta.
    """
    groups = []
    for group in counted.partition_by("task_id", maintain_order=True):
        answers, n = group["answer"].to_list(), group.height
        shares = dict(group.drop_nulls("answer").select("answer", "share").iter_rows())
        majority = max(shares.values(), default=0.0)
        penalised = round(majority * n) < least_votes
        if penalised:
            advantages = [-penalty] * n
        else:
            shaped = {answer: bell(share, centre, width) for answer, share in shares.items()}
            total = sum(shaped.values())
            advantages = [
                sum(
                    shaped[label] / total * _label_advantage(answer == label, share, n)
                    for label, share in shares.items()
                )
                for answer in answers
            ]
        weight = bell(majority, centre, width)
        groups.append(
            group.with_columns(
                pl.Series("advantage", [weight * a for a in advantages], dtype=pl.Float64),
                pl.lit(penalised).alias("penalised"),
            )
        )
    empty = counted.clear().with_columns(advantage=pl.lit(0.0), penalised=pl.lit(False))
    return pl.concat([empty, *groups])


def _label_advantage(hit: bool, share: float, n: int) -> float:
    """The GRPO advantage of a reward that `share` of n responses have."""
    spread = math.sqrt(share * (1 - share) * n / (n - 1))
    return (hit - share) / (spread + SPREAD)
