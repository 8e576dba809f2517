from typing import Any

import dagster as dg
from pydantic import Field

from selfimp_dagster import __version__
from selfimp_dagster.assets.generated_corpus import generated_corpus
from selfimp_dagster.assets.incumbent_policy import incumbent_policy
from selfimp_dagster.assets.selected_subset import selected_subset
from selfimp_dagster.partitions import rounds
from selfimp_dagster.pictures import loss_curve, training_metrics
from selfimp_dagster.presentation import lineage_links, materialized, picture, readable_failures
from selfimp_dagster.records import TRAINING_CURVE, TRAINING_METRICS
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


class CheckpointConfig(dg.Config):
    """What this run asks for in place of the campaign's recipe; empty fields leave it as it is."""

    learning_rate: float | None = Field(default=None, gt=0, description="Peak learning rate.")
    epochs: float | None = Field(default=None, gt=0, description="Passes over the rows.")
    batch_size: int | None = Field(default=None, ge=1, description="Rows per update.")

    def overrides(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


@dg.asset(
    partitions_def=rounds,
    deps=[incumbent_policy, generated_corpus, selected_subset],
    group_name="round",
    owners=["team:selfimp"],
    kinds={"pytorch", "huggingface"},
    code_version=__version__,
    pool="gpu",
)
def checkpoint(
    context: dg.AssetExecutionContext, config: CheckpointConfig, workbench: WorkbenchResource
) -> dg.MaterializeResult:
    """The candidate: weights as safetensors, tokenizer, model card and training curve."""
    with readable_failures():
        key = RoundKey.parse(context.partition_key)
        artifact = workbench.trained(context, config.overrides())
    facts = artifact.facts
    metrics = artifact.table("training_metrics", TRAINING_METRICS)
    return materialized(
        artifact,
        {
            "policy_hash": facts["policy_hash"],
            "rows": facts["rows"],
            "rows_of_this_round": facts["rows_of_this_round"],
            "steps": facts["steps"],
            "final_loss": facts["final_loss"],
            **lineage_links(workbench.artifacts, "checkpoint", key),
            "loss_curve": picture(
                loss_curve(artifact.table("training_curve", TRAINING_CURVE)), "training loss"
            ),
            **({} if metrics.is_empty() else {"metrics": picture(training_metrics(metrics), "metrics")}),
            "model_card": dg.MetadataValue.md(
                (artifact.folder / "model" / "README.md").read_text().split("---\n", 2)[2]
            ),
            "model": dg.MetadataValue.path(str(artifact.folder / "model")),
        },
    )
