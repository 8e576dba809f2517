"""A large store without a model: rounds whose tables, manifests and reports are made up, true to the schemas.

Every artifact goes through the real store and every score through the real statistics, so whatever reads a
real store reads this one. With the default size a round has about 10,800 rows, as a campaign with 460 train
tasks, four samples each and 300 evaluation items would write.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from selfimp_dagster.campaign import parse_campaign
from selfimp_dagster.lifecycle.cost import StageCost
from selfimp_dagster.lifecycle.evaluation.promotion import Verdict
from selfimp_dagster.lifecycle.evaluation.report import MEASURED, EvalReport, Score, SkillScore
from selfimp_dagster.lifecycle.evaluation.scores import skill_scores, suite_scores
from selfimp_dagster.lifecycle.evaluation.summary import RoundSummary
from selfimp_dagster.lifecycle.policy import Policy
from selfimp_dagster.lifecycle.selection.chain import funnel
from selfimp_dagster.lifecycle.selection.stage import SUBSET
from selfimp_dagster.records import (
    EVALUATIONS,
    MESSAGES,
    REFINEMENTS,
    REWARDS,
    SAMPLES,
    SELECTION,
    TASKS,
    TRAINING,
    TRAINING_CURVE,
)
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

CAMPAIGN = "many-rounds"
TASKS_PER_ROUND = 460
SAMPLES_PER_TASK = 4
_SKILLS = ("sums", "products")
_ITEMS = {"anchor": 150, "fresh": 100, "guard": 50}
_REFINED_TASKS, _VOTES = 16, 5
_SAMPLING = json.dumps({"max_new_tokens": 16, "temperature": 1.0, "top_k": 0, "top_p": 1.0})
_DROPPED = (  # step, share of what reaches it that it drops
    ("verified", 0.55),
    ("decontamination", 0.005),
    ("exact_duplicates", 0.3),
    ("near_duplicates", 0.08),
    ("cap_per_task", 0.25),
)


@dataclass
class _Past:
    """What later rounds build on."""

    ancestors: list[str] = field(default_factory=list)
    weights_round: str | None = None
    weights: str = f"{0:064x}"
    parents: dict[str, str] = field(default_factory=dict)
    kept: list[pl.DataFrame] = field(default_factory=list)  # sample_id, origin_round
    offered_tasks: pl.DataFrame = field(default_factory=TASKS.to_frame)
    offered_samples: pl.DataFrame = field(default_factory=SAMPLES.to_frame)


def make_store(folder: Path, rounds: int, tasks: int = TASKS_PER_ROUND) -> Iterator[int]:
    """Writes the rounds of one campaign, a line in which three of ten candidates are promoted.

    Yields the number of rows of each round when it is written.
    """
    store, past = ArtifactStore(folder), _Past()
    chosen = np.random.default_rng(0)
    fixed = {pool: _tasks(chosen, _ITEMS[pool], pool) for pool in ("anchor", "guard")}
    for number in range(rounds):
        yield _write_round(store, RoundKey(CAMPAIGN, number), past, fixed, chosen, rounds, tasks)


def _write_round(
    store: ArtifactStore,
    key: RoundKey,
    past: _Past,
    fixed: dict[str, pl.DataFrame],
    chosen: np.random.Generator,
    rounds: int,
    size: int,
) -> int:
    policy = _policy(key, past, rounds)
    draft = store.draft(key, "incumbent_policy", parents=past.parents, config={})
    draft.write_json("policy", policy.model_dump(mode="json"))
    facts = {"parent": policy.parent, "weights_round": policy.weights_round, "task_files": {}}
    start = draft.commit(facts={"policy_hash": policy.policy_hash, **facts}, measurements={})

    tasks = pl.concat([_tasks(chosen, size, "train"), past.offered_tasks])
    drawn = _samples(chosen, tasks.head(size), SAMPLES_PER_TASK, str(key), policy.policy_hash)
    samples = pl.concat([drawn, past.offered_samples])
    rewards = _rewards(chosen, samples)
    draft = store.draft(key, "generated_corpus", parents={"incumbent_policy": start.data_version}, config={})
    draft.write_table("tasks", tasks, TASKS)
    draft.write_table("samples", samples, SAMPLES)
    draft.write_table("rewards", rewards, REWARDS)
    counts = {"tasks": tasks.height, "samples": samples.height, "helped_samples": 0}
    corpus = draft.commit(
        facts={**counts, "pass_rate": rewards["value"].mean(), "engine": {"name": "none"}},
        measurements=_cost(samples),
    )

    fresh = _tasks(chosen, _ITEMS["fresh"], "fresh")
    items = pl.concat([fixed["anchor"], fresh, fixed["guard"]])
    selection = _selection(chosen, samples, past, items)
    kept = selection.group_by("sample_id", maintain_order=True).agg(pl.col("kept").all()).filter("kept")
    subset = (
        samples.join(kept.select("sample_id"), on="sample_id", how="semi")
        .join(tasks.select("task_id", "skill", "prompt"), on="task_id")
        .with_columns(round=pl.lit(str(key)))
        .select(list(SUBSET))
    )
    before = {"incumbent_policy": start.data_version, "generated_corpus": corpus.data_version}
    draft = store.draft(key, "selected_subset", parents=before, config={})
    draft.write_table("selection", selection, SELECTION)
    draft.write_table("subset", subset, SUBSET)
    steps = funnel(selection).to_dicts()
    selected = draft.commit(
        facts={"rows": samples.height, "kept": subset.height, "funnel": steps},
        measurements={"seconds": 0.5, "tokens": 0},
    )

    training = _training(chosen, subset, key, past)
    draft = store.draft(
        key,
        "checkpoint",
        parents={"incumbent_policy": start.data_version, "selected_subset": selected.data_version},
        config={},
    )
    draft.write_table("training", training, TRAINING)
    curve = _curve(30)
    draft.write_table("training_curve", curve, TRAINING_CURVE)
    candidate = f"{int(chosen.integers(2**63)):064x}"
    checkpoint = draft.commit(
        facts={
            "policy_hash": candidate,
            "parent_policy_hash": policy.policy_hash,
            "rows": training.height,
            "rows_of_this_round": subset.height,
        },
        measurements={"seconds": 60.0, "tokens": 20 * training.height},
    )

    unseen = _tasks(chosen, _REFINED_TASKS, "train")
    votes = _samples(chosen, unseen, _VOTES + 1, str(key), candidate)
    table = _refinements(chosen, unseen, votes)
    accepted = table.filter("accepted")
    before |= {"checkpoint": checkpoint.data_version}
    draft = store.draft(key, "refined_outputs", parents=before, config={})
    past.offered_tasks = unseen.join(accepted, on="task_id", how="semi")
    past.offered_samples = votes.join(
        accepted, left_on="sample_id", right_on="after_sample_id", how="semi"
    ).select(list(SAMPLES))
    draft.write_table("tasks", unseen, TASKS)
    draft.write_table("samples", votes, SAMPLES)
    draft.write_table("rewards", _rewards(chosen, votes), REWARDS)
    draft.write_table("refinements", table, REFINEMENTS)
    draft.write_table("offered_tasks", past.offered_tasks, TASKS)
    draft.write_table("offered_samples", past.offered_samples, SAMPLES)
    refined = draft.commit(
        facts={"tasks": unseen.height, "accepted": accepted.height}, measurements=_cost(votes)
    )

    promoted = bool(chosen.random() < 0.3)
    evaluations = _evaluations(chosen, items, policy.policy_hash, candidate)
    costs = {
        artifact.manifest.asset: StageCost(**artifact.measurements)
        for artifact in (corpus, selected, checkpoint, refined)
    }
    report = _report(key, policy, evaluations, promoted, costs)
    draft = store.draft(
        key,
        "eval_report",
        parents={
            **before,
            "selected_subset": selected.data_version,
            "refined_outputs": refined.data_version,
        },
        config={},
    )
    draft.write_table("items", items, TASKS)
    draft.write_table("evaluations", evaluations, EVALUATIONS)
    draft.write_json("report", report.model_dump(mode="json", exclude=MEASURED))
    in_force = candidate if promoted else policy.policy_hash
    measured = draft.commit(
        facts={"promoted": promoted, "fingerprint": report.fingerprint, "policy_hash": in_force},
        measurements={
            **report.costs["eval_report"].model_dump(),
            "stages": {stage: cost.model_dump() for stage, cost in report.costs.items()},
        },
    )

    past.ancestors.append(str(key))
    past.parents = {f"{key}/eval_report": measured.data_version}
    if promoted:
        past.weights_round, past.weights = str(key), candidate
        past.parents[f"{key}/checkpoint"] = checkpoint.data_version
    past.kept.append(subset.select("sample_id", "task_id", "skill", origin_round=pl.lit(str(key))))
    written = (tasks, samples, rewards, selection, subset, training, curve, unseen, votes, votes, table)
    return sum(frame.height for frame in (*written, items, evaluations))


def _policy(key: RoundKey, past: _Past, rounds: int) -> Policy:
    family = {"suite": "reasoning_gym", "family": "chain_sum", "parameters": {}}
    campaign = parse_campaign(
        {
            "name": key.campaign,
            "skills": dict.fromkeys(_SKILLS, family),
            "pools": {"train": TASKS_PER_ROUND, "anchor": 10**6, "fresh": 0, "guard": 0},
            "recipe": {
                "acquisition": {"method": "policy_sampling"},
                "selection": [{"method": step} for step, _ in _DROPPED],
                "optimization": {"method": "sft", "replay": 0.2},
                "refinement": {"method": "self_consistency"},
            },
            "continuation": {"rounds": rounds, "patience": rounds},
        },
        where="benchmark",
    )
    return Policy(
        round=str(key),
        parent=past.ancestors[-1] if past.ancestors else None,
        ancestors=tuple(past.ancestors),
        weights_round=past.weights_round,
        policy_hash=past.weights,
        seed=key.number,
        directives=(),
        tokens_left=None,
        seconds_left=None,
        campaign=campaign,
    )


def _ids(chosen: np.random.Generator, count: int) -> list[str]:
    return [f"{number:016x}" for number in chosen.integers(2**64, size=count, dtype=np.uint64).tolist()]


def _tasks(chosen: np.random.Generator, count: int, pool: str) -> pl.DataFrame:
    one, other = (chosen.integers(10, 1000, size=count) for _ in range(2))
    skill = np.where(chosen.random(count) < 0.5, *_SKILLS)
    return pl.DataFrame(
        {
            "task_id": _ids(chosen, count),
            "pool": pl.repeat(pool, count, eager=True),
            "skill": pl.Series(skill.tolist(), dtype=pl.String),
            "suite": pl.repeat("reasoning_gym:chain_sum", count, eager=True),
            "difficulty": (one + other) / 2000,
            "prompt": [f"State the final answer to {a} and {b}." for a, b in zip(one, other, strict=True)],
            "chat": pl.Series([None] * count, dtype=TASKS["chat"]),
            "answer": (one + other).astype(str).tolist(),
            "verifier": pl.repeat("exact", count, eager=True),
            "entry": pl.repeat("{}", count, eager=True),
            "source": pl.repeat("generator", count, eager=True),
            "parent_ids": pl.Series([[]] * count, dtype=pl.List(pl.String)),
            "generation_depth": pl.repeat(0, count, dtype=pl.Int64, eager=True),
        },
        schema=TASKS,
    )


def _samples(
    chosen: np.random.Generator, tasks: pl.DataFrame, each: int, round_: str, policy_hash: str
) -> pl.DataFrame:
    """`each` samples of every task, in the order of the tasks; a tenth of them was helped."""
    count = tasks.height * each
    place = np.repeat(np.arange(tasks.height), each)
    logprob = -chosen.exponential(2.0, size=count)
    tokens = chosen.integers(2, 16, size=count)
    answered = tasks[place]
    return answered.select(
        pl.Series("sample_id", _ids(chosen, count)),
        "task_id",
        pl.lit(round_).alias("round"),
        pl.lit(policy_hash).alias("policy_hash"),
        pl.Series("generation", np.where(chosen.random(count) < 0.1, "R", "SE").tolist()),
        pl.concat_list(pl.struct(role=pl.lit("user"), content="prompt")).cast(MESSAGES).alias("messages"),
        pl.Series("response", chosen.integers(10, 2000, size=count).astype(str).tolist()),
        pl.lit(40, pl.Int64).alias("prompt_tokens"),
        pl.Series("completion_tokens", tokens),
        pl.Series("sum_logprob", logprob),
        pl.Series("mean_logprob", logprob / tokens),
        pl.lit("stop").alias("finish_reason"),
        pl.lit(_SAMPLING).alias("sampling"),
        pl.Series("seed", chosen.integers(2**63, size=count)),
        pl.lit(None, pl.String).alias("parent_sample_id"),
    )


def _rewards(chosen: np.random.Generator, samples: pl.DataFrame) -> pl.DataFrame:
    right = chosen.random(samples.height) >= _DROPPED[0][1]
    return samples.select(
        "sample_id",
        pl.lit("answer").alias("reward"),
        pl.lit("V").alias("kind"),
        pl.Series("value", right.astype(float)),
        pl.lit(1.0).alias("confidence"),
        pl.format("answered {}", "response").alias("evidence"),
    )


def _selection(
    chosen: np.random.Generator, samples: pl.DataFrame, past: _Past, items: pl.DataFrame
) -> pl.DataFrame:
    """The chain of `_DROPPED`; half of the duplicates repeat a row of the latest rounds."""
    alive, steps = samples.select("sample_id", "task_id"), []
    earlier = pl.concat(past.kept[-20:])["sample_id"] if past.kept else samples["sample_id"]
    for position, (step, share) in enumerate(_DROPPED):
        count = alive.height
        kept = chosen.random(count) >= share
        own = alive["sample_id"].sample(count, with_replacement=True, seed=position)
        other = earlier.sample(count, with_replacement=True, seed=position)
        repeated = np.where(chosen.random(count) < 0.5, own.to_numpy(), other.to_numpy()).tolist()
        item = items["task_id"].sample(count, with_replacement=True, seed=position)
        evidence = pl.lit("{}")
        if step == "decontamination":
            evidence = pl.struct(item_id=pl.Series(item)).struct.json_encode()
        elif step.endswith("duplicates"):
            evidence = pl.struct(duplicate_of=pl.Series(repeated), round=pl.lit("")).struct.json_encode()
        steps.append(
            alive.select(
                "sample_id",
                "task_id",
                pl.lit(position, pl.Int64).alias("position"),
                pl.lit(step).alias("step"),
                pl.lit(0.0).alias("score"),
                pl.Series("kept", kept),
                pl.when(pl.Series(kept)).then(pl.lit("passed")).otherwise(pl.lit("failed")).alias("reason"),
                pl.when(pl.Series(kept)).then(pl.lit("{}")).otherwise(evidence).alias("evidence"),
            )
        )
        alive = alive.filter(pl.Series(kept))
    return pl.concat(steps).sort("task_id", "sample_id", "position").select(list(SELECTION))


def _training(chosen: np.random.Generator, subset: pl.DataFrame, key: RoundKey, past: _Past) -> pl.DataFrame:
    """This round's rows and a fifth as many of earlier rounds."""
    rows = [subset.select("sample_id", "task_id", "skill", origin_round=pl.lit(str(key)))]
    if past.kept:
        picks = chosen.integers(len(past.kept), size=10)
        drawn = [
            past.kept[pick].sample(min(subset.height // 50, past.kept[pick].height), seed=key.number)
            for pick in picks
        ]
        rows = [*drawn, *rows]
    return (
        pl.concat(rows)
        .unique("sample_id", keep="first", maintain_order=True)
        .with_columns(
            pl.lit("sft").alias("update"),
            pl.lit("imitated").alias("role"),
            pl.lit(None, pl.String).alias("pair_id"),
            pl.lit(1.0).alias("weight"),
        )
        .select(list(TRAINING))
    )


def _curve(steps: int) -> pl.DataFrame:
    step = pl.int_range(steps, eager=True)
    return pl.DataFrame(
        {
            "step": step,
            "update": pl.repeat("sft", steps, eager=True),
            "epoch": step / steps,
            "loss": 1 / (step + 1),
            "learning_rate": pl.repeat(1e-5, steps, eager=True),
            "grad_norm": pl.repeat(1.0, steps, eager=True),
        },
        schema=TRAINING_CURVE,
    )


def _refinements(chosen: np.random.Generator, tasks: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
    each = votes.height // tasks.height
    before, after = votes.gather_every(each), votes.gather_every(each, offset=1)
    scores = [(chosen.random(tasks.height) < 0.5).astype(float) for _ in range(2)]
    flips = np.where(
        scores[0] == scores[1], "none", np.where(scores[1] > scores[0], "wrong->right", "right->wrong")
    )
    return tasks.select(
        "task_id",
        "skill",
        before["sample_id"].alias("before_sample_id"),
        after["sample_id"].alias("after_sample_id"),
        before["response"].alias("before_answer"),
        after["response"].alias("after_answer"),
        pl.Series("before_score", scores[0]),
        pl.Series("after_score", scores[1]),
        pl.Series("flip", flips.tolist()),
        pl.lit(0.6).alias("agreement"),
        pl.lit(50, pl.Int64).alias("before_tokens"),
        pl.lit(300, pl.Int64).alias("after_tokens"),
        pl.Series("accepted", scores[1] == 1.0),
    )


def _evaluations(
    chosen: np.random.Generator, items: pl.DataFrame, incumbent: str, candidate: str
) -> pl.DataFrame:
    return pl.concat(
        items.select(
            pl.col("task_id").alias("item_id"),
            pl.col("pool").alias("suite"),
            "skill",
            pl.lit(arm).alias("arm"),
            pl.lit(policy_hash).alias("policy_hash"),
            pl.col("answer").alias("response"),
            pl.Series("score", (chosen.random(items.height) < 0.6).astype(float)),
            pl.lit([], pl.List(pl.String)).alias("flags"),
            pl.lit("").alias("evidence"),
            pl.lit(40, pl.Int64).alias("prompt_tokens"),
            pl.lit(4, pl.Int64).alias("completion_tokens"),
            pl.lit("0" * 16).alias("fingerprint"),
            pl.lit(False).alias("reused"),
        )
        for arm, policy_hash in (("incumbent", incumbent), ("candidate", candidate))
    )


def _report(
    key: RoundKey,
    policy: Policy,
    evaluations: pl.DataFrame,
    promoted: bool,
    costs: dict[str, StageCost],
) -> EvalReport:
    """Real scores under a made-up verdict."""
    weights = policy.campaign.skill_weights
    scores = tuple(
        Score(suite=suite, arm=arm, accuracy=e.value, low=e.low, high=e.high, n=e.n)
        for suite, by_arm in suite_scores(evaluations, weights).items()
        for arm, e in by_arm.items()
    )
    verdict = Verdict(
        promoted=promoted,
        test="exact McNemar",
        p_value=0.001 if promoted else 0.5,
        alpha=0.01,
        wins=60 if promoted else 40,
        losses=40,
        ties=150,
        n=250,
        gain=0.08 if promoted else 0.0,
        gain_low=0.02,
        gain_high=0.14,
        reasons=("Promoted: 60 items won, 40 lost." if promoted else "Rejected: 40 items won, 40 lost.",),
        guards=(),
        alarms=(),
    )
    costs = {**costs, "eval_report": StageCost(seconds=30.0, tokens=26_400)}
    return EvalReport(
        round=str(key),
        fingerprint="0" * 16,
        harness={"engine": "none"},
        scores=scores,
        skills=tuple(SkillScore(**row) for row in skill_scores(evaluations).iter_rows(named=True)),
        verdict=verdict,
        summary=RoundSummary(
            round=str(key),
            parent=policy.parent,
            promoted=promoted,
            accuracy={s.suite: s.accuracy for s in scores if s.arm == "candidate"},
            per_skill=dict.fromkeys(_SKILLS, 0.6),
            tokens=sum(cost.tokens for cost in costs.values()),
            seconds=sum(cost.seconds for cost in costs.values()),
        ),
        costs=costs,
    )


def _cost(samples: pl.DataFrame) -> dict[str, float]:
    return {"seconds": 0.01 * samples.height, "tokens": 50 * samples.height}
