"""Acting and judging in one round (survey 4.3): Meta-Rewarding."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus, answered
from selfimp_dagster.lifecycle.acquisition.proposals import JUDGEMENT, acquired_task
from selfimp_dagster.lifecycle.rewards.judge import GRADE, RUBRIC, grading
from selfimp_dagster.lifecycle.rewards.meta_rewarding import JUDGING, META_REWARDING
from selfimp_dagster.lifecycle.rewards.verdicts import forges
from selfimp_dagster.lifecycle.sampling import SampleRequest, asked
from selfimp_dagster.records import TASKS, derive_seed, frame
from selfimp_dagster.registry import method


class MetaRewarding(BaseModel):
    """Parameters of the acquisition `meta_rewarding`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    responses: int = Field(default=4, ge=2, description="Responses drawn for each task.")
    judgements: int = Field(default=4, ge=2, description="Judgements drawn of each response.")
    rubric: str = Field(
        default=RUBRIC,
        description="What is graded in words, and what the grades mean. {best} stands for the best grade.",
    )
    best: int = Field(default=5, ge=1, le=100, description="The best grade; the worst is 0.")
    sampling: Sampling = Field(default=Sampling(), description="How responses are drawn.")
    judging: Sampling = Field(
        default=Sampling(max_new_tokens=128, temperature=0.8), description="How judgements are drawn."
    )


@method(
    "acquisition",
    META_REWARDING,
    parameters=MetaRewarding,
    section="4.3",
    paper="arXiv:2407.19594",
    needs=frozenset({JUDGEMENT}),
)
def meta_rewarding(context: AcquisitionContext, parameters: MetaRewarding) -> Corpus:
    """The policy answers tasks, and judges each of its answers several times, as tasks of their own.

    In: train tasks; signal: none here, the reward `meta_rewarding` reads the judgements, and has judgements
    of one response judged against each other; out: the tasks with their responses (generation SE), and for
    each response a task to grade it, which asks what the reward `judge` asks, with the judgements as its
    samples (generation I). So one preference update learns to act and to judge (Wu et al., section 2). A
    response that holds a grade itself is not judged. The paper's prompts for new tasks are the campaign's
    tasks here, and no data of judging is trained on first.
    """
    tasks = context.draw(context.size, context.skill_weights)
    responses = answered(tasks, context, parameters.responses, parameters.sampling)
    prompts = dict(tasks.select("task_id", "prompt").iter_rows())
    skills = dict(tasks.select("task_id", "skill").iter_rows())
    to_judge, requests = [], []
    for row in responses.iter_rows(named=True):
        if forges(row["response"], GRADE):
            continue
        (message,) = grading(
            0, prompts[row["task_id"]], row["response"], parameters.rubric, parameters.best
        ).messages
        task = acquired_task(
            source=META_REWARDING,
            skill=JUDGING,
            prompt=message["content"],
            parents=[row["sample_id"]],
            depth=1,
            entry={"judges": row["sample_id"], "best": parameters.best, "skill": skills[row["task_id"]]},
            chat=(message,),
        )
        to_judge.append(task)
        requests += [
            SampleRequest(
                task["task_id"],
                asked(task, context.messages),
                derive_seed(context.seed, JUDGING, row["sample_id"], number),
                parent_sample_id=row["sample_id"],
            )
            for number in range(parameters.judgements)
        ]
    judgements = context.sample(requests, parameters.judging, generation="I", label="judging")
    judging = frame(to_judge, TASKS).unique("task_id", keep="first", maintain_order=True)
    return Corpus(
        pl.concat([tasks, judging]),
        pl.concat([responses, judgements]).unique("sample_id", keep="first", maintain_order=True),
    )
