import dagster as dg
import polars as pl

from selfimp_dagster import __version__
from selfimp_dagster.assets.generated_corpus import generated_corpus
from selfimp_dagster.lifecycle.selection.stage import STATE, SUBSET, select_subset
from selfimp_dagster.partitions import rounds
from selfimp_dagster.pictures import funnel
from selfimp_dagster.presentation import lineage_links, materialized, picture, readable_failures, table
from selfimp_dagster.records import SELECTION
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


@dg.asset(
    partitions_def=rounds,
    deps=[generated_corpus],
    group_name="round",
    owners=["team:selfimp"],
    kinds={"polars", "parquet"},
    code_version=__version__,
    pool="gpu",  # steps may ask a model
)
def selected_subset(context: dg.AssetExecutionContext, workbench: WorkbenchResource) -> dg.MaterializeResult:
    """Every sample of the corpus with each selection step's score, kept or not and why."""
    with readable_failures():
        key = RoundKey.parse(context.partition_key)
        artifact = select_subset(workbench.open(context), key)
    selection = artifact.table("selection", SELECTION)
    subset = artifact.table("subset", SUBSET)
    reasons = (
        selection.filter(~pl.col("kept")).group_by("step", "reason").len("rows").sort("rows", descending=True)
    )
    return materialized(
        artifact,
        {
            "dagster/row_count": subset.height,
            "rows_judged": artifact.facts["rows"],
            **lineage_links(workbench.artifacts, "selected_subset", key),
            "funnel": picture(funnel(artifact.facts["funnel"]), "selection funnel"),
            "steps": table(pl.DataFrame(artifact.facts["funnel"])),
            "dropped_because": table(reasons, limit=20),
            "rows": table(subset.select("sample_id", "skill", "prompt", "response")),
            **({"states": dg.MetadataValue.json(artifact.json(STATE))} if artifact.has_json(STATE) else {}),
        },
    )
