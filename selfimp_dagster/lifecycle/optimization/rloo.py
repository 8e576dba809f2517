"""REINFORCE with a leave-one-out baseline (survey 4.3), through TRL's RLOOTrainer."""

from typing import Any, Self

import polars as pl
from pydantic import Field, model_validator

from selfimp_dagster.lifecycle.optimization.groups import group_rows, rloo_advantages
from selfimp_dagster.lifecycle.optimization.grpo import (
    PolicyGradient,
    online_update,
    recorded_update,
    require_groups,
)
from selfimp_dagster.lifecycle.optimization.update import COMPARABLE, OptimizationContext, Update
from selfimp_dagster.registry import method


class Rloo(PolicyGradient):
    """Parameters of `rloo`."""

    divergence: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the KL divergence from the weights training starts from, taken off the "
        "reward; of the incumbent's own samples it is 0, so it takes `online`.",
    )

    @model_validator(mode="after")
    def _there_is_a_divergence(self) -> Self:
        if self.divergence and self.online is None:
            raise ValueError("samples of the corpus have no divergence from the weights that drew them")
        return self


@method("optimization", "rloo", parameters=Rloo, section="4.3", paper="arXiv:2402.14740", takes=COMPARABLE)
def rloo(context: OptimizationContext, parameters: Rloo) -> Update:
    """The whole response is one action; its baseline is the mean reward of the others in its group.

    In: the groups of the selected tasks; signal: any reward less the mean reward of the other responses to
    the
    task, not scaled (Ahmadian et al., arXiv:2402.14740, equation 8). By default these are the groups of the
    corpus, with the probability ratio of the response to the incumbent clipped as TRL does; with `online` TRL
    draws the groups while it trains. Out: the candidate.

    Raises:
        SelfimpError: no selected task has responses of different reward, the samples were not drawn at one
            temperature above 0, or the loss stopped being finite.
    """
    from selfimp_dagster.lifecycle.optimization.policy_gradient_trainer import train_rloo, train_rloo_online

    name = context.reward_name(parameters.reward, COMPARABLE)
    facts: dict[str, Any] = {"method": "rloo", "trained_from": "incumbent", "reward": name}
    if parameters.online is not None:
        return online_update("rloo", facts, context, train_rloo_online(name, context, parameters))
    groups = group_rows(context.judged(parameters.reward, COMPARABLE))
    rows = rloo_advantages(groups).filter(pl.col("advantage") != 0)
    require_groups("rloo", rows)
    return recorded_update("rloo", facts, rows, train_rloo(rows, context, parameters))
