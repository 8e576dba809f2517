"""The stage eval_report: incumbent and candidate on the same items, and the verdict."""

import polars as pl

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.lifecycle.companions import Companions, parent_checkpoint
from selfimp_dagster.lifecycle.cost import Meter, StageCost
from selfimp_dagster.lifecycle.evaluation.dimensions import dimensions
from selfimp_dagster.lifecycle.evaluation.environments import arm_episodes, require_environments
from selfimp_dagster.lifecycle.evaluation.evidence import gather_evidence, gather_monitor_evidence
from selfimp_dagster.lifecycle.evaluation.fingerprint import answering, fingerprint, harness
from selfimp_dagster.lifecycle.evaluation.items import evaluation_items, judgeable, unusable_rows
from selfimp_dagster.lifecycle.evaluation.monitors.all import all_readings
from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading, readings_frame
from selfimp_dagster.lifecycle.evaluation.probe import probe_verifier
from selfimp_dagster.lifecycle.evaluation.promotion import judge, told
from selfimp_dagster.lifecycle.evaluation.report import (
    ASSET,
    MEASURED,
    EvalReport,
    LevelScore,
    Score,
    SkillScore,
    level_counts,
    read_report,
    skill_counts,
)
from selfimp_dagster.lifecycle.evaluation.rewording import reworded_answers, reworded_items
from selfimp_dagster.lifecycle.evaluation.scores import skill_scores, suite_scores
from selfimp_dagster.lifecycle.evaluation.signals import (
    hardest_drawn,
    is_sharpening,
    level_scores,
    pass_rates,
    refinement_flips,
    selected_right,
    worst_change,
)
from selfimp_dagster.lifecycle.evaluation.statistics import PastTest
from selfimp_dagster.lifecycle.evaluation.steering import halt_reason
from selfimp_dagster.lifecycle.evaluation.summary import RoundSummary, Signals
from selfimp_dagster.lifecycle.evaluation.twins import twin_answers, twin_items
from selfimp_dagster.lifecycle.evaluation.watch import (
    judged_answers,
    judged_tasks,
    rewarded,
    watched_draws,
    watched_items,
)
from selfimp_dagster.lifecycle.judges import Judges
from selfimp_dagster.lifecycle.policy import Policy, incumbent_weights, read_policy
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.gold_probe import JudgeRecord, barred
from selfimp_dagster.lifecycle.sampling import DurableSampler, SampleRequest
from selfimp_dagster.lifecycle.selection.chain import kept_sample_ids
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.records import (
    DIMENSIONS,
    EPISODES,
    EVALUATIONS,
    MONITORS,
    REWARDED,
    REWARDS,
    REWORDINGS,
    SAMPLES,
    TASKS,
    TWINS,
    WATCHED,
    derive_seed,
    frame,
)
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.verifiers import verify

_BEFORE = ("generated_corpus", "selected_subset", "checkpoint", "refined_outputs")


def evaluate_round(bench: Workbench, key: RoundKey) -> Artifact:
    """Measures incumbent and candidate on identical items and gives the verdict.

    Answers that the same weights gave to the same item under the same harness in an earlier round of
    the line are taken from there: greedy decoding would only repeat them.
    """
    meter = Meter()
    policy, start = read_policy(bench.store, key)
    campaign = policy.campaign
    require_environments(campaign)
    checkpoint = bench.store.open(key, "checkpoint")
    before = {asset: bench.store.open(key, asset, verify=False) for asset in _BEFORE}
    trained = parent_checkpoint(bench.store, policy)
    companions = Companions(bench, trained)
    draft = bench.store.draft(
        key,
        ASSET,
        parents={
            "incumbent_policy": start.data_version,
            **{asset: artifact.data_version for asset, artifact in before.items()},
            **({f"{policy.parent}/checkpoint": trained.data_version} if trained else {}),
        },
        config={
            "evaluation": campaign.evaluation.model_dump(mode="json"),
            "promotion": campaign.promotion.model_dump(mode="json"),
            "monitors": campaign.monitors.model_dump(mode="json"),
        },
    )
    drawn = evaluation_items(campaign, key.number, bench.campaigns)
    items, unjudgeable = judgeable(drawn)
    left_out = pl.concat([unusable_rows(campaign, bench.campaigns), unjudgeable])
    twins = twin_items(campaign, key.number, drawn)
    twins = twins.filter(pl.col("parent_ids").list.first().is_in(items["task_id"].implode()))
    draft.write_table("items", items, TASKS)
    answered = pl.concat(_earlier(bench.store, policy, "evaluations", EVALUATIONS))
    answered_reworded = pl.concat(_earlier(bench.store, policy, "rewordings", REWORDINGS))
    played = pl.concat(_earlier(bench.store, policy, "episodes", EPISODES))
    drawn_before = pl.concat(_earlier(bench.store, policy, "watched", WATCHED))
    arms = {
        "incumbent": (incumbent_weights(bench, policy), policy.policy_hash),
        "candidate": (checkpoint.folder / "model", checkpoint.facts["policy_hash"]),
    }
    watched = watched_items(items, campaign.monitors.watched_items)
    to_judge = judged_tasks(campaign, bench.campaigns)
    answered_tasks: dict[str, pl.DataFrame] = {}
    tables, reworded, asked_twins, watched_arms, arm_tables, tokens = [], [], [], [], [], 0
    for arm, (folder, weights) in arms.items():
        engine = bench.engines.engine(folder, weights, campaign.evaluation.dtype)
        print_ = fingerprint(harness(campaign, engine.describe()))
        sampler = DurableSampler(engine, weights, policy.round, draft.folder / ".parts", bench.progress)
        tables.append(_answers(sampler, campaign, items, answered, arm, weights, print_))
        chosen = reworded_items(items, campaign.evaluation.reworded_items)
        reworded.append(reworded_answers(sampler, campaign, chosen, tables[-1], answered_reworded))
        asked_twins.append(twin_answers(sampler, campaign, twins, tables[-1]))
        watched_arms.append(watched_draws(sampler, campaign, watched, tables[-1], drawn_before))
        answered_tasks[arm] = judged_answers(sampler, campaign, to_judge, arm)
        arm_tables.append(arm_episodes(sampler, campaign, arm, weights, engine.describe(), played))
        tokens += sampler.tokens
    rewordings = pl.concat(reworded)
    draft.write_table("rewordings", rewordings, REWORDINGS)
    answered_twins = pl.concat(asked_twins)
    draft.write_table("twins", answered_twins, TWINS)
    episodes = pl.concat(arm_tables)
    draft.write_table("episodes", episodes, EPISODES)
    evaluations = pl.concat(tables)
    draft.write_table("evaluations", evaluations, EVALUATIONS)
    draws = pl.concat(watched_arms)
    draft.write_table("watched", draws, WATCHED)
    judges = Judges(bench, policy, draft.folder / ".judgements")
    corpus = before["generated_corpus"]
    given = rewarded(
        campaign.recipe.resolved_rewards,
        answered_tasks,
        print_,
        RewardContext(
            to_judge,
            SAMPLES.to_frame(),
            REWARDS.to_frame(),
            derive_seed(policy.seed, "judged tasks"),
            judges.judge,
            barred(JudgeRecord(**record) for record in corpus.facts.get("judges", ())),
            companion=companions.find,
            messages=campaign.messages,
        ),
    )
    draft.write_table("rewarded", given, REWARDED)
    tokens += judges.tokens + companions.tokens
    probe = probe_verifier(tasks_from_frame(drawn.unique("task_id")))
    monitored = gather_monitor_evidence(
        bench.store, policy, drawn, evaluations, draws, given, answered_twins, probe
    )
    readings = all_readings(monitored, campaign.monitors, campaign.continuation.rounds)
    draft.write_table("monitors", readings_frame(readings), MONITORS)
    verdict = judge(
        evaluations,
        campaign.promotion,
        campaign.skill_weights,
        campaign.continuation,
        key.number,
        _tested(bench.store, policy),
        monitors=readings,
    )
    evidence = gather_evidence(
        bench.store,
        policy,
        items,
        evaluations,
        rewordings,
        answered_twins,
        episodes,
        verdict,
        probe,
        embed={
            arm: bench.engines.engine(folder, weights, campaign.evaluation.dtype).embed
            for arm, (folder, weights) in arms.items()
        },
    )
    measured = dimensions(evidence)
    draft.write_table("dimensions", measured, DIMENSIONS)
    scores = tuple(
        Score(suite=suite, arm=arm, accuracy=e.value, low=e.low, high=e.high, n=e.n)
        for suite, by_arm in suite_scores(evaluations, campaign.skill_weights).items()
        for arm, e in by_arm.items()
    )
    skills = tuple(SkillScore(**row) for row in skill_scores(evaluations).iter_rows(named=True))
    levels = tuple(LevelScore(**row) for row in level_scores(evaluations, items).iter_rows(named=True))
    costs = {asset: StageCost(**artifact.measurements) for asset, artifact in before.items()}
    costs[ASSET] = meter.cost(tokens)
    in_force = "candidate" if verdict.promoted else "incumbent"
    engine = bench.engines.engine(*arms["candidate"], campaign.evaluation.dtype)
    measured_by = harness(campaign, engine.describe())
    answers = corpus.table("rewards", REWARDS).filter(pl.col("reward") == ANSWER)
    kept, samples = kept_sample_ids(evidence.selection), corpus.table("samples", SAMPLES)
    of_round = samples.filter((pl.col("round") == str(key)) | pl.col("round").is_null())
    summary = RoundSummary(
        round=str(key),
        parent=policy.parent,
        promoted=verdict.promoted,
        accuracy={s.suite: s.accuracy for s in scores if s.arm == in_force},
        per_skill={s.skill: s.accuracy for s in skills if (s.arm, s.suite) == (in_force, "anchor")},
        alarms=verdict.alarms,
        tokens=sum(cost.tokens for cost in costs.values()),
        seconds=sum(cost.seconds for cost in costs.values()),
        signals=Signals(
            skills=skill_counts(skills, in_force),
            levels=level_counts(levels, in_force),
            attempted=hardest_drawn(corpus.table("tasks", TASKS), of_round),
            pass_rates=pass_rates(evidence.draws["incumbent"]),
            selected=selected_right(kept, samples, answers),
            refined=refinement_flips(before["refined_outputs"].facts),
            skill_change=worst_change(measured, "worst_skill_change"),
            guard_change=worst_change(measured, "worst_guard_change"),
            sharpening=is_sharpening(measured),
            gain=verdict.gain,
            strategy=policy.strategy,
        ),
    )
    quarantined = _quarantined(readings)
    halt = quarantined or halt_reason([*_summaries(bench.store, policy), summary], campaign.steering)
    report = EvalReport(
        round=str(key),
        fingerprint=fingerprint(measured_by),
        harness=measured_by,
        scores=scores,
        skills=skills,
        levels=levels,
        verdict=verdict,
        summary=summary.model_copy(update={"halt": halt}),
        costs=costs,
    )
    draft.write_json("report", report.model_dump(mode="json", exclude=MEASURED))
    return draft.commit(
        facts={
            "promoted": verdict.promoted,
            "halt": halt,
            "quarantined": quarantined is not None,
            "evaluator": monitored.evaluator.model_dump(mode="json"),
            "fingerprint": report.fingerprint,
            "policy_hash": arms[in_force][1],
            "left_out": left_out.to_dicts(),
            "twins": dict(twins.group_by("source").len().sort("source").iter_rows()),
        },
        measurements={
            **costs[ASSET].model_dump(),
            "stages": {stage: cost.model_dump() for stage, cost in costs.items()},
        },
    )


def _answers(
    sampler: DurableSampler,
    campaign: Campaign,
    items: pl.DataFrame,
    answered: pl.DataFrame,
    arm: str,
    policy_hash: str,
    print_: str,
) -> pl.DataFrame:
    """The rows of one arm."""
    reusable = answered.filter(
        (pl.col("policy_hash") == policy_hash)
        & (pl.col("fingerprint") == print_)
        & pl.col("item_id").is_in(items["task_id"].implode())
    ).unique("item_id", keep="first", maintain_order=True)
    known = {row["item_id"]: row for row in reusable.iter_rows(named=True)}
    asked = [item for item in items.iter_rows(named=True) if item["task_id"] not in known]
    answers = sampler.sample(
        [SampleRequest(item["task_id"], campaign.messages(item["prompt"]), 0) for item in asked],
        answering(campaign),
        generation="SE",
        label=f"evaluating {arm}",
    )
    drawn = {row["task_id"]: row for row in answers.iter_rows(named=True)}
    rows = []
    for pool, task in zip(items["pool"], tasks_from_frame(items), strict=True):
        answer = known.get(task.task_id) or drawn[task.task_id]
        judgement = verify(task, answer["response"])
        flags = {
            "empty": not answer["response"].strip(),
            "truncated": answer.get("finish_reason") == "length" or "truncated" in answer.get("flags", ()),
            "verifier_error": judgement.error,
        }
        rows.append(
            {
                "item_id": task.task_id,
                "suite": pool,
                "skill": task.skill,
                "arm": arm,
                "policy_hash": policy_hash,
                "response": answer["response"],
                "score": judgement.value,
                "flags": [flag for flag, raised in flags.items() if raised],
                "evidence": judgement.evidence,
                "prompt_tokens": answer["prompt_tokens"],
                "completion_tokens": answer["completion_tokens"],
                "fingerprint": print_,
                "reused": task.task_id in known,
            }
        )
    return frame(rows, EVALUATIONS)


def _earlier(store: ArtifactStore, policy: Policy, table: str, schema: pl.Schema) -> list[pl.DataFrame]:
    """A table of each earlier report of the line, an empty one first.

    Reports of a version that did not have it are left out.
    """
    reports = (store.open(RoundKey.parse(ancestor), ASSET) for ancestor in policy.ancestors)
    return [
        schema.to_frame(),
        *(report.table(table, schema) for report in reports if report.has_table(table)),
    ]


def _quarantined(readings: tuple[Reading, ...]) -> str | None:
    """Why nothing of the round may be used before a person has looked at it; None if it may."""
    found = [told(reading) for reading in readings if reading.is_alarm and reading.follows == "quarantine"]
    return " ".join(found) or None


def _summaries(store: ArtifactStore, policy: Policy) -> list[RoundSummary]:
    """What the rounds before this one in its line reported."""
    return [read_report(store, RoundKey.parse(ancestor)).summary for ancestor in policy.ancestors]


def _tested(store: ArtifactStore, policy: Policy) -> list[PastTest]:
    """The rounds before this one in its line, as their own tests left them."""
    ancestors = [RoundKey.parse(ancestor) for ancestor in policy.ancestors]
    verdicts = [(key, read_report(store, key).verdict) for key in ancestors]
    return [PastTest(key.number, verdict.alpha, verdict.promoted) for key, verdict in verdicts]
