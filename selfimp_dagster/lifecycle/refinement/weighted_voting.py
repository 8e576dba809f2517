"""Confidence-weighted voting: answers count by how sure the policy was of them (survey 5.2)."""

import math
from collections.abc import Sequence

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.refinement.conversation import Conversation, weighted_winner
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method


class WeightedVoting(RefinementParameters):
    """Parameters of `weighted_voting`."""

    votes: int = Field(default=5, ge=2, description="Samples that vote on each task.")
    temperature: float = Field(default=0.7, gt=0, description="Softmax temperature of the votes.")
    confidence_temperature: float = Field(
        default=0.2,
        gt=0,
        description="Temperature of the softmax over a task's confidences: small, the surest vote decides; "
        "large, all votes count alike.",
    )


@method(
    "refinement",
    "weighted_voting",
    parameters=WeightedVoting,
    section="5.2",
    paper="arXiv:2502.06233",
    needs=frozenset({"verifier", "logprobs"}),
)
def weighted_voting(
    context: RefinementContext, parameters: WeightedVoting
) -> tuple[pl.DataFrame, list[Refined]]:
    """The answer with the most confidence behind it replaces the greedy one (CISC).

    In: samples of each task; signal: each sample's length-normalised probability, softmax-normalised over the
    samples of its task; out: the answer with the largest sum. Of the paper's measures of confidence this is
    the response probability, which costs nothing more to ask. Ties and samples without an answer are treated
    as in `self_consistency`; `agreement` is the winner's share of the weight.
    """
    talk = Conversation(context)
    drawn = talk.draw(
        "voting",
        times=parameters.votes,
        temperature=parameters.temperature,
        max_new_tokens=context.max_new_tokens,
    )
    refined = []
    for task, rows in zip(talk.tasks, drawn, strict=True):
        weights = confidence_weights(
            [math.exp(row["mean_logprob"]) for row in rows], parameters.confidence_temperature
        )
        greedy = talk.before[task.task_id]
        carrier, share = weighted_winner(task, list(zip(rows, weights, strict=True)), greedy) or (greedy, 0.0)
        refined.append(Refined(task.task_id, carrier["sample_id"], share, talk.tokens(task.task_id)))
    return talk.samples, refined


def confidence_weights(confidences: Sequence[float], temperature: float) -> list[float]:
    """exp(c / T) of each confidence over the sum of them all (section 3 of the paper)."""
    highest = max(confidences)
    raised = [math.exp((confidence - highest) / temperature) for confidence in confidences]
    return [value / sum(raised) for value in raised]
