"""The reward `length_controlled`: another reward, with long responses marked down against short ones."""

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.parameters import NamedParameters
from selfimp_dagster.records import REWARDS, canonical_json, frame
from selfimp_dagster.registry import method

_NAME = "length_controlled"


class LengthControlled(NamedParameters):
    """Parameters of `length_controlled`."""

    reward: str = Field(
        default="answer", description="The reward that length is added to; it stands before this one."
    )
    weight: float = Field(
        default=0.2, gt=0, description="Weight of the length reward, which lies between -0.5 and 0.5."
    )

    @property
    def made_of(self) -> frozenset[str]:
        return frozenset({self.reward})


@method("reward", _NAME, parameters=LengthControlled, section="4.3", paper="arXiv:2501.12599")
def length_controlled(context: RewardContext, parameters: LengthControlled) -> pl.DataFrame:
    """Another reward, plus a reward for being short among the responses to the same task (kind H).

    In: the judgements of the reward that stands before it, and the tokens of all responses to a task; signal:
    l = 0.5 - (length - shortest) / (longest - shortest), 0 where all are equally long; out: the value plus
    weight * l for a response that the reward gives 1 or more, else plus weight * min(0, l): a wrong response
    gains nothing by being short (Kimi k1.5, section 2.3.3). Responses that the reward gave no value have none
    and do not count for the lengths; nor do demonstrations, whose value stays. Its confidence stays too.
    """
    before = context.rewards.filter(pl.col("reward") == parameters.reward)
    told = before.select("sample_id", pl.col("value").fill_nan(None), "confidence").drop_nulls("value")
    judged = {id_: (value, confidence) for id_, value, confidence in told.iter_rows()}
    rows = []
    for samples in context.samples.partition_by("task_id", maintain_order=True):
        lengths = {
            id_: tokens
            for id_, tokens, generation in samples.select(
                "sample_id", "completion_tokens", "generation"
            ).iter_rows()
            if id_ in judged and generation != "D"
        }
        for id_ in samples["sample_id"]:
            value, confidence = judged.get(id_, (None, 0.0))
            why = f"{parameters.reward} gave it no value"
            evidence: dict[str, float | str] = {"abstains": why}
            if value is not None:
                shortness = length_reward(lengths[id_], list(lengths.values())) if id_ in lengths else 0.0
                gained = shortness if value >= 1 else min(0.0, shortness)
                evidence = {parameters.reward: value, "length_reward": gained}
                value += parameters.weight * gained
            rows.append(
                {
                    "sample_id": id_,
                    "reward": parameters.name or _NAME,
                    "kind": "H",
                    "value": value,
                    "confidence": confidence,
                    "evidence": canonical_json(evidence),
                }
            )
    return frame(rows, REWARDS)


def length_reward(length: int, lengths: list[int]) -> float:
    """0.5 for the shortest of the lengths, -0.5 for the longest, linear between; 0 if all are alike."""
    shortest, longest = min(lengths), max(lengths)
    return 0.0 if shortest == longest else 0.5 - (length - shortest) / (longest - shortest)
