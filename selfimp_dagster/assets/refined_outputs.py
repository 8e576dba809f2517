from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from selfimp_dagster import __version__
from selfimp_dagster.assets.checkpoint import checkpoint
from selfimp_dagster.assets.generated_corpus import generated_corpus
from selfimp_dagster.lifecycle.refinement.stage import refine_outputs
from selfimp_dagster.partitions import rounds
from selfimp_dagster.presentation import lineage_links, materialized, readable_failures, table
from selfimp_dagster.records import REFINEMENTS
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


class RefinedOutputsConfig(dg.Config):
    """What this run asks for in place of the campaign's recipe; empty fields leave it as it is."""

    tasks: int | None = Field(default=None, ge=1, description="Tasks to answer.")

    def overrides(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


@dg.asset(
    partitions_def=rounds,
    deps=[generated_corpus, checkpoint],
    group_name="round",
    owners=["team:selfimp"],
    kinds={"pytorch", "parquet"},
    code_version=__version__,
    pool="gpu",
)
def refined_outputs(
    context: dg.AssetExecutionContext, config: RefinedOutputsConfig, workbench: WorkbenchResource
) -> dg.MaterializeResult:
    """The candidate's answers to unseen train tasks, with and without inference refinement.

    What the verifier accepts is offered to the next round's corpus.
    """
    with readable_failures():
        key = RoundKey.parse(context.partition_key)
        artifact = refine_outputs(workbench.open(context), key, config.overrides())
    facts, refinements = artifact.facts, artifact.table("refinements", REFINEMENTS)
    return materialized(
        artifact,
        {
            "dagster/row_count": refinements.height,
            **{name: facts[name] for name in ("accuracy_before", "accuracy_after", "accepted")},
            **{
                name: facts[name]
                for name in (
                    "right_to_wrong",
                    "wrong_to_right",
                    "tokens_before",
                    "tokens_after",
                    "accuracy_per_1000_tokens_before",
                    "accuracy_per_1000_tokens_after",
                )
            },
            "refinement": facts["why"] if facts["enabled"] else f"not used: {facts['why']}",
            **({"gap": dg.MetadataValue.json(facts["gap"])} if facts["gap"] else {}),
            **({"notes": dg.MetadataValue.json(facts["notes"])} if facts["notes"] else {}),
            **lineage_links(workbench.artifacts, "refined_outputs", key),
            "flips": table(refinements.filter(pl.col("flip") != "none").sort("flip", "task_id")),
            "rows": table(refinements.sort("task_id")),
        },
    )
