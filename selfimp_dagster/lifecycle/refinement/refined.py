"""What a refinement method is given, and what it returns."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.acquisition.corpus import Sample

if TYPE_CHECKING:
    import numpy as np

SOLVED = pl.Schema({"task_id": pl.String, "skill": pl.String, "prompt": pl.String, "response": pl.String})
"""Tasks with an unaided response of the incumbent that the recipe's first reward accepts."""


class RefinementParameters(BaseModel):
    """What every refinement method can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: int = Field(
        default=32, ge=0, description="Train tasks answered with and without refinement; 0: none."
    )
    gap: Literal["positive", "proven", "ignored"] = Field(
        default="positive",
        description="What the generation-verification gap, accuracy of refined answers minus that of plain "
        "ones on practice tasks, must be for the refinement to be used: positive; proven: above 0 with its "
        "whole 95 % interval; ignored: it is not measured.",
    )
    gap_tasks: int = Field(
        default=16,
        ge=1,
        description="Tasks of the corpus that the gap is measured on, at most half of them.",
    )


class Judge(Protocol):
    """Gives samples the values of a reward of the recipe, by sample id; what it does not judge is left out.

    Without a name it is the first reward.

    Raises:
        SelfimpError: the recipe has no reward of that name.
    """

    def __call__(self, samples: pl.DataFrame, reward: str | None = None) -> Mapping[str, float]: ...


class Against(Protocol):
    """Samples the candidate by its contrast to an amateur (engines/base.py: ContrastiveSampling).

    None where the amateur has the candidate's own weights.
    """

    def __call__(
        self, amateur: Literal["base", "incumbent"], plausibility: float, temperature: float
    ) -> Sample | None: ...


Said = tuple[tuple[Message, ...], str, bool]
"""What was asked, what was said to it, and whether that ended by itself."""


class Adapted(Protocol):
    """The candidate with a temporary adapter on its weights.

    `step` moves the adapter once, on responses with these weights in the loss (models/adapter.py), `reset`
    makes it what it was at first. `sample` draws with it as it is; `tokens` counts what training has read.
    """

    tokens: int

    @property
    def sample(self) -> Sample: ...

    def step(self, responses: Sequence[Said], weights: Sequence[float]) -> None: ...

    def reset(self) -> None: ...


class Adapt(Protocol):
    """Puts an adapter on the candidate as long as a context lasts; then the weights are what they were.

    Raises:
        SelfimpError: at the end, if they are not.
    """

    def __call__(self, *, rank: int, learning_rate: float) -> AbstractContextManager[Adapted]: ...


@dataclass(frozen=True)
class RefinementContext:
    """What a method may use: tasks (records.TASKS), their plain greedy answers, and the candidate.

    `before` holds one greedy sample per task (records.SAMPLES), in the order of the tasks. `practice` are
    other train tasks (records.TASKS), those of the round's corpus, on which a method may try things before it
    answers; `solved` are right answers to some of them (SOLVED). `embed` gives the candidate's embeddings of
    texts (engines/base.py). `note` records what a method found out on the way, as plain data by name, in the
    facts of the artifact.
    """

    tasks: pl.DataFrame
    before: pl.DataFrame
    practice: pl.DataFrame
    solved: pl.DataFrame
    sample: Sample
    sample_against: Against
    adapt: Adapt
    embed: Callable[[Sequence[str]], "np.ndarray"]
    judge: Judge
    messages: Callable[[str], tuple[Message, ...]]
    max_new_tokens: int
    seed: int
    note: Callable[[str, Any], None]


@dataclass(frozen=True)
class Refined:
    """The answer of a method to one task.

    `sample_id` is the sample that carries the answer, `agreement` how sure the method is of it
    (0 to 1), `tokens` what it cost on top of the greedy answer.
    """

    task_id: str
    sample_id: str
    agreement: float
    tokens: int
