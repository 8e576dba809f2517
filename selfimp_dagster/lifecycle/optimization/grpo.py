"""Group-relative policy optimization (survey 4.3): GRPO, Dr. GRPO and DAPO, through TRL's GRPOTrainer."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.optimization.groups import group_rows, grpo_advantages
from selfimp_dagster.lifecycle.optimization.update import (
    COMPARABLE,
    WHERE,
    Curve,
    OptimizationContext,
    Rewarded,
    Rollouts,
    Update,
    no_rows,
    training_rows,
)
from selfimp_dagster.registry import method


class Online(BaseModel):
    """New groups, drawn while training from the weights as they are then."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: int = Field(default=4, ge=2, description="Responses drawn to a task at a time.")
    sampling: Sampling = Field(default=Sampling(), description="How tokens are drawn.")

    @model_validator(mode="after")
    def _responses_differ(self) -> Self:
        if self.sampling.temperature == 0:
            raise ValueError("at a temperature of 0 all responses of a group are the same")
        return self


class PolicyGradient(Rewarded):
    """Parameters of an update by the advantages of groups."""

    clip: float = Field(
        default=0.2, gt=0, description="The probability ratio to the sampling policy is held in 1 +- clip."
    )
    online: Online | None = Field(
        default=None,
        description="Draw new groups during training. None: learn from the groups of the corpus.",
    )

    @model_validator(mode="after")
    def _batches_hold_groups(self) -> Self:
        if self.online is not None and self.batch_size % self.online.group:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of online.group {self.online.group}"
            )
        return self


class Grpo(PolicyGradient):
    """Parameters of `grpo`."""

    variant: Literal["grpo", "dr_grpo", "dapo"] = Field(
        default="grpo",
        description="grpo: advantages over the deviation of their group, a mean over the tokens of each "
        "response; dr_grpo: neither, so that easy groups and short responses are not favoured; dapo: a mean "
        "over all tokens, cut-off responses masked.",
    )
    clip_high: float | None = Field(
        default=None, gt=0, description="Upper clip. None: as clip, for dapo 0.28 (clip-higher)."
    )
    divergence: float = Field(
        default=0.0,
        ge=0,
        description="Weight of the KL divergence from the incumbent, with `online` from the weights that "
        "training starts from; each token's estimate is multiplied by the probability ratio "
        "(arXiv:2512.02556).",
    )


@dataclass(frozen=True)
class Variant:
    """What a variant of GRPO is in TRL's terms."""

    loss_type: str
    scale: Literal["group", "none"]
    clip_high: float | None
    masks_truncated: bool


VARIANTS = {
    "grpo": Variant("grpo", "group", None, False),
    "dr_grpo": Variant("dr_grpo", "none", None, False),
    "dapo": Variant("dapo", "group", 0.28, True),
}


@method("optimization", "grpo", parameters=Grpo, section="4.3", paper="arXiv:2402.03300", takes=COMPARABLE)
def grpo(context: OptimizationContext, parameters: Grpo) -> Update:
    """Responses better than the others to their task become likelier, worse ones less, within a clip range.

    In: the groups of the selected tasks; signal: any reward, centred and scaled by its group. By default
    these
    are the groups of the corpus, which the incumbent drew: one iteration of GRPO whose rollouts are the
    round's own, with the probability ratio to the incumbent clipped. With `online` TRL draws the groups while
    it trains and the recipe's rewards judge them. Groups of the corpus whose rewards are all equal are left
    out (the dynamic sampling of DAPO, arXiv:2503.14476): their advantages are 0. Losses are those of TRL:
    GRPO (arXiv:2402.03300), Dr. GRPO (arXiv:2503.20783), DAPO. Out: the candidate.

    Raises:
        SelfimpError: no selected task has responses of different reward, the samples were not drawn at one
            temperature above 0, or the loss stopped being finite.
    """
    from selfimp_dagster.lifecycle.optimization.policy_gradient_trainer import train_grpo, train_grpo_online

    variant = VARIANTS[parameters.variant]
    name = context.reward_name(parameters.reward, COMPARABLE)
    facts = {"method": "grpo", "trained_from": "incumbent", "reward": name}
    if parameters.online is not None:
        return online_update("grpo", facts, context, train_grpo_online(name, context, parameters, variant))
    groups = group_rows(context.judged(parameters.reward, COMPARABLE))
    rows = grpo_advantages(groups, scale=variant.scale).filter(pl.col("advantage") != 0)
    if variant.masks_truncated:
        rows = rows.filter("ended")
    require_groups("grpo", rows)
    return recorded_update("grpo", facts, rows, train_grpo(rows, context, parameters, variant))


def require_groups(update: str, rows: pl.DataFrame) -> None:
    """Nothing.

    Raises:
        SelfimpError: there is no group to learn from, or its rows were drawn in different ways.
    """
    if rows.is_empty():
        raise no_rows(
            update,
            "selected task whose responses differ in their reward",
            "draw more samples per task, choose tasks that are sometimes solved, or use a graded reward; a "
            "task is selected if one of its responses is",
        )
    temperatures = rows["temperature"].unique().sort().to_list()
    if len(temperatures) > 1 or temperatures[0] == 0:
        raise SelfimpError(
            f"the responses were drawn at temperature {', '.join(f'{t:g}' for t in temperatures)}, and "
            f"{update} compares probabilities at one temperature above 0",
            where=WHERE,
            fix="draw all samples of recipe.acquisition at one temperature above 0",
        )


def recorded_update(update: str, facts: dict[str, Any], rows: pl.DataFrame, curve: Curve) -> Update:
    """The update that learnt from groups of the corpus."""
    return Update(
        training=training_rows(rows, update, "scored", rows["advantage"]),
        curve=curve.steps,
        metrics=curve.metrics,
        facts={**facts, "steps": curve.steps.height, "groups": rows["task_id"].n_unique()},
        tokens=curve.tokens,
    )


def online_update(
    update: str,
    facts: dict[str, Any],
    context: OptimizationContext,
    trained: tuple[Curve, Rollouts, pl.DataFrame],
) -> Update:
    """The update that drew its groups; `trained` ends with the advantages: sample_id and advantage."""
    curve, rollouts, advantages = trained
    rows = rollouts.samples.join(
        context.tasks.select("task_id", "skill"), on="task_id", maintain_order="left"
    ).join(advantages, on="sample_id", maintain_order="left")
    return Update(
        training=training_rows(rows, update, "scored", rows["advantage"]),
        curve=curve.steps,
        metrics=curve.metrics,
        facts={
            **facts,
            "steps": curve.steps.height,
            "rollouts": rows.height,
            "rollout_tokens": int(rows["completion_tokens"].sum()),
        },
        tokens=curve.tokens + int(rows["completion_tokens"].sum()),
        rollouts=rollouts,
    )
