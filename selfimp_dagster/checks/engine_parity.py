"""Engines are trusted with weights only after they agreed with plain transformers on them."""

from collections.abc import Callable

import dagster as dg
import polars as pl

from selfimp_dagster.assets.checkpoint import checkpoint
from selfimp_dagster.assets.incumbent_policy import incumbent_policy
from selfimp_dagster.engines.parity import Parity
from selfimp_dagster.lifecycle.engine_parity import candidate_parity, incumbent_parity
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.partitions import rounds
from selfimp_dagster.presentation import readable_failures, table
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


@dg.asset_check(
    asset=incumbent_policy, name="engine_parity", partitions_def=rounds, blocking=True, pool="gpu"
)
def incumbent_engine_parity(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """The engine that samples from the incumbent computes what plain transformers does with its weights."""
    return _result(context, workbench, incumbent_parity)


@dg.asset_check(asset=checkpoint, name="engine_parity", partitions_def=rounds, blocking=True, pool="gpu")
def candidate_engine_parity(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """The engines that answer with the candidate compute what plain transformers does with its weights."""
    return _result(context, workbench, candidate_parity)


def _result(
    context: dg.AssetCheckExecutionContext,
    workbench: WorkbenchResource,
    measure: Callable[[Workbench, RoundKey], list[Parity]],
) -> dg.AssetCheckResult:
    with readable_failures():
        found = measure(workbench.bench(context), RoundKey.parse(context.partition_key))
    faults = [
        f"{parity.engine['engine']} in {parity.engine['dtype']}: {fault}"
        for parity in found
        for fault in parity.faults
    ]
    return dg.AssetCheckResult(
        passed=not faults,
        description="; ".join(faults) or None,
        metadata={
            "engines": table(pl.DataFrame([parity.figures() for parity in found])),
            "answers": table(pl.DataFrame([row for parity in found for row in parity.rows()]), limit=50),
            "fix": "use another engine, device or dtype, then run the round again"
            if faults
            else "none needed",
        },
    )
