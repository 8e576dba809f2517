"""A running value of what each skill teaches."""

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.curriculum.advantages import absolute_advantages, softmax
from selfimp_dagster.lifecycle.curriculum.lessons import CurriculumContext, Lessons, multiplied
from selfimp_dagster.registry import method


class SecParameters(BaseModel):
    """Parameters of `sec`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: float = Field(
        default=0.5, gt=0, le=1, description="How far a skill's value moves towards what the round taught."
    )
    temperature: float = Field(
        default=1.0, gt=0, description="How evenly skills are drawn; near 0 only the best is."
    )
    reward: str = Field(default="answer", description="The reward that advantages are of.")


class SecState(BaseModel):
    """The value of each skill: what it taught lately, in mean absolute advantages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: dict[str, float]


@method(
    "curriculum",
    "sec",
    parameters=SecParameters,
    section="3.3",
    paper="arXiv:2505.14970",
    needs=frozenset({"verifier"}),
    state=SecState,
)
def sec(context: CurriculumContext, parameters: SecParameters) -> Lessons:
    """Draws the skills that lately taught most, by the softmax of their values.

    SEC (Chen et al., arXiv:2505.14970): the value of a skill starts at 0 and moves by TD(0) towards the
    mean absolute advantage of its samples in each round that had some. The shares multiply the weights of
    the campaign or of a directive; where these are even, they are the paper's. A step of the paper is a
    batch, here it is a round.

    Raises:
        SelfimpError: the parent round's samples lack the reward, or no task has two.
    """
    before = context.state.values if isinstance(context.state, SecState) else {}
    values = dict.fromkeys(context.skill_weights, 0.0) | before
    for skill, advantages in absolute_advantages(context.outcomes(parameters.reward)).items():
        taught = sum(advantages) / len(advantages)
        values[skill] = moved(values.get(skill, 0.0), taught, parameters.step)
    shares = softmax({skill: values[skill] for skill in context.skill_weights}, parameters.temperature)
    return Lessons(multiplied(context.skill_weights, shares), context.draw, SecState(values=values))


def moved(value: float, taught: float, step: float) -> float:
    """The value after a round: TD(0) without a successor."""
    return step * taught + (1 - step) * value
