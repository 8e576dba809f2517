"""V-STaR's verifier (survey 4.3): a model that learnt by DPO to tell right responses from wrong ones."""

from collections.abc import Sequence

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.companions import VERIFIER, Response
from selfimp_dagster.lifecycle.optimization.companion import CompanionParameters, Scores, train_companion
from selfimp_dagster.lifecycle.optimization.pairs import best_and_worst
from selfimp_dagster.lifecycle.optimization.update import Curve, OptimizationContext, Update
from selfimp_dagster.registry import Signal, method

_VERDICT: frozenset[Signal] = frozenset({"verdict"})


class Verifier(CompanionParameters):
    """Parameters of `verifier`."""

    beta: float = Field(
        default=0.1, gt=0, description="How dear it is to move away from the weights training starts from."
    )


@method(
    "optimization",
    VERIFIER,
    parameters=Verifier,
    section="4.3",
    paper="arXiv:2402.06457",
    takes=_VERDICT,
)
def verifier(context: OptimizationContext, parameters: Verifier) -> Update:
    """Trains a verifier on right and wrong responses by DPO; the policy is passed on unchanged (V-STaR).

    In: pairs of a right and a wrong response to a task, of this round and of earlier ones of the line;
    signal: the verdicts of the recipe's first reward that gives some; out: a companion of the checkpoint,
    begun from the weights that this update starts from: in a sequence after `sft`, as in the paper, from the
    fine-tuned policy. How likely it finds a response is its score (the reward `verifier`), by which
    `best_of_n` ranks. The paper pairs every right response with every wrong one; here no response is in two
    pairs, and `pairs_per_task` bounds them. It is tried on pairs of tasks that it never trains on.

    Raises:
        SelfimpError: there is no pair to train on, or the loss stopped being finite.
    """
    judged = context.judged(parameters.reward, _VERDICT)
    right = judged.with_columns(value=(pl.col("value") >= 1).cast(pl.Float64))
    pairs = best_and_worst(right, per_task=parameters.pairs_per_task)
    reward = context.reward_name(parameters.reward, _VERDICT)

    def train(learnt: pl.DataFrame, within: OptimizationContext) -> tuple[Curve, Scores]:
        from selfimp_dagster.engines.transformers_engine import TransformersEngine
        from selfimp_dagster.lifecycle.optimization.preference_trainer import train_pairs

        curve = train_pairs(VERIFIER, learnt, within, parameters, beta=parameters.beta)

        def scores(responses: Sequence[Response]) -> list[float]:
            engine = TransformersEngine(within.output, dtype="float32")
            return [sum(tokens) for tokens in engine.logprobs(responses)]

        return curve, scores

    return train_companion(VERIFIER, pairs, context, parameters, reward, train)
