"""One round, all its stages in one process, so that each set of weights is loaded once."""

import os

import dagster as dg

from selfimp_dagster.automation.round_pod import ROUND_POD, pod_tags

round_job = dg.define_asset_job(
    "round_job",
    selection=dg.AssetSelection.groups("round"),
    executor_def=dg.in_process_executor,
    tags={"dagster/max_runtime": "43200", "selfimp/round": "whole", **pod_tags(os.environ.get(ROUND_POD))},
    description="All stages of one round, then the ledger.",
)
