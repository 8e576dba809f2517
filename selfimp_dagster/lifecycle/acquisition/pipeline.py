"""Interactive generation: agents in different roles answer a task one after the other (generation I)."""

from typing import ClassVar

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus, TrainedIn
from selfimp_dagster.lifecycle.acquisition.dialogues import Row, going_on, spoken, together, turn
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import method

_HANDED = "{role}\n\nWhat another agent worked out before you:\n{before}"
_FEEDBACK = (
    "The final answer that came of that was wrong; the right one is {answer}. Do your part again so that it "
    "leads there. {role}"
)


class Pipeline(BaseModel):
    """Parameters of `pipeline`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trained_in: ClassVar[TrainedIn] = "opening"

    roles: tuple[str, ...] = Field(
        default=(
            "You are an analyst. Say in a few words how to solve this question. Do not solve it.",
            "You are a solver. Answer the question.",
        ),
        min_length=2,
        description="What each agent is told it is and does, in the order in which they work. The last one "
        "answers the task.",
    )
    trajectories: int = Field(default=2, ge=1, description="Times that all agents work on a task.")
    augmented: bool = Field(
        default=True,
        description="Where no trajectory of a task succeeds, the first agent does its part again with the "
        "right answer shown, and the others go on from there.",
    )
    sampling: Sampling = Field(default=Sampling(), description="How tokens are drawn.")


@method(
    "acquisition",
    "pipeline",
    parameters=Pipeline,
    section="4.3",
    paper="arXiv:2502.04780",
    needs=frozenset({"verifier"}),
)
def pipeline(context: AcquisitionContext, parameters: Pipeline) -> Corpus:
    """Agents in roles work on a task in turn; what led to a right answer is learnt, role by role (SiriuS).

    In: train tasks; signal: none here, the reward `outcome` gives every turn of a trajectory the verdict on
    its end; out: what each agent said (generation I), with what the agent before it said as its parent, and
    trained on in the chat that the role saw. Where nothing succeeded the first agent is shown the answer
    (Zhao et al., arXiv:2502.04780, section 3.2) and what it then says (generation R) is trained on as if it
    had not been: supervision, like STaR's rationalization. Two adaptations: all roles are played by the one
    policy, and what was said with the answer shown is not rephrased.
    """
    tasks = context.draw(context.size, context.skill_weights)
    prompts = dict(tasks.select("task_id", "prompt").iter_rows())
    first, *later = parameters.roles
    opening = context.sample(
        [
            SampleRequest(id_, _chat(context, prompt, first), derive_seed(context.seed, "roles", id_, n))
            for id_, prompt in prompts.items()
            for n in range(parameters.trajectories)
        ],
        parameters.sampling,
        generation="I",
        label="role 1",
    )
    drawn = [opening]

    def go_on(rows: list[dict[str, object]], label: str) -> None:
        for number, role in enumerate(later, start=2):
            chats: list[tuple[Row, tuple[Message, ...]]] = []
            for row in rows:
                told = _HANDED.format(role=role, before=str(row["response"]).strip())
                chats.append((row, _chat(context, prompts[str(row["task_id"])], told)))
            said = turn(chats, context, parameters.sampling, generation="I", label=f"{label} {number}")
            drawn.append(said)
            rows = spoken(said)

    go_on(spoken(opening), "role")
    if parameters.augmented:
        ends = drawn[-1]
        right = ends.join(context.judge(tasks, ends).filter(pl.col("value") >= 1), on="sample_id", how="semi")
        failed = tasks.join(right, on="task_id", how="anti").filter(pl.col("answer").is_not_null())
        answers = dict(failed.select("task_id", "answer").iter_rows())
        tried = opening.filter(pl.col("task_id").is_in(list(answers))).unique(
            "task_id", keep="first", maintain_order=True
        )
        told_again = [
            (row, going_on(row, _FEEDBACK.format(answer=answers[row["task_id"]], role=first)))
            for row in spoken(tried)
        ]
        again = turn(told_again, context, parameters.sampling, generation="R", label="role 1 with feedback")
        drawn.append(again)
        go_on(spoken(again), "role after feedback")
    return Corpus(tasks, together(*drawn).unique("sample_id", keep="first", maintain_order=True))


def _chat(context: AcquisitionContext, prompt: str, role: str) -> tuple[Message, ...]:
    *before, last = context.messages(prompt)
    return (*before, {**last, "content": f"{role}\n\n{last['content']}"})
