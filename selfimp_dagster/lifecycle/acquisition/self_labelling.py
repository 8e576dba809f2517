"""From easy to hard: the policy labels tasks just beyond those that it was shown (survey 2.2 and 4.3)."""

from collections.abc import Mapping, Sequence

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus, answered
from selfimp_dagster.records import SAMPLES, canonical_json, content_id, frame
from selfimp_dagster.registry import method


class SelfLabelling(BaseModel):
    """Parameters of `self_labelling`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    demonstrated: float = Field(description="The highest level whose tasks come with their answers.")
    demonstrations: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of a round's tasks that are demonstrations once the policy labels tasks: real "
        "data, so that nothing is replaced by what the policy says. Before its first update all are.",
    )
    step: float = Field(default=1, gt=0, description="Levels that each promoted update adds to the reach.")
    newest: int | None = Field(
        default=None,
        ge=1,
        description="How many of the hardest levels within reach are labelled in a round; those below come "
        "back by replay. None: all beyond the demonstrated ones.",
    )
    votes: int = Field(default=5, ge=2, description="Responses that the policy gives to each task it labels.")
    sampling: Sampling = Field(default=Sampling(temperature=0.7), description="How tokens are drawn.")


@method(
    "acquisition",
    "self_labelling",
    parameters=SelfLabelling,
    section="4.3",
    paper="arXiv:2502.01612",
)
def self_labelling(context: AcquisitionContext, parameters: SelfLabelling) -> Corpus:
    """Demonstrations up to a level, and beyond it the policy's own answers, a level further with each update.

    In: tasks with levels of difficulty; signal: none here, the recipe's rewards (a majority vote) and
    selection judge; out: demonstrations (generation D, the answers that came with the tasks) and several
    responses to each task beyond them (generation SE). The answers of the tasks beyond are not looked at. Lee
    et al. have models that were trained from several seeds vote; here the samples of one model do.
    """
    shown = {
        skill: [level for level in levels if level <= parameters.demonstrated]
        for skill, levels in context.levels.items()
    }
    beyond = reach(context.levels, context.directed, parameters, context.updates)
    labelled = 0 if not any(beyond.values()) else round(context.size * (1 - parameters.demonstrations))
    examples = context.draw(context.size - labelled, context.skill_weights, shown)
    demonstrations = demonstrated(examples, context)
    if not labelled:
        return Corpus(examples, demonstrations)
    weights = {skill: weight for skill, weight in context.skill_weights.items() if beyond[skill]}
    tasks = context.draw(labelled, {**dict.fromkeys(context.levels, 0.0), **weights}, beyond)
    samples = answered(tasks, context, parameters.votes, parameters.sampling)
    return Corpus(pl.concat([examples, tasks]), pl.concat([demonstrations, samples]))


def reach(
    levels: Mapping[str, Sequence[float]],
    directed: Mapping[str, Sequence[float]],
    parameters: SelfLabelling,
    updates: int,
) -> dict[str, list[float]]:
    """The levels of each skill that the policy labels, after so many promoted updates from the base model.

    Where evaluation directed the levels of a skill, these count in place of the schedule.
    """
    highest = parameters.demonstrated + parameters.step * updates
    allowed = {
        skill: directed.get(skill, [level for level in own if level <= highest])
        for skill, own in levels.items()
    }
    beyond = {
        skill: sorted(level for level in own if level > parameters.demonstrated)
        for skill, own in allowed.items()
    }
    if parameters.newest is None:
        return beyond
    return {skill: own[-parameters.newest :] for skill, own in beyond.items()}


def demonstrated(tasks: pl.DataFrame, context: AcquisitionContext) -> pl.DataFrame:
    """The tasks' own answers as samples of generation D (records.SAMPLES), which no policy drew."""
    return frame(
        (
            {
                "sample_id": content_id("demonstration", task["task_id"]),
                "task_id": task["task_id"],
                "round": None,
                "policy_hash": None,
                "generation": "D",
                "messages": list(context.messages(task["prompt"])),
                "response": task["answer"],
                "prompt_tokens": 0,
                "completion_tokens": 0,
                "sum_logprob": None,
                "mean_logprob": None,
                "finish_reason": "stop",
                "sampling": canonical_json({}),
                "seed": 0,
                "parent_sample_id": None,
            }
            for task in tasks.filter(pl.col("answer").is_not_null()).iter_rows(named=True)
        ),
        SAMPLES,
    )
