from typing import Any

import dagster as dg
from pydantic import Field

from selfimp_dagster import __version__
from selfimp_dagster.lifecycle.policy import read_policy, start_round
from selfimp_dagster.partitions import rounds
from selfimp_dagster.presentation import materialized, readable_failures, round_link
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


class IncumbentPolicyConfig(dg.Config):
    """Where the round starts from."""

    parent: str | None = Field(
        default=None,
        description="A round to branch from, for example arithmetic/0001; empty: the round before.",
    )
    recipe: dict[str, Any] = Field(
        default={},
        description="What changes in the recipe from this round of the line on, for example "
        "{optimization: {learning_rate: 5.0e-5}}; empty: the recipe of the line.",
    )


@dg.asset(
    partitions_def=rounds,
    group_name="round",
    owners=["team:selfimp"],
    kinds={"huggingface", "json"},
    code_version=__version__,
)
def incumbent_policy(
    context: dg.AssetExecutionContext, config: IncumbentPolicyConfig, workbench: WorkbenchResource
) -> dg.MaterializeResult:
    """Which weights the round starts from, with its seed, directives and remaining budget.

    The base model in a first round, else what the parent round left in force: its checkpoint if that
    was promoted, its incumbent if not. Name another parent in the launchpad to start a branch.
    """
    with readable_failures():
        key = RoundKey.parse(context.partition_key)
        parent = RoundKey.parse(config.parent) if config.parent else None
        artifact = start_round(workbench.open(context), key, parent, config.recipe)
        policy, _ = read_policy(workbench.artifacts, key)
    metadata: dict[str, Any] = {
        "policy_hash": policy.policy_hash,
        "seed": str(policy.seed),
        "directives": dg.MetadataValue.json([d.model_dump(mode="json") for d in policy.directives]),
        "tokens_left": policy.tokens_left,
        "seconds_left": policy.seconds_left,
        "weights": "base model " + policy.campaign.model,
    }
    if policy.weights_round is not None:
        metadata["weights"] = round_link("checkpoint", policy.weights_round)
    if policy.parent is not None:
        metadata["parent_round"] = round_link("eval_report", policy.parent)
        metadata["parent_run"] = _link_parent(context, policy.parent, key)
    return materialized(artifact, metadata)


def _link_parent(context: dg.AssetExecutionContext, parent: str, key: RoundKey) -> dg.MetadataValue:
    """Links the parent's checkpoint to this round, and returns the link to the run that trained it.

    The edge between rounds is data: Dagster refuses a loop over assets (dagster#13368).
    """
    checkpoint = dg.AssetKey("checkpoint")
    links = {"child_round": round_link("incumbent_policy", key)}
    context.log_event(dg.AssetObservation(checkpoint, partition=parent, metadata=links))
    trained = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=checkpoint, asset_partitions=[parent]), limit=1
    ).records
    # A store that was copied here has artifacts without the runs that made them.
    return dg.MetadataValue.dagster_run(trained[0].run_id) if trained else dg.MetadataValue.null()
