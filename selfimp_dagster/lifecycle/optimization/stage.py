"""The stage checkpoint: the candidate's weights."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from pydantic import BaseModel
from safetensors import SafetensorError

from selfimp_dagster.campaign import MethodChoice
from selfimp_dagster.lifecycle.acquisition.corpus import trained_chats
from selfimp_dagster.lifecycle.companions import FOLDER, Companions, companions_of, parent_checkpoint
from selfimp_dagster.lifecycle.cost import Meter
from selfimp_dagster.lifecycle.obedience import Obeyed, obey_optimization
from selfimp_dagster.lifecycle.optimization.model_card import model_card
from selfimp_dagster.lifecycle.optimization.several import check_together, processes
from selfimp_dagster.lifecycle.optimization.update import POOL, OptimizationContext, Update
from selfimp_dagster.lifecycle.policy import Policy, incumbent_weights, read_policy
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.judging import judge_samples, visible
from selfimp_dagster.lifecycle.sampling import asked
from selfimp_dagster.lifecycle.selection.spare import SPARE
from selfimp_dagster.lifecycle.selection.stage import SUBSET, require_rows, selected_rows
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.source import resolve_model
from selfimp_dagster.records import (
    REWARDS,
    SAMPLES,
    TASKS,
    TRAINING,
    TRAINING_CURVE,
    TRAINING_METRICS,
    derive_seed,
)
from selfimp_dagster.registry import Method
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, Draft, write_error

ASSET = "checkpoint"


def train_checkpoint(bench: Workbench, key: RoundKey, overrides: Mapping[str, Any]) -> Artifact:
    """Trains the candidate with the recipe's optimization method, on what selection left of the corpus.

    Raises:
        SelfimpError: there are too few rows to train on, or the checkpoint cannot be written.
    """
    meter = Meter()
    training = _prepared(bench, key, overrides)
    output = training.context.output
    for made in (output, training.context.companions):
        shutil.rmtree(made, ignore_errors=True)  # of a training that was killed while saving
    bench.engines.give_back()
    try:
        update: Update = training.method.function(training.context, training.parameters)
    except (OSError, SafetensorError) as error:
        raise write_error(error, output) from error
    draft, policy = training.draft, training.policy
    draft.write_table("training", update.training, TRAINING)
    draft.write_table("training_curve", update.curve, TRAINING_CURVE)
    draft.write_table("training_metrics", update.metrics, TRAINING_METRICS)
    draft.write_table("rollouts", update.rollouts.samples, SAMPLES)
    draft.write_table("rollout_rewards", update.rollouts.rewards, REWARDS)
    facts = {
        **update.facts,
        "policy_hash": policy_hash(output),
        "parent_policy_hash": policy.policy_hash,
        "rows": update.training.height,
        "rows_of_this_round": update.training.filter(pl.col("origin_round") == str(key)).height,
        "final_loss": update.curve["loss"][-1],
        **({"processes": processes()} if processes() > 1 else {}),
        "obeyed": [told.model_dump() for told in training.obeyed],
    }
    (output / "README.md").write_text(model_card(policy, training.choice, facts))
    return draft.commit(facts=facts, measurements=meter.measured(update.tokens + training.companions.tokens))


def assist_training(bench: Workbench, key: RoundKey, overrides: Mapping[str, Any]) -> None:
    """The part that any process but the first has in `train_checkpoint`: it computes, and writes nothing.

    Raises:
        SelfimpError: as `train_checkpoint`.
    """
    training = _prepared(bench, key, overrides)
    training.method.function(training.context, training.parameters)


@dataclass(frozen=True)
class _Training:
    """A training that can begin."""

    draft: Draft
    policy: Policy
    choice: MethodChoice
    obeyed: Sequence[Obeyed]
    method: Method
    parameters: BaseModel
    companions: Companions
    context: OptimizationContext


def _prepared(bench: Workbench, key: RoundKey, overrides: Mapping[str, Any]) -> _Training:
    policy, start = read_policy(bench.store, key)
    corpus, subset = (bench.store.open(key, asset) for asset in ("generated_corpus", "selected_subset"))
    earlier = selected_rows(bench.store, [RoundKey.parse(ancestor) for ancestor in policy.ancestors])
    choice, obeyed = obey_optimization(
        policy.campaign.recipe.optimization, policy.directives, overrides, earlier.height
    )
    method, parameters = choice.resolve("optimization")
    check_together(method, parameters, processes())
    rows = subset.table("subset", SUBSET)
    require_rows(rows, policy.campaign.recipe.minimum_rows, key)
    before = parent_checkpoint(bench.store, policy)
    companions = Companions(bench, before)
    draft = bench.store.draft(
        key,
        ASSET,
        parents={
            "incumbent_policy": start.data_version,
            "generated_corpus": corpus.data_version,
            "selected_subset": subset.data_version,
            **({f"{policy.parent}/checkpoint": before.data_version} if before else {}),
        },
        config={"optimization": choice.model_dump(mode="json"), "overrides": dict(overrides)},
    )
    weights = incumbent_weights(bench, policy)
    context = OptimizationContext(
        rows=rows,
        earlier=earlier,
        start=weights,
        incumbent=weights,
        base=resolve_model(policy.campaign.model, bench.models),
        output=draft.folder / "model",
        companions=draft.folder / FOLDER,
        inherited=companions_of(before),
        seed=policy.seed,
        progress=bench.progress,
        **_evidence(policy, corpus, subset, companions),
    )
    return _Training(draft, policy, choice, obeyed, method, parameters, companions, context)


def _evidence(policy: Policy, corpus: Artifact, subset: Artifact, companions: Companions) -> dict[str, Any]:
    """What the fields of the context that tell of the corpus are."""
    rewarding = policy.campaign.recipe.resolved_rewards
    tasks, samples = corpus.table("tasks", TASKS), corpus.table("samples", SAMPLES)
    pool = _pool(policy, tasks, samples, subset)
    rewards = visible(corpus.table("rewards", REWARDS), rewarding)

    def judge(drawn: pl.DataFrame) -> pl.DataFrame:
        answered = tasks.join(drawn, on="task_id", how="semi")
        seed = derive_seed(policy.seed, "rollout rewards")
        context = RewardContext(
            answered,
            drawn,
            REWARDS.to_frame(),
            seed,
            companion=companions.find,
            messages=policy.campaign.messages,
        )
        return judge_samples(rewarding, context)

    return {
        "pool": pool,
        "tasks": tasks.join(pool, on="task_id", how="semi"),
        "rewards": rewards.join(pool, on="sample_id", how="semi"),
        "gives": {reward.name: reward.method.gives for reward in rewarding},
        "judge": judge,
    }


def _pool(policy: Policy, tasks: pl.DataFrame, samples: pl.DataFrame, subset: Artifact) -> pl.DataFrame:
    """The kept rows and the spare ones, in the schema POOL, sorted by task and sample."""
    kept = subset.table("subset", SUBSET).select("sample_id", pl.lit("kept").alias("fate"))
    spare = subset.table("spare", SPARE).select(
        "sample_id",
        pl.when("contrast").then(pl.lit("contrast")).otherwise(pl.lit("sibling")).alias("fate"),
    )
    settings = [json.loads(text) for text in samples["sampling"]]  # empty for demonstrations
    rows = (
        samples.with_columns(
            pl.Series("temperature", [given.get("temperature") for given in settings], dtype=pl.Float64),
            pl.Series("token_limit", [given.get("max_new_tokens") for given in settings], dtype=pl.Int64),
            ended=pl.col("finish_reason") == "stop",
        )
        .join(pl.concat([kept, spare]), on="sample_id")
        .join(tasks.select("task_id", "skill", "prompt", "chat"), on="task_id")
        .with_columns(round=pl.lit(str(policy.round)))
        .sort("task_id", "sample_id")
    )
    drawn = rows["messages"].to_list()
    plain = [asked(row, policy.campaign.messages) for row in rows.iter_rows(named=True)]
    trained = trained_chats(policy.campaign.recipe.acquisition.resolve("acquisition")[1], drawn, plain)
    unhelped = [own == chat for own, chat in zip(drawn, trained, strict=True)]
    by_incumbent = (rows["policy_hash"] == policy.policy_hash).fill_null(False)
    return rows.with_columns(
        pl.Series("messages", trained, dtype=POOL["messages"]),
        pl.Series("own", unhelped, dtype=pl.Boolean) & by_incumbent,
    ).select(list(POOL))
