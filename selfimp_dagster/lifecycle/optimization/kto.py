"""Kahneman-Tversky optimization on responses that are good or bad by themselves (survey 4.3), through TRL."""

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.optimization.update import (
    ABSOLUTE,
    OptimizationContext,
    Rewarded,
    Update,
    no_rows,
    training_rows,
)
from selfimp_dagster.registry import method


class Kto(Rewarded):
    """Parameters of `kto`."""

    minimum: float = Field(default=1.0, description="The smallest reward of a desirable response.")
    beta: float = Field(
        default=0.1, gt=0, description="How dear it is to move away from the weights training starts from."
    )
    batch_size: int = Field(
        default=16, ge=2, description="Rows per update; the others of a batch estimate the divergence."
    )


@method("optimization", "kto", parameters=Kto, section="4.3", paper="arXiv:2402.01306", takes=ABSOLUTE)
def kto(context: OptimizationContext, parameters: Kto) -> Update:
    """Desirable responses are made likelier and undesirable ones less likely, no pairs needed.

    In: selected rows, and rows that nothing but their reward dropped; signal: whether the reward reaches
    `minimum`. With r the log-ratio to the weights at the start and z the batch's estimate of their
    divergence, the loss is w (1 - s(beta (r - z))) for a desirable row and w (1 - s(beta (z - r))) for
    another. The rarer side has the weight w that makes both sides weigh the same, the lower end of the range
    of Ethayarajh et al. (arXiv:2402.01306, section 4.2); the other has 1. Out: the candidate.

    Raises:
        SelfimpError: one of the sides has no rows, or the loss stopped being finite.
    """
    from selfimp_dagster.lifecycle.optimization.preference_trainer import train_labels

    judged = context.judged(parameters.reward, ABSOLUTE)
    rows = labelled(judged, parameters.minimum)
    good, bad = rows.filter("label"), rows.filter(~pl.col("label"))
    if good.is_empty() or bad.is_empty():
        raise no_rows(
            "kto",
            f"{'undesirable' if bad.is_empty() else 'desirable'} response",
            "change minimum, draw more samples per task, or loosen the selection: desirable responses must "
            "be selected, undesirable ones selected too or dropped for their reward alone",
        )
    most = max(good.height, bad.height)
    desirable, undesirable = most / good.height, most / bad.height
    curve = train_labels(rows, context, parameters, desirable, undesirable)
    return Update(
        training=pl.concat(
            [
                training_rows(good, "kto", "desirable", [desirable] * good.height),
                training_rows(bad, "kto", "undesirable", [undesirable] * bad.height),
            ]
        ),
        curve=curve.steps,
        metrics=curve.metrics,
        facts={
            "method": "kto",
            "trained_from": "incumbent",
            "steps": curve.steps.height,
            "reward": context.reward_name(parameters.reward, ABSOLUTE),
            "desirable": good.height,
            "undesirable": bad.height,
        },
        tokens=curve.tokens,
    )


def labelled(judged: pl.DataFrame, minimum: float) -> pl.DataFrame:
    """The kept rows whose reward reaches the minimum, `label` true, and kept or contrast rows below it."""
    good = pl.col("value") >= minimum
    return (
        judged.with_columns(label=good)
        .filter(pl.when(good).then(pl.col("fate") == "kept").otherwise(pl.col("fate") != "sibling"))
        .sort("task_id", "sample_id")
    )
