"""Asking the policy for tasks: its replies are drafts, from which proposals are read."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext
from selfimp_dagster.lifecycle.acquisition.proposals import Rules, languages_of
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import SAMPLES, derive_seed

Seed = Mapping[str, Any]
"""A task as a row of records.TASKS."""


class Drafting(BaseModel):
    """Parameters of every method that asks the policy for tasks and then answers them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    writes_all: ClassVar[bool] = True

    writing: Sampling = Field(
        default=Sampling(max_new_tokens=192, temperature=0.8), description="How the tasks are drawn."
    )
    samples_per_task: int = Field(
        default=4, ge=1, description="Responses drawn for each new task, asked plainly."
    )
    sampling: Sampling = Field(
        default=Sampling(max_new_tokens=128, temperature=0.8), description="How the responses are drawn."
    )


class Seeded(Drafting):
    """Parameters of every method that makes new tasks from those that are there."""

    seeds: int = Field(
        default=64,
        ge=1,
        description="Train tasks to start from; the tasks that models wrote in earlier rounds join them.",
    )


@dataclass(frozen=True)
class Seeds:
    """The tasks to start from: real ones, and those that models wrote in earlier rounds."""

    real: tuple[Seed, ...]
    written: tuple[Seed, ...]

    @property
    def all(self) -> tuple[Seed, ...]:
        return (*self.real, *self.written)

    @property
    def prompts(self) -> list[str]:
        return [seed["prompt"] for seed in self.all]

    def of_skill(self, skill: str) -> "Seeds":
        """Those of one skill."""
        real, written = ([s for s in part if s["skill"] == skill] for part in (self.real, self.written))
        return Seeds(tuple(real), tuple(written))


def draw_seeds(context: AcquisitionContext, size: int) -> Seeds:
    """Train tasks by the skills' weights, and what models wrote in earlier rounds of the line."""
    drawn = context.draw(size, context.skill_weights)
    return Seeds(tuple(drawn.to_dicts()), tuple(context.written.to_dicts()))


def rules_for(context: AcquisitionContext, texts: Iterable[str]) -> Rules:
    """The rules of the round, and that proposals have the languages of these texts."""
    return Rules(context.rules.reserved, context.rules.most_depth, languages_of(texts))


def dice(context: AcquisitionContext, method: str, number: int) -> random.Random:
    """The randomness of one draft."""
    return random.Random(derive_seed(context.seed, method, number))


def draft(
    context: AcquisitionContext, method: str, asked: Sequence[tuple[Message, ...]], sampling: Sampling
) -> list[dict[str, Any]]:
    """The policy's reply to each of these chats, as rows of records.SAMPLES."""
    requests = [
        SampleRequest(method, messages, derive_seed(context.seed, method, number))
        for number, messages in enumerate(asked)
    ]
    return context.sample(requests, sampling, generation="I", label=f"{method}: writing").to_dicts()


def asking(*parts: str) -> tuple[Message, ...]:
    """A chat of one message with these paragraphs."""
    return ({"role": "user", "content": "\n\n".join(parts)},)


def drafts_frame(*replies: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Replies as the drafts of a corpus."""
    rows = {row["sample_id"]: row for some in replies for row in some}
    return pl.DataFrame(list(rows.values()), schema=SAMPLES)
