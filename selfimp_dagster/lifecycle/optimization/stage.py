"""The stage checkpoint: the candidate's weights."""

import shutil
import time
from collections.abc import Mapping
from typing import Any

import polars as pl
from safetensors import SafetensorError

from selfimp_dagster.lifecycle.obedience import obey_optimization
from selfimp_dagster.lifecycle.optimization.model_card import model_card
from selfimp_dagster.lifecycle.optimization.update import OptimizationContext, Update
from selfimp_dagster.lifecycle.policy import incumbent_weights, read_policy
from selfimp_dagster.lifecycle.selection.stage import SUBSET, require_rows, selected_rows
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.source import resolve_model
from selfimp_dagster.records import TRAINING, TRAINING_CURVE
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, write_error

ASSET = "checkpoint"


def train_checkpoint(bench: Workbench, key: RoundKey, overrides: Mapping[str, Any]) -> Artifact:
    """Trains the candidate on the selected rows with the recipe's optimization method.

    Raises:
        SelfimpError: there are too few rows to train on, or the checkpoint cannot be written.
    """
    started = time.monotonic()
    policy, start = read_policy(bench.store, key)
    subset = bench.store.open(key, "selected_subset")
    earlier = selected_rows(bench.store, [RoundKey.parse(ancestor) for ancestor in policy.ancestors])
    choice, obeyed = obey_optimization(
        policy.campaign.recipe.optimization, policy.directives, overrides, earlier.height
    )
    method, parameters = choice.resolve("optimization")
    rows = subset.table("subset", SUBSET)
    require_rows(rows, policy.campaign.recipe.minimum_rows, key)
    draft = bench.store.draft(
        key,
        ASSET,
        parents={"incumbent_policy": start.data_version, "selected_subset": subset.data_version},
        config={"optimization": choice.model_dump(mode="json"), "overrides": dict(overrides)},
    )
    output = draft.folder / "model"
    shutil.rmtree(output, ignore_errors=True)  # of a training that was killed while saving
    context = OptimizationContext(
        rows=rows,
        earlier=earlier,
        incumbent=incumbent_weights(bench, policy),
        base=resolve_model(policy.campaign.model, bench.models),
        output=output,
        seed=policy.seed,
        progress=bench.progress,
    )
    try:
        update: Update = method.function(context, parameters)
    except (OSError, SafetensorError) as error:
        raise write_error(error, output) from error
    draft.write_table("training", update.training, TRAINING)
    draft.write_table("training_curve", update.curve, TRAINING_CURVE)
    facts = {
        **update.facts,
        "policy_hash": policy_hash(output),
        "parent_policy_hash": policy.policy_hash,
        "rows": update.training.height,
        "rows_of_this_round": update.training.filter(pl.col("origin_round") == str(key)).height,
        "final_loss": update.curve["loss"][-1],
        "obeyed": [told.model_dump() for told in obeyed],
    }
    (output / "README.md").write_text(model_card(policy, choice, facts))
    return draft.commit(
        facts=facts,
        measurements={"seconds": time.monotonic() - started, "tokens": update.tokens},
    )
