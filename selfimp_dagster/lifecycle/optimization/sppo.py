"""Self-play preference optimization (survey 4.3): log-ratios follow the chance to be preferred."""

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.optimization.groups import group_rows, win_rates
from selfimp_dagster.lifecycle.optimization.grpo import require_groups
from selfimp_dagster.lifecycle.optimization.update import (
    COMPARABLE,
    OptimizationContext,
    Rewarded,
    Update,
    training_rows,
)
from selfimp_dagster.registry import method


class Sppo(Rewarded):
    """Parameters of `sppo`."""

    eta: float = Field(
        default=10.0,
        gt=0,
        description="Step size: how far the log-ratio of a response that always wins moves is eta / 2.",
    )


@method("optimization", "sppo", parameters=Sppo, section="4.3", paper="arXiv:2405.00675", takes=COMPARABLE)
def sppo(context: OptimizationContext, parameters: Sppo) -> Update:
    """The log-ratio of each response to the policy is drawn to its chance to be preferred, less one half.

    In: the groups of the selected tasks, all responses that the policy drew; signal: P(y > pi), the mean over
    the group of 1 for a smaller reward, 1/2 for an equal and 0 for a larger one; a reward that is an ordering
    is that chance itself. The loss of a response is (log p(y|x) / p_t(y|x) - eta (P - 1/2))^2 (Wu et al.,
    arXiv:2405.00675, equation 4.7), of every response of the group, not of the best and the worst alone. Out:
    the candidate.

    Raises:
        SelfimpError: no selected task has two responses of different reward, or the loss is not finite.
    """
    from selfimp_dagster.lifecycle.optimization.policy_gradient_trainer import train_preferences

    name = context.reward_name(parameters.reward, COMPARABLE)
    groups = group_rows(context.judged(parameters.reward, COMPARABLE))
    if context.gives[name] == {"ordering"}:
        rated = groups.with_columns(win_rate=pl.col("value"))
    else:
        rated = win_rates(groups)
    rows = rated.filter(pl.col("value").n_unique().over("task_id") > 1)
    require_groups("sppo", rows)
    targets = parameters.eta * (rows["win_rate"] - 0.5)
    curve = train_preferences(rows.with_columns(advantage=targets), context, parameters)
    return Update(
        training=training_rows(rows, "sppo", "scored", rows["win_rate"] - 0.5),
        curve=curve.steps,
        metrics=curve.metrics,
        facts={
            "method": "sppo",
            "trained_from": "incumbent",
            "steps": curve.steps.height,
            "reward": name,
            "groups": rows["task_id"].n_unique(),
        },
        tokens=curve.tokens,
    )
