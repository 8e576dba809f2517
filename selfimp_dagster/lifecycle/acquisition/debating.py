"""Interactive generation: copies of the policy debate a task (survey 4.3, generation I)."""

from itertools import groupby
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus, answered
from selfimp_dagster.lifecycle.acquisition.dialogues import (
    going_on,
    questions,
    spoken,
    together,
    turn,
)
from selfimp_dagster.registry import method

_OTHERS = (
    "Other agents answered:\n\n{answers}\n\nReflect on your own answer, say where one of these is wrong, and "
    "then answer again. {question}"
)


class Debating(BaseModel):
    """Parameters of `debating`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agents: int = Field(default=3, ge=2, description="Copies of the policy that debate.")
    rounds: int = Field(default=1, ge=1, description="Times that each sees the others' answers.")
    trained_in: Literal["task", "dialogue"] = Field(
        default="dialogue",
        description="dialogue: revised answers are trained on as replies in the debate; task: as answers to "
        "the plain task.",
    )
    sampling: Sampling = Field(default=Sampling(), description="How tokens are drawn.")


@method("acquisition", "debating", parameters=Debating, section="4.3", paper="arXiv:2505.15734")
def debating(context: AcquisitionContext, parameters: Debating) -> Corpus:
    """Copies of the policy answer, see what the others said, reflect, criticise, and answer again (DTE).

    In: train tasks; signal: none here, the reward `consensus` counts the answers that a debate ends with;
    out: first answers (generation SE) and revised ones (generation I), each with the agent's answer before
    it as its parent. An agent is asked to reflect, criticise and refine in one turn (the RCR prompt of
    Srivastava et al., arXiv:2505.15734). An agent that says nothing leaves the debate.
    """
    tasks = context.draw(context.size, context.skill_weights)
    asked = questions(tasks, context)
    drawn = [answered(tasks, context, parameters.agents, parameters.sampling)]
    for number in range(1, parameters.rounds + 1):
        debates = groupby(spoken(drawn[-1]), key=lambda row: str(row["task_id"]))
        chats = []
        for task, said in debates:
            agents = list(said)
            for own in agents:
                others = [f"- {row['response'].strip()}" for row in agents if row is not own]
                if others:
                    told = _OTHERS.format(answers="\n".join(others), question=asked[task])
                    chats.append((own, going_on(own, told)))
        drawn.append(turn(chats, context, parameters.sampling, generation="I", label=f"debating {number}"))
    return Corpus(tasks, together(*drawn).unique("sample_id", keep="first", maintain_order=True))
