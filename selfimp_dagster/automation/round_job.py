"""One round, all its stages in one process, so that each set of weights is loaded once."""

import dagster as dg

round_job = dg.define_asset_job(
    "round_job",
    selection=dg.AssetSelection.groups("round"),
    executor_def=dg.in_process_executor,
    tags={"dagster/max_runtime": "43200", "selfimp/round": "whole"},
    description="All stages of one round, then the ledger.",
)
