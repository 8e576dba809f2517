"""What the dimensions of a round are computed from, gathered from the artifacts of its line."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from selfimp_dagster.lifecycle.evaluation.dimensions import DRAWS, Embedded, Evidence, responses_to_embed
from selfimp_dagster.lifecycle.evaluation.monitors.all import MonitorEvidence
from selfimp_dagster.lifecycle.evaluation.monitors.rewards import JudgeTables
from selfimp_dagster.lifecycle.evaluation.monitors.sharing import sharing
from selfimp_dagster.lifecycle.evaluation.monitors.tampering import Evaluator, evaluator, rejudged
from selfimp_dagster.lifecycle.evaluation.probe import Probe
from selfimp_dagster.lifecycle.evaluation.promotion import Verdict
from selfimp_dagster.lifecycle.evaluation.report import ASSET
from selfimp_dagster.lifecycle.evaluation.signals import refinement_flips
from selfimp_dagster.lifecycle.evaluation.watch import hackable
from selfimp_dagster.lifecycle.policy import Policy
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.lifecycle.rewards.gold_probe import JudgeRecord, JudgeSummary
from selfimp_dagster.lifecycle.sampling import unaided
from selfimp_dagster.records import (
    EVALUATIONS,
    JUDGE_PROBE,
    REWARDED,
    REWARDS,
    SAMPLES,
    SELECTION,
    TASKS,
    TRAINING,
    TWINS,
    WATCHED,
)
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


def gather_monitor_evidence(
    store: ArtifactStore,
    policy: Policy,
    drawn: pl.DataFrame,
    evaluations: pl.DataFrame,
    watched: pl.DataFrame,
    rewarded: pl.DataFrame,
    twins: pl.DataFrame,
    probe: Probe,
) -> MonitorEvidence:
    """The evidence of the monitors of a round whose stages before the evaluation are in the store.

    `drawn` are all items of the round, those that cannot be judged included.

    Raises:
        SelfimpError: an artifact of the line is missing or was altered.
    """
    campaign, key = policy.campaign, RoundKey.parse(policy.round)
    ancestors = [RoundKey.parse(ancestor) for ancestor in policy.ancestors]
    reports = {str(ancestor): store.open(ancestor, ASSET) for ancestor in ancestors}

    def of_line(table: str, schema: pl.Schema, now: pl.DataFrame) -> dict[str, pl.DataFrame]:
        before = {
            round_: report.table(table, schema)
            for round_, report in reports.items()
            if report.has_table(table)
        }
        return {**before, policy.round: now}

    corpus = store.open(key, "generated_corpus")
    tables = JudgeTables(
        judge_summaries(corpus),
        corpus.table("rewards", REWARDS),
        corpus.table("samples", SAMPLES),
        corpus.table("judge_probe", JUDGE_PROBE)
        if corpus.has_table("judge_probe")
        else JUDGE_PROBE.to_frame(),
    )
    flips = [
        (line.number, refinement_flips(store.open(line, "refined_outputs", verify=False).facts))
        for line in (*ancestors, key)
    ]
    evaluators = [report.facts["evaluator"] for report in reports.values() if "evaluator" in report.facts]
    kinds = dict(tables.rewards.select("reward", "kind").unique().sort("reward").iter_rows())
    judged_by = campaign.recipe.resolved_rewards
    evaluated = of_line("evaluations", EVALUATIONS, evaluations)
    return MonitorEvidence(
        round=policy.round,
        number=key.number,
        evaluations=evaluated,
        watched=of_line("watched", WATCHED, watched),
        rewarded=of_line("rewarded", REWARDED, rewarded),
        judges={
            **{str(a): _judges_alone(store.open(a, "generated_corpus")) for a in ancestors if tables.judges},
            policy.round: tables,
        },
        twins=list(of_line("twins", TWINS, twins).values()),
        flips=flips,
        tasks=corpus.table("tasks", TASKS),
        selection=store.open(key, "selected_subset").table("selection", SELECTION),
        training=store.open(key, "checkpoint").table("training", TRAINING),
        items=drawn,
        probe=probe,
        evaluator=evaluator(
            campaign.model_dump(mode="json", include={"seed", "skills", "guard", "pools"}),
            drawn,
            campaign.pools.anchor_set(key.number),
        ),
        evaluator_before=Evaluator.model_validate(evaluators[-1]) if evaluators else None,
        rejudged=rejudged(
            corpus.table("tasks", TASKS),
            tables.samples,
            tables.rewards.filter(pl.col("reward") == ANSWER),
            evaluations,
            list(evaluated.values())[:-1],
        ),
        verified=any(reward.method.name == ANSWER for reward in judged_by),
        hackable=[reward.name for reward in hackable(judged_by)],
        verifiers=[r.name for r in judged_by if r.method.name != ANSWER and kinds.get(r.name) == "V"],
        guarded=bool(campaign.guard),
        sharing=sharing(campaign),
        skill_weights=campaign.skill_weights,
    )


def _judges_alone(corpus: Artifact) -> JudgeTables:
    """The judges of an earlier round; what they judged is not looked at any more."""
    return JudgeTables(
        judge_summaries(corpus), REWARDS.to_frame(), SAMPLES.to_frame(), JUDGE_PROBE.to_frame()
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
