"""An upper confidence bound on what each skill still teaches."""

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.curriculum.advantages import absolute_advantages, softmax
from selfimp_dagster.lifecycle.curriculum.lessons import CurriculumContext, Lessons, multiplied
from selfimp_dagster.registry import method


class DumpParameters(BaseModel):
    """Parameters of `dump`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: int = Field(
        default=300, ge=1, description="Latest samples of a skill that its advantage is over."
    )
    temperature: float = Field(
        default=0.1, gt=0, description="How evenly skills are drawn; near 0 only the best is."
    )
    reward: str = Field(default="answer", description="The reward that advantages are of.")


class DumpState(BaseModel):
    """The latest absolute advantages of each skill, and how many samples it had in all rounds of the
    line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latest: dict[str, tuple[float, ...]]
    samples: dict[str, int]


@method(
    "curriculum",
    "dump",
    parameters=DumpParameters,
    section="3.3",
    paper="arXiv:2504.09710",
    needs=frozenset({"verifier"}),
    state=DumpState,
)
def dump(context: CurriculumContext, parameters: DumpParameters) -> Lessons:
    """Draws the skills that still teach much, or that were seen little, by their upper confidence bounds.

    DUMP (Wang et al., arXiv:2504.09710): the bound of a skill is the mean absolute advantage of its
    latest samples plus sqrt(2 ln(n + 1) / (n_skill + 1)), with n samples seen in all; skills are drawn by
    the softmax of their bounds. The shares multiply the weights of the campaign or of a directive; where
    these are even, they are the paper's. A step of the paper is a batch, here it is a round.

    Raises:
        SelfimpError: the parent round's samples lack the reward, or no task has two.
    """
    before = context.state if isinstance(context.state, DumpState) else DumpState(latest={}, samples={})
    seen = absolute_advantages(context.outcomes(parameters.reward))
    skills = set(context.skill_weights) | set(before.latest) | set(seen)
    state = DumpState(
        latest={s: (*before.latest.get(s, ()), *seen.get(s, ()))[-parameters.window :] for s in skills},
        samples={s: before.samples.get(s, 0) + len(seen.get(s, ())) for s in skills},
    )
    bounds = upper_bounds(
        {s: sum(state.latest[s]) / max(1, len(state.latest[s])) for s in context.skill_weights},
        {s: state.samples[s] for s in context.skill_weights},
    )
    shares = softmax(bounds, parameters.temperature)
    return Lessons(multiplied(context.skill_weights, shares), context.draw, state)


def upper_bounds(means: Mapping[str, float], samples: Mapping[str, int]) -> dict[str, float]:
    """Each skill's mean absolute advantage plus what its few samples leave open."""
    total = sum(samples.values())
    return {
        skill: mean + math.sqrt(2 * math.log(total + 1) / (samples[skill] + 1))
        for skill, mean in means.items()
    }
