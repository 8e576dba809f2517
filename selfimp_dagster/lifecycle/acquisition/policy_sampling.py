"""Self-exploratory generation: the policy answers train tasks (survey 4.3, generation SE)."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Message, Sampling
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
    rationalized: int = Field(
        default=0,
        ge=0,
        description="Responses drawn with the right answer shown, for each task that the policy did not "
        "solve without it. They are trained on as if it had not been shown.",
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

    What it never gets right it never learns from. STaR's rationalization (Zelikman et al.,
    arXiv:2203.14465, section 3.2) shows it the answers of such tasks: supervision by the answers of the
    train pool, in the policy's own words; those samples have the generation R. Tasks are drawn by the
    skills' weights; the accepted refined outputs of the round before are
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
    if parameters.rationalized:
        samples = pl.concat([samples, _rationalized(tasks, samples, context, parameters)])
    if not parameters.refined_outputs:
        return Corpus(tasks, samples)
    new = context.offered.tasks.join(tasks, on="task_id", how="anti")
    return Corpus(
        pl.concat([tasks, new]),
        pl.concat([samples, context.offered.samples.join(new, on="task_id", how="semi")]),
    )


def _rationalized(
    tasks: pl.DataFrame, samples: pl.DataFrame, context: AcquisitionContext, parameters: PolicySampling
) -> pl.DataFrame:
    """Responses to the tasks without a verified one, each with its answer shown."""
    solved = samples.join(
        context.judge(tasks, samples).filter(pl.col("value") >= 1), on="sample_id", how="semi"
    )
    unsolved = tasks.join(solved, on="task_id", how="anti").filter(pl.col("answer").is_not_null())
    requests = [
        SampleRequest(
            task["task_id"],
            _with_answer(context.messages(task["prompt"]), task["answer"]),
            derive_seed(context.seed, task["task_id"], "rationalized", n),
        )
        for task in unsolved.iter_rows(named=True)
        for n in range(parameters.rationalized)
    ]
    return context.sample(requests, parameters.sampling, generation="R", label="rationalizing")


def _with_answer(messages: tuple[Message, ...], answer: str) -> tuple[Message, ...]:
    *before, last = messages
    return (*before, {**last, "content": f"{last['content']}\nThe right answer is {answer}."})


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
