"""What rewards that need a name of their own, or a judge, can be told."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.rewards.sources import BaseWeights, JudgeSource


class NamedParameters(BaseModel):
    """Parameters of a reward that a recipe may have more than once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9_]{0,40}$",
        description="What the reward is called, where the recipe has the method more than once. None: as the "
        "method.",
    )

    @property
    def made_of(self) -> frozenset[str]:
        """The rewards whose judgements it is made of; they stand before it in the recipe."""
        return frozenset()


class JudgeParameters(NamedParameters):
    """Parameters of a reward that a model gives.

    `absolute`: a value says how good a response is by itself, not beside others.
    """

    absolute: ClassVar[bool]

    judge: JudgeSource = Field(
        default=BaseWeights(),
        description="Who judges. source: base, the campaign's base model; model, with a `model` of its own; "
        "endpoint, with `url` and `model`; incumbent, with `own_samples`.",
    )
    own_samples: bool = Field(
        default=False,
        description="Whether it may judge samples that its own weights drew, as in self-rewarding. False: it "
        "says nothing of them.",
    )
    reading: Literal["words", "probabilities"] = Field(
        default="words",
        description="words: the judge writes its verdict; probabilities: the verdict is read from how "
        "probable it finds each of two words.",
    )
    repeats: int = Field(
        default=3,
        ge=1,
        le=32,
        description="How often the judge is asked in words, each time with a new seed.",
    )
    sampling: Sampling = Field(
        default=Sampling(max_new_tokens=128, temperature=0.7),
        description="How the judge's words are drawn.",
    )
    accept: float = Field(
        default=0.6, gt=0, le=1, description="The value from which a response counts as accepted."
    )
    probe: int = Field(
        default=32,
        ge=0,
        description="Train tasks with known answers on which the judge is tried each round, with the right "
        "answer and a corrupted one.",
    )
    floor: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Precision on the probe; a judge whose whole interval lies below it says nothing in that "
        "round. 0 asks for nothing.",
    )
