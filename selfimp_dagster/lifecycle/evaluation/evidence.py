"""What the dimensions of a round are computed from, gathered from the artifacts of its line."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from selfimp_dagster.lifecycle.evaluation.dimensions import DRAWS, Embedded, Evidence, responses_to_embed
from selfimp_dagster.lifecycle.evaluation.probe import Probe
from selfimp_dagster.lifecycle.evaluation.promotion import Verdict
from selfimp_dagster.lifecycle.evaluation.report import ASSET
from selfimp_dagster.lifecycle.policy import Policy
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.lifecycle.rewards.gold_probe import JudgeRecord, JudgeSummary
from selfimp_dagster.lifecycle.sampling import unaided
from selfimp_dagster.records import EVALUATIONS, JUDGE_PROBE, REWARDS, SAMPLES, SELECTION, TASKS
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore


def gather_evidence(
    store: ArtifactStore,
    policy: Policy,
    items: pl.DataFrame,
    evaluations: pl.DataFrame,
    rewordings: pl.DataFrame,
    twins: pl.DataFrame,
    episodes: pl.DataFrame,
    verdict: Verdict,
    probe: Probe,
    embed: Mapping[str, Callable[[Sequence[str]], np.ndarray]],
) -> Evidence:
    """The evidence of a round whose stages before the evaluation are in the store.

    `embed` is, for each arm, how its weights embed texts.

    Raises:
        SelfimpError: an artifact of the line is missing or was altered.
    """
    key = RoundKey.parse(policy.round)
    before = RoundKey.parse(policy.weights_round) if policy.weights_round else None
    draws = {
        "incumbent": _draws(store, key, "generated_corpus"),
        "candidate": _draws(store, key, "refined_outputs"),
    }
    chosen = {arm: responses_to_embed(drawn) for arm, drawn in draws.items()}
    return Evidence(
        evaluations=evaluations,
        items=items,
        rewordings=rewordings,
        twins=twins,
        episodes=episodes,
        earlier={
            ancestor: store.open(RoundKey.parse(ancestor), ASSET).table("evaluations", EVALUATIONS)
            for ancestor in policy.ancestors
        },
        draws=draws,
        embedded={
            arm: Embedded(rows, embed[arm](rows["response"].to_list())) for arm, rows in chosen.items()
        },
        votes_before=DRAWS.to_frame() if before is None else _draws(store, before, "refined_outputs"),
        selection=store.open(key, "selected_subset").table("selection", SELECTION),
        verdict=verdict,
        probe=probe,
        skill_weights=policy.campaign.skill_weights,
        judges=tuple(judge_summaries(store.open(key, "generated_corpus"))),
    )


def judge_summaries(corpus: Artifact) -> list[JudgeSummary]:
    """What a generated_corpus knows of its judges; nothing if it was made before judges were tried."""
    if not corpus.facts.get("judges"):
        return []
    probe = corpus.table("judge_probe", JUDGE_PROBE)
    rewards, samples = corpus.table("rewards", REWARDS), corpus.table("samples", SAMPLES)
    return [
        JudgeSummary.of(JudgeRecord(**record), probe, rewards, samples) for record in corpus.facts["judges"]
    ]


def _draws(store: ArtifactStore, key: RoundKey, asset: str) -> pl.DataFrame:
    """What the weights of the round drew without help and at random, judged by the tasks' verifiers.

    Offered samples of an earlier round are left out: only accepted ones are offered. So are tasks that
    acquisition made: the other arm has none like them.
    """
    artifact = store.open(key, asset)
    drawn = artifact.table("tasks", TASKS).filter(pl.col("pool") == "train")
    rewards = artifact.table("rewards", REWARDS).filter(pl.col("reward") == ANSWER)
    temperature = pl.col("sampling").str.json_path_match("$.temperature").cast(pl.Float64)
    return (
        unaided(artifact.table("samples", SAMPLES))
        .filter(pl.col("round") == str(key))
        .with_columns(temperature=temperature)
        .filter(pl.col("temperature") > 0)
        .join(rewards.select("sample_id", right=pl.col("value") >= 1), on="sample_id")
        .join(drawn.select("task_id", "skill"), on="task_id")
        .select(list(DRAWS))
    )
