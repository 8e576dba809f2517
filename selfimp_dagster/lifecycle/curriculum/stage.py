"""How the stage generated_corpus asks the recipe's curriculum."""

from collections.abc import Callable, Mapping

import polars as pl
from pydantic import BaseModel

from selfimp_dagster.lifecycle.carried import carried_state
from selfimp_dagster.lifecycle.curriculum.lessons import CurriculumContext, Draw, Lessons
from selfimp_dagster.lifecycle.policy import Policy
from selfimp_dagster.lifecycle.rewards.judging import visible
from selfimp_dagster.lifecycle.sampling import unaided
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

STATE = "curriculum_state"
"""The JSON file of generated_corpus with the state that its tasks were chosen by, by the curriculum's
name."""

_CORPUS = "generated_corpus"


def plan_lessons(
    store: ArtifactStore,
    policy: Policy,
    draw: Draw,
    dataset: Callable[[int], pl.DataFrame],
    skill_weights: Mapping[str, float],
) -> tuple[Lessons, dict[str, str]] | None:
    """What the recipe's curriculum decides, and the artifact that it looked at; none without a
    curriculum.

    Raises:
        SelfimpError: the parent's corpus was altered, or lacks what the curriculum looks at.
    """
    choice = policy.campaign.recipe.curriculum
    if choice is None:
        return None
    method, parameters = choice.resolve("curriculum")
    tasks, samples, rewards = TASKS.to_frame(), SAMPLES.to_frame(), REWARDS.to_frame()
    state: BaseModel | None = None
    looked_at: dict[str, str] = {}
    if policy.parent is not None:
        corpus = store.open(RoundKey.parse(policy.parent), _CORPUS)
        looked_at = {f"{policy.parent}/{_CORPUS}": corpus.data_version}
        tasks = corpus.table("tasks", TASKS).filter(pl.col("pool") == "train")
        drawn = corpus.table("samples", SAMPLES).join(tasks, on="task_id", how="semi", maintain_order="left")
        samples = unaided(drawn).filter(pl.col("round") == policy.parent)
        rewards = visible(corpus.table("rewards", REWARDS), policy.campaign.recipe.resolved_rewards)
        assert method.state is not None
        state = carried_state(corpus, STATE, method.name, method.state)
    context = CurriculumContext(
        draw, dataset, skill_weights, tasks, samples, rewards, policy.seed, state=state
    )
    lessons: Lessons = method.function(context, parameters)
    return lessons, looked_at
