import dagster as dg
import polars as pl

from selfimp_dagster.assets.incumbent_policy import incumbent_policy
from selfimp_dagster.lifecycle.evaluation.comparison import differing_fields
from selfimp_dagster.lifecycle.oversight import recipe_question, unapproved
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.partitions import rounds
from selfimp_dagster.presentation import table
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


@dg.asset_check(asset=incumbent_policy, partitions_def=rounds)
def parent_unchanged(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """The parent round's artifacts are still those that this round was started from."""
    store = workbench.artifacts
    _, artifact = read_policy(store, RoundKey.parse(context.partition_key))
    changed = []
    for place, version in artifact.manifest.parents.items():
        parent, asset = place.rsplit("/", 1)
        if store.open(RoundKey.parse(parent), asset, verify=False).data_version != version:
            changed.append(place)
    return dg.AssetCheckResult(
        passed=not changed,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"parents": len(artifact.manifest.parents), "changed": ", ".join(changed) or "none"},
    )


@dg.asset_check(asset=incumbent_policy, partitions_def=rounds, blocking=True)
def recipe_approved(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """Where the campaign demands it, a person approved a recipe that no earlier round of the line used."""
    store, key = workbench.artifacts, RoundKey.parse(context.partition_key)
    question = recipe_question(store, key)
    if question is None:
        return dg.AssetCheckResult(passed=True)
    policy, _ = read_policy(store, key)
    recipe = policy.campaign.recipe.model_dump(mode="json")
    parent = read_policy(store, RoundKey.parse(policy.parent))[0] if policy.parent else None
    before = parent.campaign.recipe.model_dump(mode="json") if parent else {}
    changed = [difference.model_dump() for difference in differing_fields(before, recipe)]
    return dg.AssetCheckResult(
        passed=question.answer is not None and question.answer.action == "approve",
        description=question.sentence,
        metadata={
            "recipe": question.evidence.version,
            "differs_from_parent_in": table(pl.DataFrame(changed), limit=50),
            "fix": unapproved(question).fix,
        },
    )
