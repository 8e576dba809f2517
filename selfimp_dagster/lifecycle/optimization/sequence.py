"""Several updates, one after the other (survey 4.3): SFT and then DPO, for example."""

import shutil
from dataclasses import replace
from typing import Any, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.optimization.update import OptimizationContext, Rollouts, Update
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import Method, find_method, method

_NAME = "sequence"


class Sequence(BaseModel):
    """Parameters of `sequence`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    updates: tuple[dict[str, Any], ...] = Field(
        default=({"method": "sft"}, {"method": "dpo"}),
        min_length=2,
        description="The updates in their order, each a method of optimization with its parameters beside "
        "its name.",
    )

    @model_validator(mode="after")
    def _updates_are_updates(self) -> Self:
        for position, choice in enumerate(self.updates):
            if choice.get("method") == _NAME:
                raise ValueError(f"updates.{position}: a sequence does not hold another")
            try:
                _, parameters = _resolve(choice)
            except SelfimpError as error:
                raise ValueError(f"updates.{position}: {error.what}; {error.fix}") from error
            except ValidationError as error:
                problem = error.errors()[0]
                field = ".".join(map(str, problem["loc"]))
                raise ValueError(f"updates.{position}: {field}: {problem['msg']}") from error
            if position and getattr(parameters, "start_from", None) == "base":
                raise ValueError(
                    f"updates.{position}: start_from base would undo the updates before it; only the first "
                    f"may"
                )
        return self

    @classmethod
    def model_json_schema(cls, *arguments: Any, **named: Any) -> dict[str, Any]:
        """The schema, in which each update is a method of optimization (campaign.campaign_schema)."""
        schema = super().model_json_schema(*arguments, **named)
        schema["properties"]["updates"]["items"] = {"$ref": "#/$defs/optimization"}
        return schema

    @property
    def methods(self) -> list[tuple[Method, BaseModel]]:
        """The updates, ready to run."""
        return [_resolve(choice) for choice in self.updates]


@method("optimization", _NAME, parameters=Sequence, section="4.3", paper="arXiv:2305.18290")
def sequence(context: OptimizationContext, parameters: Sequence) -> Update:
    """One update after the other, each beginning where the one before it ended.

    In: what each of the updates takes; out: the weights of the last one. Steps are counted on through all of
    them, so that the curve is one. Each update has a seed of its own, the first that of the round. What an
    update calls the incumbent is the policy that drew the samples; the divergence of a preference update is
    measured from where it begins.

    Raises:
        SelfimpError: as any of its updates does.
    """
    scratch = context.output.with_name(".updates")
    shutil.rmtree(scratch, ignore_errors=True)  # of a training that was killed
    done: list[Update] = []
    start = context.start
    for position, (update, chosen) in enumerate(parameters.methods):
        last = position == len(parameters.updates) - 1
        output = context.output if last else scratch / str(position)
        seed = context.seed if position == 0 else derive_seed(context.seed, "update", position)
        done.append(update.function(replace(context, start=start, output=output, seed=seed), chosen))
        start = output
    shutil.rmtree(scratch)
    return joined(done)


def joined(updates: list[Update]) -> Update:
    """Updates as one: their rows and rollouts together, their steps counted on."""
    curves, metrics, before = [], [], 0
    for update in updates:
        curves.append(update.curve.with_columns(pl.col("step") + before))
        metrics.append(update.metrics.with_columns(pl.col("step") + before))
        before += update.curve.height
    return Update(
        training=pl.concat([update.training for update in updates]),
        curve=pl.concat(curves),
        metrics=pl.concat(metrics),
        facts={
            "method": _NAME,
            "trained_from": updates[0].facts["trained_from"],
            "steps": before,
            "updates": [update.facts for update in updates],
        },
        tokens=sum(update.tokens for update in updates),
        rollouts=Rollouts(
            pl.concat([update.rollouts.samples for update in updates]),
            pl.concat([update.rollouts.rewards for update in updates]),
        ),
    )


def _resolve(choice: dict[str, Any]) -> tuple[Method, BaseModel]:
    method = find_method("optimization", str(choice.get("method")))
    parameters = {name: value for name, value in choice.items() if name != "method"}
    return method, method.parameters.model_validate(parameters)
