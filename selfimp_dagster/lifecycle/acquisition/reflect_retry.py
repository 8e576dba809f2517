"""Reflect, retry: what the policy says to itself after a failure, and whether that helped (generation R)."""

from typing import ClassVar

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus, TrainedIn, answered
from selfimp_dagster.lifecycle.acquisition.dialogues import (
    going_on,
    questions,
    spoken,
    together,
    turn,
)
from selfimp_dagster.registry import method

_REFLECT = (
    "That answer is wrong. In one or two sentences: what was the mistake, and how will you avoid it when you "
    "answer again?"
)
_RETRY = "Answer the question again. {question}"


class ReflectRetry(BaseModel):
    """Parameters of `reflect_retry`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trained_in: ClassVar[TrainedIn] = "dialogue"

    reflections: int = Field(
        default=4, ge=2, description="Reflections drawn on each first answer that failed."
    )
    sampling: Sampling = Field(default=Sampling(), description="How the tokens of answers are drawn.")
    reflection: Sampling = Field(
        default=Sampling(max_new_tokens=64), description="How the tokens of reflections are drawn."
    )


@method(
    "acquisition",
    "reflect_retry",
    parameters=ReflectRetry,
    section="4.3",
    paper="arXiv:2505.24726",
    needs=frozenset({"verifier"}),
)
def reflect_retry(context: AcquisitionContext, parameters: ReflectRetry) -> Corpus:
    """Where the policy fails, it reflects several times, and each reflection is followed by a new attempt.

    In: train tasks; signal: that the first answer was wrong, which the task's verifier says, not what is
    right; out: first answers (generation SE), and of tasks that failed reflections and retries (generation
    R), each with what it goes on from as its parent. The reward `outcome` with `judged: between` gives a
    reflection the success of its retry, so that an update learns to reflect and nothing else (Bensal et al.,
    arXiv:2505.24726). All are trained on in their dialogue.
    """
    tasks = context.draw(context.size, context.skill_weights)
    asked = questions(tasks, context)
    firsts = answered(tasks, context, 1, parameters.sampling)
    failed = context.judge(tasks, firsts).filter(pl.col("value") < 1)
    reflected = turn(
        [(row, going_on(row, _REFLECT)) for row in spoken(firsts.join(failed, on="sample_id", how="semi"))],
        context,
        parameters.reflection,
        generation="R",
        label="reflecting",
        times=parameters.reflections,
    )
    retried = turn(
        [(row, going_on(row, _RETRY.format(question=asked[row["task_id"]]))) for row in spoken(reflected)],
        context,
        parameters.sampling,
        generation="R",
        label="trying again",
    )
    return Corpus(tasks, together(firsts, reflected, retried))
