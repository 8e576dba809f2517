from typing import Any

import dagster as dg
from pydantic import Field

from selfimp_dagster import __version__
from selfimp_dagster.campaign import changes_text
from selfimp_dagster.lifecycle.evaluation.directives import sentences
from selfimp_dagster.lifecycle.optimization.several import check_together
from selfimp_dagster.lifecycle.policy import read_policy, start_round
from selfimp_dagster.partitions import rounds
from selfimp_dagster.presentation import child_links, lineage_links, materialized, readable_failures
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
    was promoted, its incumbent if not. Name another parent or change the recipe in the launchpad to
    start a branch; its line keeps what was changed.
    """
    with readable_failures():
        key = RoundKey.parse(context.partition_key)
        parent = RoundKey.parse(config.parent) if config.parent else None
        bench = workbench.open(context)
        artifact = start_round(bench, key, parent, config.recipe)
        policy, _ = read_policy(workbench.artifacts, key)
        check_together(
            *policy.campaign.recipe.optimization.resolve("optimization"), workbench.training.processes
        )
        engine = bench.engines.choice
    metadata: dict[str, Any] = {
        "policy_hash": policy.policy_hash,
        "seed": str(policy.seed),
        "engine": str(engine),
        "recipe_changes": changes_text(policy.recipe_changes) or "none: the recipe of the campaign file",
        "directives": sentences(policy.directives),
        "tokens_left": policy.tokens_left,
        "seconds_left": policy.seconds_left,
        **lineage_links(workbench.artifacts, "incumbent_policy", key),
    }
    if policy.parent is not None:
        parent = RoundKey.parse(policy.parent)
        metadata["parent_run"] = _link_parent(context, parent, child_links(workbench.artifacts, parent))
    return materialized(artifact, metadata)


def _link_parent(
    context: dg.AssetExecutionContext, parent: RoundKey, children: dict[str, dg.MetadataValue]
) -> dg.MetadataValue:
    """Links the parent's checkpoint and report to its children, and returns the run that trained it.

    The edge between rounds is data: Dagster refuses a loop over assets (dagster#13368).
    """
    for asset in ("checkpoint", "eval_report"):
        context.log_event(dg.AssetObservation(asset, partition=str(parent), metadata=children))
    trained = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey("checkpoint"), asset_partitions=[str(parent)]), limit=1
    ).records
    # A store that was copied here has artifacts without the runs that made them.
    return dg.MetadataValue.dagster_run(trained[0].run_id) if trained else dg.MetadataValue.null()
