"""Self-exploratory generation: the policy answers train tasks (survey 4.3, generation SE)."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import method


class PolicySampling(BaseModel):
    """Parameters of `policy_sampling`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples_per_task: int = Field(default=4, ge=1, description="Responses drawn for each task.")
    most_samples_per_task: int | None = Field(
        default=None,
        ge=1,
        description="Where a skill has fewer tasks than its share of the pool, its tasks get more responses, "
        "up to this many each. None leaves them at samples_per_task.",
    )
    sampling: Sampling = Field(default=Sampling(), description="How tokens are drawn.")
    refined_outputs: bool = Field(
        default=True, description="Add what the round before accepted of its refined outputs."
    )


@method(
    "acquisition",
    "policy_sampling",
    parameters=PolicySampling,
    section="4.3",
    paper="arXiv:2203.14465",
)
def policy_sampling(context: AcquisitionContext, parameters: PolicySampling) -> Corpus:
    """The incumbent answers train tasks, several times each (STaR, RFT, ReST-EM).

    Tasks are drawn by the skills' weights; the accepted refined outputs of the round before are
    added with the samples that earned their acceptance, unless the same task was drawn anyway.
    """
    tasks = context.draw(context.size, context.skill_weights)
    responses = _responses_per_task(tasks, context, parameters)
    requests = [
        SampleRequest(
            task["task_id"], context.messages(task["prompt"]), derive_seed(context.seed, task["task_id"], n)
        )
        for task in tasks.iter_rows(named=True)
        for n in range(responses[task["skill"]])
    ]
    samples = context.sample(requests, parameters.sampling, generation="SE", label="sampling")
    if not parameters.refined_outputs:
        return Corpus(tasks, samples)
    new = context.offered.tasks.join(tasks, on="task_id", how="anti")
    return Corpus(
        pl.concat([tasks, new]),
        pl.concat([samples, context.offered.samples.join(new, on="task_id", how="semi")]),
    )


def _responses_per_task(
    tasks: pl.DataFrame, context: AcquisitionContext, parameters: PolicySampling
) -> dict[str, int]:
    """How often each skill's tasks are answered, so that its share of the responses is that of its weight."""
    fewest = parameters.samples_per_task
    most = max(fewest, parameters.most_samples_per_task or fewest)
    total = sum(context.skill_weights.values())
    counts: dict[str, int] = dict(tasks.group_by("skill").len().iter_rows())
    shares = {
        skill: context.size * fewest * context.skill_weights[skill] / total / count
        for skill, count in counts.items()
    }
    return {skill: min(most, max(fewest, round(share))) for skill, share in shares.items()}
