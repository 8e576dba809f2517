"""What a campaign says about its evolution."""

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.evolution.space import Gene
from selfimp_dagster.lifecycle.rewards.sources import JudgeSource


class Evolution(BaseModel):
    """The typed space of recipes that `selfimp evolve` searches, and who proposes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: dict[str, Gene] = Field(
        min_length=1,
        description="Fields of the recipe, as stage.parameter, with what each may be; `preset` is one too.",
    )
    proposer: JudgeSource | None = Field(
        default=None,
        description="A model that proposes a field and a value of the space. None, and where it says nothing "
        "of use: a mutation by lot.",
    )
    tries: int = Field(default=3, ge=1, description="Times that the model is asked for one proposal.")
    sampling: Sampling = Field(
        default=Sampling(max_new_tokens=64, temperature=1.0), description="How its words are drawn."
    )
