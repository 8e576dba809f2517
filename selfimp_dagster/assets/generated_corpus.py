from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from selfimp_dagster import __version__
from selfimp_dagster.assets.incumbent_policy import incumbent_policy
from selfimp_dagster.lifecycle.acquisition.stage import generate_corpus
from selfimp_dagster.lifecycle.curriculum.stage import STATE
from selfimp_dagster.lifecycle.evaluation.evidence import judge_summaries
from selfimp_dagster.lifecycle.evaluation.statistics import Estimate
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.lifecycle.sampling import unaided
from selfimp_dagster.partitions import rounds
from selfimp_dagster.presentation import lineage_links, materialized, readable_failures, table
from selfimp_dagster.records import PROPOSALS, REWARDS, SAMPLES, TASKS
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact


class GeneratedCorpusConfig(dg.Config):
    """What this run asks for in place of the campaign's recipe; empty fields leave it as it is."""

    tasks: int | None = Field(default=None, ge=1, description="Train tasks to draw.")
    samples_per_task: int | None = Field(default=None, ge=1, description="Responses drawn for each task.")
    temperature: float | None = Field(default=None, ge=0, description="Softmax temperature.")

    def overrides(self) -> dict[str, Any]:
        given = self.model_dump(exclude_none=True)
        if "temperature" in given:
            given["sampling"] = {"temperature": given.pop("temperature")}
        return given


def _judges(artifact: Artifact) -> dict[str, dg.MetadataValue]:
    """How the judges of the round did, where it has some."""
    judges = judge_summaries(artifact)
    if not judges:
        return {}
    rows = [
        {
            "reward": judge.record.reward,
            "judge": judge.record.judge,
            "status": f"barred: {judge.record.barred}" if judge.record.barred else "judges",
            "precision": _interval(judge.precision),
            "recall": _interval(judge.recall),
            "floor": judge.record.floor,
            "accepted_rate": _interval(judge.accepted_rate),
            "corrected_rate": _interval(judge.corrected_rate),
            "agreement": _interval(judge.agreement),
            "position_bias": _interval(judge.position_bias),
            "judged": judge.judged,
            "abstained": judge.abstained,
            "probe_without_verdict": judge.silent,
        }
        for judge in judges
    ]
    return {"judges": table(pl.DataFrame(rows), limit=len(rows))}


def _proposals(artifact: Artifact) -> dict[str, dg.MetadataValue]:
    """What became of the tasks that were proposed, where some were."""
    fates: dict[str, int] = artifact.facts["proposals"]
    if not fates:
        return {}
    shown = artifact.table("proposals", PROPOSALS).sort("reason", "proposal_id", nulls_last=False)
    first = shown.group_by("reason", maintain_order=True).head(3)
    return {
        "proposals": dg.MetadataValue.json(fates),
        "proposed": table(
            first.select("method", "reason", "detail", "prompt", "answer", "generation_depth"),
            limit=first.height,
        ),
    }


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}, n {estimate.n})"


@dg.asset(
    partitions_def=rounds,
    deps=[incumbent_policy],
    group_name="round",
    owners=["team:selfimp"],
    kinds={"pytorch", "parquet"},
    code_version=__version__,
    pool="gpu",
)
def generated_corpus(
    context: dg.AssetExecutionContext, config: GeneratedCorpusConfig, workbench: WorkbenchResource
) -> dg.MaterializeResult:
    """Tasks of the train pool, the incumbent's samples of them, and a reward for every sample.

    Sampling that was interrupted goes on at the rows that are missing.
    """
    with readable_failures():
        key = RoundKey.parse(context.partition_key)
        artifact = generate_corpus(workbench.open(context), key, config.overrides())
    samples = artifact.table("samples", SAMPLES)
    rewards = artifact.table("rewards", REWARDS)
    judged = samples.join(rewards.filter(pl.col("reward") == ANSWER), on="sample_id").join(
        artifact.table("tasks", TASKS).select("task_id", "skill", "prompt", "answer"), on="task_id"
    )
    by_skill = (
        unaided(judged)
        .group_by("skill")
        .agg(tasks=pl.col("task_id").n_unique(), samples=pl.len(), pass_rate=pl.col("value").mean())
    )
    return materialized(
        artifact,
        {
            "dagster/row_count": samples.height,
            "tasks": artifact.facts["tasks"],
            "helped_samples": artifact.facts["helped_samples"],
            "written_tasks": artifact.facts["written"],
            "deepest_task": artifact.facts["deepest"],
            **_proposals(artifact),
            "pass_rate": artifact.facts["pass_rate"],
            "mean_response_tokens": samples["completion_tokens"].mean(),
            **lineage_links(workbench.artifacts, "generated_corpus", key),
            "skills": table(by_skill.sort("skill")),
            "rewards": table(
                rewards.group_by("reward", "kind")
                .agg(
                    samples=pl.len(),
                    mean_value=pl.col("value").mean(),
                    mean_confidence=pl.col("confidence").mean(),
                )
                .sort("reward")
            ),
            **_judges(artifact),
            "rows": table(
                judged.sort("sample_id").select(
                    "sample_id",
                    "skill",
                    "generation",
                    "prompt",
                    "response",
                    "answer",
                    "value",
                    "mean_logprob",
                )
            ),
            "engine": dg.MetadataValue.json(artifact.facts["engine"]),
            **(
                {"curriculum": dg.MetadataValue.json(artifact.json(STATE))}
                if artifact.has_json(STATE)
                else {}
            ),
        },
    )
