"""The stage refined_outputs: the candidate's answers with and without inference refinement."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.companions import Companions
from selfimp_dagster.lifecycle.cost import Meter
from selfimp_dagster.lifecycle.judges import Judges
from selfimp_dagster.lifecycle.obedience import obey_refinement
from selfimp_dagster.lifecycle.policy import Policy, read_policy
from selfimp_dagster.lifecycle.refinement.gap import fate, measured_gap
from selfimp_dagster.lifecycle.refinement.refined import (
    SOLVED,
    Refined,
    RefinementContext,
    RefinementParameters,
)
from selfimp_dagster.lifecycle.refinement.weights import OtherWeights
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.gold_probe import JudgeRecord, barred
from selfimp_dagster.lifecycle.rewards.judging import Reward, accepted, judge_samples, recorded_judgements
from selfimp_dagster.lifecycle.sampling import DurableSampler, SampleRequest, unaided
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.records import REFINEMENTS, REWARDS, SAMPLES, TASKS, derive_seed, frame
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact
from selfimp_dagster.tasks.pools import draw_pool, tasks_frame, tasks_from_frame
from selfimp_dagster.tasks.verifiers import comparable_answer

if TYPE_CHECKING:
    import numpy as np

ASSET = "refined_outputs"


def refine_outputs(bench: Workbench, key: RoundKey, overrides: Mapping[str, Any]) -> Artifact:
    """Answers unseen train tasks with the candidate, greedily and refined, and has both judged.

    The tasks come from the train pool and were not in the round's corpus, so that accepted answers
    may be trained on next round. Accepted means that the first reward of the recipe gives them 1. Where the
    gap, measured first, does not say that the method can help, the answers stay as they are.
    """
    meter = Meter()
    policy, start = read_policy(bench.store, key)
    campaign = policy.campaign
    corpus = bench.store.open(key, "generated_corpus")
    checkpoint = bench.store.open(key, "checkpoint")
    choice, obeyed = obey_refinement(campaign.recipe, policy.directives, overrides)
    method, parameters = choice.resolve("refinement")
    assert isinstance(parameters, RefinementParameters)
    draft = bench.store.draft(
        key,
        ASSET,
        parents={
            "incumbent_policy": start.data_version,
            "generated_corpus": corpus.data_version,
            "checkpoint": checkpoint.data_version,
        },
        config={
            "refinement": choice.model_dump(mode="json"),
            "overrides": dict(overrides),
            "rewards": [reward.model_dump(mode="json") for reward in campaign.recipe.rewards],
        },
    )
    candidate = checkpoint.facts["policy_hash"]
    engine = bench.engines.engine(checkpoint.folder / "model", candidate)
    sampler = DurableSampler(engine, candidate, str(key), draft.folder / ".parts", bench.progress)
    tasks = _unseen_tasks(bench, policy, corpus.table("tasks", TASKS), parameters.tasks)
    max_new_tokens = campaign.evaluation.max_new_tokens
    before = sampler.sample(
        [
            SampleRequest(task["task_id"], campaign.messages(task["prompt"]), 0)
            for task in tasks.iter_rows(named=True)
        ],
        Sampling(max_new_tokens=max_new_tokens, temperature=0),
        generation="SE",
        label="answering",
    )
    chosen = campaign.recipe.resolved_rewards
    practice, solved = _practice(corpus, tasks, chosen)
    every_task = pl.concat([tasks, practice])
    seed = derive_seed(policy.seed, ASSET)
    judges = Judges(bench, policy, draft.folder / ".judgements")
    companions = Companions(bench, checkpoint)
    silent = barred(JudgeRecord(**record) for record in corpus.facts.get("judges", []))

    def to_judge(samples: pl.DataFrame, seed: int) -> RewardContext:
        return RewardContext(
            every_task,
            samples,
            REWARDS.to_frame(),
            seed,
            judges.judge,
            silent,
            companions.find,
            campaign.messages,
        )

    def judge(samples: pl.DataFrame, reward: str | None = None) -> dict[str, float]:
        asked = _up_to(chosen, reward)
        judged = judge_samples(asked, to_judge(samples, seed)).filter(pl.col("reward") == asked[-1].name)
        return dict(judged.drop_nulls("value").select("sample_id", "value").iter_rows())

    notes: dict[str, Any] = {}
    others = OtherWeights(
        bench, policy, (checkpoint.folder / "model", candidate), draft.folder / ".parts", notes
    )

    def embed(texts: Sequence[str]) -> "np.ndarray":
        return engine.embed(texts, others.count)

    context = RefinementContext(
        tasks=tasks,
        before=before,
        practice=practice,
        solved=solved,
        sample=sampler.sample,
        sample_against=others.against,
        adapt=others.adapted,
        embed=embed,
        judge=judge,
        messages=campaign.messages,
        max_new_tokens=max_new_tokens,
        seed=seed,
        note=notes.__setitem__,
    )

    def refine(context: RefinementContext) -> tuple[pl.DataFrame, list[Refined]]:
        refined: tuple[pl.DataFrame, list[Refined]] = method.function(context, parameters)
        return refined

    gap, tried = None, SAMPLES.to_frame()
    if tasks.height and parameters.gap != "ignored":
        gap, tried = measured_gap(context, parameters, refine)
    enabled, why = fate(gap, parameters.gap) if tasks.height else (False, "there is no task to answer")
    drawn, refined = refine(context) if enabled else (SAMPLES.to_frame(), _plain(before))
    samples = pl.concat([before, drawn, tried]).unique("sample_id", keep="first", maintain_order=True)
    rewards = recorded_judgements(chosen, to_judge(samples, derive_seed(policy.seed, "refined rewards")))
    table = compare(
        tasks,
        before,
        samples,
        rewards.filter(pl.col("reward") == ANSWER),
        refined,
        accepted(rewards, chosen),
    )
    offered = table.filter("accepted")
    draft.write_table("tasks", tasks, TASKS)
    draft.write_table("samples", samples, SAMPLES)
    draft.write_table("rewards", rewards, REWARDS)
    draft.write_table("refinements", table, REFINEMENTS)
    draft.write_table("offered_tasks", tasks.join(offered, on="task_id", how="semi"), TASKS)
    draft.write_table(
        "offered_samples",
        samples.join(offered, left_on="sample_id", right_on="after_sample_id", how="semi"),
        SAMPLES,
    )
    return draft.commit(
        facts={
            "tasks": tasks.height,
            "accuracy_before": table["before_score"].mean(),
            "accuracy_after": table["after_score"].mean(),
            "accuracy_per_1000_tokens_before": _per_1000_tokens(table, "before"),
            "accuracy_per_1000_tokens_after": _per_1000_tokens(table, "after"),
            "right_to_wrong": table.filter(pl.col("flip") == "right->wrong").height,
            "wrong_to_right": table.filter(pl.col("flip") == "wrong->right").height,
            "accepted": offered.height,
            "tokens_before": table["before_tokens"].sum(),
            "tokens_after": table["after_tokens"].sum(),
            "enabled": enabled,
            "why": why,
            "gap": gap.facts() if gap else None,
            "engine": engine.describe(),
            "notes": notes,
            "obeyed": [told.model_dump() for told in obeyed],
        },
        measurements=meter.measured(sampler.tokens + judges.tokens + companions.tokens + others.tokens),
    )


def _plain(before: pl.DataFrame) -> list[Refined]:
    """The plain answers, as they are where nothing is refined."""
    return [Refined(task, id_, 0.0, 0) for task, id_ in before.select("task_id", "sample_id").iter_rows()]


def compare(
    tasks: pl.DataFrame,
    before: pl.DataFrame,
    samples: pl.DataFrame,
    rewards: pl.DataFrame,
    refined: list[Refined],
    accepted: Collection[str],
) -> pl.DataFrame:
    """One row of records.REFINEMENTS per task: both answers, both scores, the flip and its price.

    `rewards` are the verdicts of the tasks' verifiers, which measure; `accepted` the samples that the
    recipe's own reward accepts, which may be trained on.
    """
    scores = dict(rewards.select("sample_id", "value").iter_rows())
    responses = dict(samples.select("sample_id", "response").iter_rows())
    rows = []
    for task, plain, after in zip(
        tasks_from_frame(tasks), before.iter_rows(named=True), refined, strict=True
    ):
        before_score, after_score = scores[plain["sample_id"]], scores[after.sample_id]
        greedy_tokens = plain["prompt_tokens"] + plain["completion_tokens"]
        rows.append(
            {
                "task_id": task.task_id,
                "skill": task.skill,
                "before_sample_id": plain["sample_id"],
                "after_sample_id": after.sample_id,
                "before_answer": comparable_answer(task, plain["response"]),
                "after_answer": comparable_answer(task, responses[after.sample_id]),
                "before_score": before_score,
                "after_score": after_score,
                "flip": _flip(before_score, after_score),
                "agreement": after.agreement,
                "before_tokens": greedy_tokens,
                "after_tokens": greedy_tokens + after.tokens,
                "accepted": after.sample_id in accepted,
            }
        )
    return frame(rows, REFINEMENTS)


def _up_to(chosen: list[Reward], name: str | None) -> list[Reward]:
    """The rewards up to the named one, which may be made of those before it; without a name the first alone.

    Raises:
        SelfimpError: the recipe has no reward of that name.
    """
    names = [reward.name for reward in chosen]
    if name is None:
        return chosen[:1]
    if name not in names:
        raise SelfimpError(
            f"the refinement asks the reward {name}, which is not among the recipe's rewards",
            where="recipe.refinement",
            fix=f"name one of: {', '.join(names)}; or add {name} to recipe.rewards",
        )
    return chosen[: names.index(name) + 1]


def _per_1000_tokens(table: pl.DataFrame, side: str) -> float:
    """Right answers for a thousand tokens, before or after refinement."""
    return 1000 * float(table[f"{side}_score"].sum()) / max(1, int(table[f"{side}_tokens"].sum()))


def _flip(before: float, after: float) -> str:
    if before == after:
        return "none"
    return "wrong->right" if after > before else "right->wrong"


def _practice(
    corpus: Artifact, tasks: pl.DataFrame, chosen: list[Reward]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The other tasks of the round's corpus, and the unaided answers to them that are accepted (SOLVED)."""
    practice = corpus.table("tasks", TASKS).join(tasks, on="task_id", how="anti")
    right = accepted(corpus.table("rewards", REWARDS), chosen)
    solved = unaided(corpus.table("samples", SAMPLES)).filter(pl.col("sample_id").is_in(right))
    told = solved.sort("task_id", "sample_id").join(practice, on="task_id").select(list(SOLVED))
    return practice, told.unique("task_id", keep="first", maintain_order=True)


def _unseen_tasks(bench: Workbench, policy: Policy, seen: pl.DataFrame, size: int) -> pl.DataFrame:
    """Train tasks that the round has not sampled; small families may have none left to give."""
    campaign = policy.campaign
    drawn = draw_pool(
        "train",
        campaign.skills,
        size + seen.height,
        seed=derive_seed(policy.seed, "unseen"),
        evaluation_share=campaign.pools.evaluation_share,
        base_folder=bench.campaigns,
    )
    return tasks_frame(drawn.tasks, "train").join(seen, on="task_id", how="anti").sort("task_id").head(size)
