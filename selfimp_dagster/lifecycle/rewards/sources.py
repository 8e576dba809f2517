"""Who judges: the choices that a recipe has."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.openai_engine import Endpoint


class _Weights(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseWeights(_Weights):
    """The campaign's base model. In a round that starts from it, it says nothing of the corpus."""

    source: Literal["base"] = "base"

    @property
    def label(self) -> str:
        return "the base model"


class IncumbentWeights(_Weights):
    """The weights that the round starts from: never for samples that they drew themselves."""

    source: Literal["incumbent"]

    @property
    def label(self) -> str:
        return "the incumbent"


class NamedWeights(_Weights):
    """A model of its own, run on this machine."""

    source: Literal["model"]
    model: str = Field(
        min_length=1,
        description="embedded:<name>, a local folder, or <hub id>@<40-digit revision>.",
    )

    @property
    def label(self) -> str:
        return self.model


class EndpointSource(Endpoint):
    """A model behind a server."""

    source: Literal["endpoint"]


JudgeSource = Annotated[
    BaseWeights | IncumbentWeights | NamedWeights | EndpointSource, Field(discriminator="source")
]
