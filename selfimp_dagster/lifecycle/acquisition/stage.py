"""The stage generated_corpus: tasks, samples and rewards of a round."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.acquisition.admission import admit
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus, Draw
from selfimp_dagster.lifecycle.acquisition.proposals import Rules
from selfimp_dagster.lifecycle.companions import Companions, parent_checkpoint
from selfimp_dagster.lifecycle.cost import Meter
from selfimp_dagster.lifecycle.curriculum.lessons import Lessons
from selfimp_dagster.lifecycle.curriculum.stage import STATE, plan_lessons
from selfimp_dagster.lifecycle.evaluation.environments import evaluation_openings
from selfimp_dagster.lifecycle.evaluation.items import items_until
from selfimp_dagster.lifecycle.evaluation.report import is_quarantined
from selfimp_dagster.lifecycle.evaluation.signals import hardest_drawn
from selfimp_dagster.lifecycle.judges import Judges
from selfimp_dagster.lifecycle.obedience import Mix, Obeyed, obey_acquisition
from selfimp_dagster.lifecycle.policy import Policy, incumbent_weights, read_policy
from selfimp_dagster.lifecycle.rewards.answer import ANSWER, answer_rewards
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.gold_probe import (
    JudgeRecord,
    barred,
    judge_records,
    judges_of,
    probe_judges,
)
from selfimp_dagster.lifecycle.rewards.judging import recorded_judgements, visible
from selfimp_dagster.lifecycle.sampling import DurableSampler, unaided
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.records import (
    DOCUMENTS,
    JUDGE_PROBE,
    PROPOSALS,
    REWARDS,
    SAMPLES,
    TASKS,
    derive_seed,
)
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore
from selfimp_dagster.tasks.pools import draw_pool, pool_seed, prompt_key, side_of, tasks_frame
from selfimp_dagster.tasks.suites import Task

ASSET = "generated_corpus"


def generate_corpus(bench: Workbench, key: RoundKey, overrides: Mapping[str, Any]) -> Artifact:
    """Runs the recipe's acquisition method on the incumbent and has every sample judged.

    `overrides` replace parameters of the method for this run; `tasks` replaces the size of the
    train pool.
    """
    meter = Meter()
    policy, start = read_policy(bench.store, key)
    campaign = policy.campaign
    parameters_given = dict(overrides)
    size = parameters_given.pop("tasks", campaign.pools.train_tasks(len(policy.ancestors)))
    choice = campaign.recipe.acquisition.with_parameters(parameters_given)
    method, parameters = choice.resolve("acquisition")
    curriculum = campaign.recipe.curriculum
    levels = {skill: source.levels for skill, source in campaign.skills.items()}
    mix, obeyed = obey_acquisition(Mix(campaign.skill_weights, {}), policy.directives)
    directed = {
        skill: [level for level in levels[skill] if level <= hardest]
        for skill, hardest in mix.hardest.items()
    }

    def draw(
        size: int,
        weights: Mapping[str, float],
        levels: Mapping[str, Collection[float]] | None = None,
        number: int = key.number,
    ) -> pl.DataFrame:
        drawn = draw_pool(
            "train",
            campaign.skills,
            size,
            seed=pool_seed("train", campaign.seed, number),
            evaluation_share=campaign.pools.evaluation_share,
            base_folder=bench.campaigns,
            skill_weights=weights,
            levels=directed if levels is None else levels,
        )
        return tasks_frame(drawn.tasks, "train")

    planned = plan_lessons(
        bench.store,
        policy,
        draw,
        lambda wanted: draw(wanted, campaign.skill_weights, number=0),
        mix.weights,
    )
    before = parent_checkpoint(bench.store, policy)
    companions = Companions(bench, before)
    written, written_in = _written(bench.store, policy)
    draft = bench.store.draft(
        key,
        ASSET,
        parents={
            "incumbent_policy": start.data_version,
            **(planned[1] if planned else {}),
            **({f"{policy.parent}/checkpoint": before.data_version} if before else {}),
            **written_in,
        },
        config={
            "acquisition": choice.model_dump(mode="json"),
            "rewards": [reward.model_dump(mode="json") for reward in campaign.recipe.rewards],
            "tasks": size,
            "synthetic": campaign.recipe.synthetic.model_dump(mode="json"),
            **({"curriculum": curriculum.model_dump(mode="json")} if curriculum else {}),
        },
    )
    engine = bench.engines.engine(incumbent_weights(bench, policy), policy.policy_hash)
    sampler = DurableSampler(engine, policy.policy_hash, str(key), draft.folder / ".parts", bench.progress)
    judges = Judges(bench, policy, draft.folder / ".judgements")
    context = AcquisitionContext(
        draw=_by_lessons(planned[0]) if planned else draw,
        levels=levels,
        directed=directed,
        updates=_updates(bench.store, policy),
        sample=sampler.sample,
        messages=campaign.messages,
        judge=answer_rewards,
        offered=_offered(bench.store, policy),
        skill_weights=planned[0].skill_weights if planned else mix.weights,
        size=size,
        seed=policy.seed,
        written=written,
        rules=Rules(
            reserved=_reserved(campaign, key.number, bench.campaigns),
            most_depth=campaign.recipe.synthetic.most_depth,
        ),
        judges=judges.judge,
        embed=engine.embed,
        logprobs=engine.logprobs,
        folder=bench.campaigns,
    )
    corpus = admit(method.function(context, parameters), campaign.recipe.synthetic)
    chosen = campaign.recipe.resolved_rewards
    probed = _probe_tasks(policy, bench.campaigns)
    probe = probe_judges(chosen, probed, judges.judge, derive_seed(policy.seed, "judge probe"))
    records = judge_records(chosen, probe, judges.judge)
    rewards = recorded_judgements(
        chosen,
        RewardContext(
            tasks=corpus.tasks,
            samples=corpus.samples,
            rewards=REWARDS.to_frame(),
            seed=derive_seed(policy.seed, "rewards"),
            judge=judges.judge,
            barred=barred(records),
            companion=companions.find,
            messages=campaign.messages,
            proposals=corpus.proposals,
        ),
    )
    if not corpus.samples.is_empty():
        _require_reward(visible(rewards, chosen), records, key)
    alone = unaided(corpus.samples)
    answers = rewards.filter(pl.col("reward") == ANSWER)
    draft.write_table("tasks", corpus.tasks, TASKS)
    draft.write_table("samples", corpus.samples, SAMPLES)
    draft.write_table("rewards", rewards, REWARDS)
    draft.write_table("judge_probe", probe, JUDGE_PROBE)
    draft.write_table("proposals", corpus.proposals, PROPOSALS)
    draft.write_table("drafts", corpus.drafts, SAMPLES)
    draft.write_table("documents", corpus.documents, DOCUMENTS)
    if planned and curriculum:
        draft.write_json(STATE, {curriculum.method: planned[0].state.model_dump(mode="json")})
    return draft.commit(
        facts={
            "tasks": corpus.tasks.height,
            "samples": corpus.samples.height,
            "helped_samples": corpus.samples.height - alone.height,
            "written": corpus.tasks.filter(pl.col("generation_depth") > 0).height,
            "deepest": corpus.tasks["generation_depth"].max(),
            "proposals": fates_of(corpus.proposals),
            "pass_rate": alone.join(answers, on="sample_id")["value"].mean(),
            "judges": [record.model_dump(mode="json") for record in records],
            "engine": engine.describe(),
            **({"skill_weights": dict(planned[0].skill_weights)} if planned else {}),
            "obeyed": [told.model_dump() for told in _as_drawn(obeyed, mix, corpus, str(key), choice.method)],
        },
        measurements=meter.measured(sampler.tokens + judges.tokens + companions.tokens),
    )


def fates_of(proposals: pl.DataFrame) -> dict[str, int]:
    """How many proposals (records.PROPOSALS) were accepted, and how many rejected for each reason."""
    counts = Counter(reason or "accepted" for reason in proposals["reason"])
    return dict(sorted(counts.items()))


def _written(store: ArtifactStore, policy: Policy) -> tuple[pl.DataFrame, dict[str, str]]:
    """The tasks that models wrote in the ancestor rounds, each once, and the artifacts that they stand in."""
    tables, found_in = [TASKS.to_frame()], {}
    for ancestor in policy.ancestors:
        key = RoundKey.parse(ancestor)
        if store.has(key, ASSET) and store.open(key, ASSET, verify=False).facts.get("written"):
            corpus = store.open(key, ASSET)
            tables.append(corpus.table("tasks", TASKS).filter(pl.col("generation_depth") > 0))
            found_in[f"{ancestor}/{ASSET}"] = corpus.data_version
    return pl.concat(tables).unique("task_id", keep="first", maintain_order=True), found_in


def _reserved(campaign: Campaign, number: int, base_folder: Path) -> Callable[[str], str | None]:
    """Why evaluation may ask a prompt: it does so in this or an earlier round, or may in a later one."""

    @cache
    def asked() -> frozenset[str]:
        items = items_until(campaign, number, base_folder)["prompt"]
        return frozenset(map(prompt_key, (*items, *evaluation_openings(campaign))))

    def reserved(prompt: str) -> str | None:
        if prompt_key(prompt) in asked():
            return "an evaluation item"
        side = side_of(prompt, campaign.pools.evaluation_share)
        return None if side == "train" else f"its text belongs to the pool {side}"

    return reserved


def _probe_tasks(policy: Policy, base_folder: Path) -> list[Task]:
    """Train tasks for the gold probe of the judges: others in every round, none without a judge."""
    campaign = policy.campaign
    size = max((parameters.probe for _, parameters in judges_of(campaign.recipe.resolved_rewards)), default=0)
    drawn = draw_pool(
        "train",
        campaign.skills,
        size,
        seed=derive_seed(policy.seed, "judge probe"),
        evaluation_share=campaign.pools.evaluation_share,
        base_folder=base_folder,
    )
    return drawn.tasks


def _require_reward(rewards: pl.DataFrame, records: Sequence[JudgeRecord], key: RoundKey) -> None:
    """Nothing.

    Raises:
        SelfimpError: no reward of the recipe says anything of any sample.
    """
    if rewards["value"].is_not_null().any():
        return
    barred_for = barred(records)
    first = rewards.unique("reward", keep="first", maintain_order=True)
    reasons = [
        f"{name}: {barred_for.get(name, evidence)}"
        for name, evidence in first.select("reward", "evidence").iter_rows()
    ]
    raise SelfimpError(
        f"no reward of the recipe gave any sample a value; {'; '.join(reasons) or 'none judged any'}",
        where=f"{key} {ASSET}",
        fix="add another reward to recipe.rewards, choose another judge, or lower its floor",
    )


def _as_drawn(obeyed: list[Obeyed], mix: Mix, corpus: Corpus, round_: str, method: str) -> list[Obeyed]:
    """What became of the directives, once one sees what was sampled: a method may choose its own levels."""
    drawn = hardest_drawn(corpus.tasks, corpus.samples.filter(pl.col("round") == round_))
    beyond = sorted(skill for skill, level in mix.hardest.items() if drawn.get(skill, level) > level)
    if not beyond:
        return obeyed
    reason = f"{method} drew harder tasks of {', '.join(beyond)}"
    return [
        Obeyed(directive=told.directive, not_applicable=reason)
        if told.directive == "move_difficulty"
        else told
        for told in obeyed
    ]


def _by_lessons(lessons: Lessons) -> Draw:
    """The draw of a curriculum, which leaves no choice of levels to the acquisition method."""

    def draw(
        size: int, weights: Mapping[str, float], levels: Mapping[str, Collection[float]] | None = None
    ) -> pl.DataFrame:
        if levels is not None:
            raise SelfimpError(
                "the acquisition method chooses the levels of its tasks, and the curriculum would too",
                where="recipe.curriculum",
                fix="leave the curriculum out, or sample with another acquisition method",
            )
        return lessons.draw(size, weights)

    return draw


def _updates(store: ArtifactStore, policy: Policy) -> int:
    """How many checkpoints lie on the way from the base model to the incumbent."""
    started = (read_policy(store, RoundKey.parse(ancestor))[0] for ancestor in policy.ancestors)
    return len({round_ for round_ in (policy.weights_round, *(s.weights_round for s in started)) if round_})


def _offered(store: ArtifactStore, policy: Policy) -> Corpus:
    """The accepted refined outputs of the parent round; none for a first round, or if that is quarantined."""
    if policy.parent is None or is_quarantined(store, RoundKey.parse(policy.parent)):
        return Corpus(TASKS.to_frame(), SAMPLES.to_frame())
    refined = store.open(RoundKey.parse(policy.parent), "refined_outputs")
    return Corpus(refined.table("offered_tasks", TASKS), refined.table("offered_samples", SAMPLES))
