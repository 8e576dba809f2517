"""Direct preference optimization and its relatives (survey 4.3), through TRL's DPOTrainer."""

from typing import Annotated, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from selfimp_dagster.lifecycle.optimization.pairs import best_and_worst, pair_rows
from selfimp_dagster.lifecycle.optimization.update import (
    COMPARABLE,
    OptimizationContext,
    Rewarded,
    Update,
    no_rows,
)
from selfimp_dagster.registry import method

Loss = Literal["sigmoid", "ipo", "sppo_hard", "discopop", "sigmoid_norm", "sft"]


class Paired(Rewarded):
    """Parameters of an update on pairs of better and worse responses."""

    beta: float = Field(
        default=0.1, gt=0, description="How dear it is to move away from the weights training starts from."
    )
    batch_size: int = Field(default=8, ge=1, description="Pairs per update.")
    pairs_per_task: int = Field(default=1, ge=1, description="Pairs that one task may give.")


class Dpo(Paired):
    """Parameters of `dpo`."""

    losses: dict[Loss, Annotated[float, Field(ge=0)]] = Field(
        default={"sigmoid": 1.0},
        min_length=1,
        description="The loss, or several by their weights, of the log-ratio margin d of a pair: sigmoid "
        "(DPO) -log s(beta d); ipo (d - 1/(2 beta))^2 with d per token; sppo_hard: both log-ratios to "
        "+-1/(2 beta); discopop: logistic and exponential loss blended by s(beta d / 0.05); sigmoid_norm: "
        "DPO with d per token (length-controlled); sft: cross-entropy of the better response per token. A "
        "loss of weight 0 is left out.",
    )
    length_weight: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Weight of the tokens by which the longer response exceeds the shorter (LD-DPO): 0 "
        "leaves them out, None is 1.",
    )
    margin: float = Field(
        default=0.0,
        ge=0,
        description="By how much the reward of the better response must be larger; it must be larger anyhow.",
    )

    @model_validator(mode="after")
    def _there_is_a_loss(self) -> Self:
        if not any(self.losses.values()):
            raise ValueError("losses: one of them needs a weight above 0")
        return self


@method(
    "optimization",
    "dpo",
    parameters=Dpo,
    section="4.3",
    paper="arXiv:2305.18290",
    takes=COMPARABLE,
)
def dpo(context: OptimizationContext, parameters: Dpo) -> Update:
    """The better response to a task is made likelier than the worse one, relative to the start.

    In: selected rows, and rows that nothing but their reward dropped; signal: which of two responses to a
    task has the larger reward; out: the candidate. The best response of a task is paired with its worst
    (Self-Rewarding, arXiv:2401.10020), the second best with the second worst. Losses are those of TRL: DPO
    (arXiv:2305.18290), IPO (arXiv:2310.12036), SPPO with hard preferences (arXiv:2405.00675), DiscoPOP
    (arXiv:2406.08414), length-normalised DPO, and LD-DPO (arXiv:2409.06411) by `length_weight`.

    Raises:
        SelfimpError: no task has two responses of different reward, or the loss stopped being finite.
    """
    from selfimp_dagster.lifecycle.optimization.preference_trainer import train_pairs

    judged = context.judged(parameters.reward, COMPARABLE)
    pairs = best_and_worst(judged, margin=parameters.margin, per_task=parameters.pairs_per_task)
    require_pairs("dpo", pairs)
    losses = {name: weight for name, weight in parameters.losses.items() if weight > 0}
    curve = train_pairs(
        "dpo",
        pairs,
        context,
        parameters,
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        beta=parameters.beta,
        ld_alpha=parameters.length_weight,
    )
    reward = context.reward_name(parameters.reward, COMPARABLE)
    return Update(
        training=pair_rows(pairs, "dpo"),
        curve=curve.steps,
        metrics=curve.metrics,
        facts={
            "method": "dpo",
            "trained_from": "incumbent",
            "steps": curve.steps.height,
            "reward": reward,
            "pairs": pairs.height,
        },
        tokens=curve.tokens,
    )


def require_pairs(update: str, pairs: pl.DataFrame) -> None:
    """Nothing.

    Raises:
        SelfimpError: there is no pair.
    """
    if pairs.is_empty():
        raise no_rows(
            update,
            "task with a better and a worse response",
            "draw more samples per task, or loosen the selection: the better one must be selected, the worse "
            "one selected too or dropped for its reward alone",
        )
