"""The rewards `reward_model` and `verifier`: what models think that updates of the line trained."""

import math
from collections.abc import Callable

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.companions import REWARD_MODEL, VERIFIER
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.parameters import NamedParameters
from selfimp_dagster.records import REWARDS, canonical_json, frame
from selfimp_dagster.registry import method


class CompanionReward(NamedParameters):
    """Parameters of a reward that a companion gives."""

    floor: float = Field(
        default=0.6,
        ge=0,
        le=1,
        description="Share of held-out pairs that it must put in the right order; one whose whole interval "
        "lies below it says nothing. 0 asks for nothing.",
    )


class RewardModelReward(CompanionReward):
    """Parameters of the reward `reward_model`."""


class VerifierReward(CompanionReward):
    """Parameters of the reward `verifier`."""


@method("reward", REWARD_MODEL, parameters=RewardModelReward, section="4.3", paper="arXiv:2203.02155")
def reward_model_reward(context: RewardContext, parameters: RewardModelReward) -> pl.DataFrame:
    """What the newest reward model of the line says of each response (kind M).

    In: the model that the update `reward_model` trained in the round before, in refinement that of this
    round; signal: its scalar r; out: sigmoid(r), which is how likely Bradley and Terry's model finds it to
    beat a response of reward 0, around which rewards are centred. The confidence is its accuracy on held-out
    pairs. Without a model, or below the floor, responses have no value.
    """
    return _judged(REWARD_MODEL, context, parameters, lambda r: 1 / (1 + math.exp(-max(-700.0, r))))


@method(
    "reward",
    VERIFIER,
    parameters=VerifierReward,
    section="4.3",
    paper="arXiv:2402.06457",
    gives=frozenset({"ordering"}),
)
def verifier_reward(context: RewardContext, parameters: VerifierReward) -> pl.DataFrame:
    """How likely V-STaR's verifier finds each response to its task (kind M).

    In: the model that the update `verifier` trained, as for `reward_model`; signal: the probability of the
    response's tokens under it (section 3.2 of the paper); out: that probability. Longer responses are less
    likely: it orders the responses to one task and says nothing beyond. Confidence and silence are those of
    `reward_model`.
    """
    return _judged(VERIFIER, context, parameters, math.exp)


def _judged(
    name: str, context: RewardContext, parameters: CompanionReward, value: Callable[[float], float]
) -> pl.DataFrame:
    told = {"reward": parameters.name or name, "kind": "M"}
    companion = context.companion(name)
    if companion is None:
        return _silent(context, told, f"no {name} was trained in this line yet")
    record = companion.record
    tried = f"{record.right} of {record.held_out} held-out pairs in the right order"
    if record.accuracy.high < parameters.floor:
        return _silent(
            context, told, f"{tried}: below the floor of {parameters.floor:g} with the whole interval"
        )
    samples = context.samples.join(
        context.tasks.select("task_id", "prompt"), on="task_id", maintain_order="left"
    )
    asked = [
        (context.messages(prompt), response)
        for prompt, response in samples.select("prompt", "response").iter_rows()
    ]
    scores = companion.scores(asked, f"{told['reward']}: scoring")
    confidence = record.right / record.held_out if record.held_out else 0.5
    return frame(
        (
            {
                "sample_id": id_,
                **told,
                "value": value(score),
                "confidence": confidence,
                "evidence": canonical_json(
                    {"score": round(score, 6), "trained_in": record.round, "tried": tried}
                ),
            }
            for id_, score in zip(samples["sample_id"], scores, strict=True)
        ),
        REWARDS,
    )


def _silent(context: RewardContext, told: dict[str, str], why: str) -> pl.DataFrame:
    evidence = canonical_json({"abstains": why})
    return frame(
        (
            {"sample_id": id_, **told, "value": None, "confidence": 0.0, "evidence": evidence}
            for id_ in context.samples["sample_id"]
        ),
        REWARDS,
    )
