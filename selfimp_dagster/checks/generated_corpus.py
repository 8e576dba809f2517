import dagster as dg
import polars as pl

from selfimp_dagster.assets.generated_corpus import generated_corpus
from selfimp_dagster.checks.contamination import contamination_result
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.partitions import rounds
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey


@dg.asset_check(asset=generated_corpus, partitions_def=rounds, blocking=True)
def no_evaluation_items(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """No task of the corpus is an anchor, fresh or guard item of this or an earlier round."""
    key = RoundKey.parse(context.partition_key)
    tasks = workbench.artifacts.open(key, "generated_corpus").table("tasks", TASKS)
    return contamination_result(workbench, key, tasks, row_id="task_id")


@dg.asset_check(asset=generated_corpus, partitions_def=rounds, blocking=True)
def every_sample_judged(
    context: dg.AssetCheckExecutionContext, workbench: WorkbenchResource
) -> dg.AssetCheckResult:
    """Tables fit their schemas; every sample answers a task of the corpus, once, and has a reward."""
    artifact = workbench.artifacts.open(RoundKey.parse(context.partition_key), "generated_corpus")
    tasks, samples = artifact.table("tasks", TASKS), artifact.table("samples", SAMPLES)
    rewards = artifact.table("rewards", REWARDS)
    doubled = samples.height - samples["sample_id"].n_unique()
    orphans = samples.join(tasks, on="task_id", how="anti").height
    unjudged = samples.join(rewards, on="sample_id", how="anti").height
    broken = rewards.filter(
        pl.col("reward") == ANSWER, pl.col("value") == 0, pl.col("confidence") == 0
    ).height
    without_value = rewards.filter(pl.col("value").is_null()).height
    return dg.AssetCheckResult(
        passed=not (doubled or orphans or unjudged),
        metadata={
            "doubled": doubled,
            "without_task": orphans,
            "without_reward": unjudged,
            "verifier_errors": broken,
            "rewards_without_value": without_value,
        },
    )
