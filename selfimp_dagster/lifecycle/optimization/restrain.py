"""RESTRAIN (survey 4.3): votes as labels of which none is trusted, through TRL's GRPOTrainer."""

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.optimization.groups import group_rows, restrain_advantages
from selfimp_dagster.lifecycle.optimization.grpo import VARIANTS, recorded_update, require_groups
from selfimp_dagster.lifecycle.optimization.update import OptimizationContext, Schedule, Update
from selfimp_dagster.lifecycle.optimization.votes import votes
from selfimp_dagster.registry import method


class Restrain(Schedule):
    """Parameters of `restrain`."""

    learning_rate: float = Field(default=1e-6, gt=0, description="Peak learning rate of AdamW.")
    clip: float = Field(
        default=0.2, gt=0, description="The probability ratio to the incumbent is held in 1 +- clip."
    )
    divergence: float = Field(
        default=0.0, ge=0, description="Weight of the KL divergence from the incumbent, as in grpo."
    )
    centre: float = Field(
        default=1.0, ge=0, le=1, description="Share of the votes that has the largest weight."
    )
    width: float = Field(
        default=0.5, gt=0, description="sigma: how far from the centre shares still have weight."
    )
    least_votes: int = Field(
        default=2,
        ge=0,
        description="kappa: votes of the most frequent answer below which no answer of the task is rewarded.",
    )
    penalty: float = Field(
        default=1.0,
        ge=0,
        description="delta: what is taken off the advantages of such a task; 0 leaves it out of training.",
    )


@method(
    "optimization",
    "restrain",
    parameters=Restrain,
    section="4.3",
    paper="arXiv:2510.02172",
    takes=frozenset({"votes"}),
)
def restrain(context: OptimizationContext, parameters: Restrain) -> Update:
    """GRPO on every answer of a group as a label by its votes; groups that do not agree are pushed away from.

    In: the groups of the selected tasks, all responses that the incumbent drew; signal: how often each answer
    was given. Labels have weights w_j = g(f_j) / sum g(f), groups whose majority is below kappa get the
    advantage -delta, and a task has the weight g of its majority's share (Yu et al., arXiv:2510.02172,
    section 3); g is a Gaussian. Out: the candidate. Two adaptations: the votes that weigh a task are those of
    the incumbent, which is the reference policy of the round, and the advantages of a response for all labels
    are added before they are clipped, which is the same while the ratio is within the clip range.

    Raises:
        SelfimpError: no selected task has an advantage, the samples were not drawn at one temperature above
            0, or
            the loss stopped being finite.
    """
    from selfimp_dagster.lifecycle.optimization.policy_gradient_trainer import train_restrain

    groups = group_rows(votes(context.pool, context.tasks))
    rows = restrain_advantages(
        groups,
        centre=parameters.centre,
        width=parameters.width,
        least_votes=parameters.least_votes,
        penalty=parameters.penalty,
    ).filter(pl.col("advantage") != 0)
    require_groups("restrain", rows)
    facts = {
        "method": "restrain",
        "trained_from": "incumbent",
        "penalised": rows.filter(pl.col("penalised"))["task_id"].n_unique(),
    }
    return recorded_update(
        "restrain", facts, rows, train_restrain(rows, context, parameters, VARIANTS["grpo"])
    )
