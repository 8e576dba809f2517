"""What methods with proposers and solvers share: asking both roles (survey 2.4.3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext
from selfimp_dagster.lifecycle.acquisition.proposals import Origin, acquired_task
from selfimp_dagster.lifecycle.sampling import SampleRequest, asked
from selfimp_dagster.records import SAMPLES, TASKS, derive_seed, frame
from selfimp_dagster.tasks.verifiers import PROPOSING

PROPOSERS = "proposing"
"""The skill of tasks to propose tasks."""


class SelfPlay(BaseModel):
    """Parameters of methods in which the policy proposes tasks and solves them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    writes_all: ClassVar[bool] = True

    group: int = Field(
        default=4, ge=1, description="Proposals for each prompt, which an update compares with each other."
    )
    answers: int = Field(default=8, ge=2, description="Responses to each task that is accepted.")
    proposal_sampling: Sampling = Field(
        default=Sampling(max_new_tokens=192), description="How proposals are drawn."
    )
    sampling: Sampling = Field(default=Sampling(max_new_tokens=64), description="How responses are drawn.")

    def prompts(self, size: float) -> int:
        """How many prompts it takes for so many proposals."""
        return max(1, round(size / self.group))


@dataclass(frozen=True)
class Prompt:
    """What a proposer is asked. `origins` are what it shows, `given` what its proposals are read with."""

    text: str
    origins: tuple[Origin, ...] = ()
    given: Any = None


@dataclass(frozen=True)
class Proposed:
    """One proposal: the prompt that it answers, and the sample (a row of records.SAMPLES) that it is."""

    prompt: Prompt
    sample: Mapping[str, Any]

    @property
    def text(self) -> str:
        return str(self.sample["response"])

    @property
    def ended(self) -> bool:
        """Whether the policy ended it by itself."""
        return bool(self.sample["finish_reason"] != "length")

    @property
    def origins(self) -> tuple[Origin, ...]:
        """What its task was made from: the proposal itself, and what stood before it."""
        return (Origin(self.sample["sample_id"]), *self.prompt.origins)


def ask_proposers(
    context: AcquisitionContext, parameters: SelfPlay, source: str, prompts: Sequence[Prompt]
) -> tuple[pl.DataFrame, list[Proposed]]:
    """The prompts as tasks (records.TASKS, verifier `proposing`), and a group of proposals to each.

    Proposals are samples of generation I; prompts that say the same are one.
    """
    tasks = {
        prompt.text: acquired_task(
            source=source,
            skill=PROPOSERS,
            prompt=prompt.text,
            parents=[origin.id for origin in prompt.origins],
            depth=0,
            verifier=PROPOSING,
            chat=({"role": "user", "content": prompt.text},),
        )
        for prompt in prompts
    }
    wanted = [(prompt, number) for prompt in prompts for number in range(parameters.group)]
    requests = [
        SampleRequest(
            tasks[prompt.text]["task_id"],
            asked(tasks[prompt.text], context.messages),
            derive_seed(context.seed, source, "proposal", number),
        )
        for number, (prompt, _) in enumerate(wanted)
    ]
    drawn = context.sample(
        requests, parameters.proposal_sampling, generation="I", label=f"{source}: proposing"
    )
    proposed = [Proposed(prompt, row) for (prompt, _), row in zip(wanted, drawn.to_dicts(), strict=True)]
    return frame(tasks.values(), TASKS), proposed


def ask_solvers(
    context: AcquisitionContext, parameters: SelfPlay, source: str, tasks: pl.DataFrame
) -> pl.DataFrame:
    """Several responses to each task (records.SAMPLES, generation SE)."""
    requests = [
        SampleRequest(
            task["task_id"],
            asked(task, context.messages),
            derive_seed(context.seed, source, "answer", task["task_id"], number),
        )
        for task in tasks.iter_rows(named=True)
        for number in range(parameters.answers)
    ]
    return context.sample(requests, parameters.sampling, generation="SE", label=f"{source}: solving")


def samples_of(proposed: Sequence[Proposed]) -> pl.DataFrame:
    """The proposals as they were drawn (records.SAMPLES)."""
    return frame((one.sample for one in proposed), SAMPLES)
