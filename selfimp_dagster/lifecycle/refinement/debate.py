"""Debate: several copies of the policy see each other's answers and revise their own (survey 5.3)."""

import polars as pl
from pydantic import Field

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.refinement.conversation import (
    Conversation,
    Row,
    Turn,
    replied,
    weighted_winner,
)
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method

_OTHERS = (
    "These are the answers of other agents:\n\n{answers}\n\nUsing their answers as additional information, "
    "answer again. {question}"
)


class Debate(RefinementParameters):
    """Parameters of `debate`."""

    agents: int = Field(default=3, ge=2, description="Copies of the policy that debate.")
    rounds: int = Field(default=1, ge=1, description="Times that each sees the others' answers.")
    temperature: float = Field(default=0.7, gt=0, description="Softmax temperature of every answer.")


@method(
    "refinement",
    "debate",
    parameters=Debate,
    section="5.3",
    paper="arXiv:2305.14325",
    needs=frozenset({"verifier"}),
)
def debate(context: RefinementContext, parameters: Debate) -> tuple[pl.DataFrame, list[Refined]]:
    """Agents answer by themselves, read what the others said, answer again; the last answers are counted.

    In: one sample per agent; signal: the other agents' answers; out: the answer that most agents end with,
    ties and the carrier as in `self_consistency`. `agreement` is its share of the agents.
    """
    talk = Conversation(context)
    answers = talk.draw(
        "opening the debate",
        times=parameters.agents,
        temperature=parameters.temperature,
        max_new_tokens=context.max_new_tokens,
    )
    chats = [[talk.plain(task)] * parameters.agents for task in talk.tasks]
    for number in range(1, parameters.rounds + 1):
        chats = [
            [_next(chat, own, rows) for chat, own in zip(agents, rows, strict=True)]
            for agents, rows in zip(chats, answers, strict=True)
        ]
        turns = [
            Turn(task.task_id, chat, own["sample_id"])
            for task, agents, rows in zip(talk.tasks, chats, answers, strict=True)
            for chat, own in zip(agents, rows, strict=True)
        ]
        said = talk.ask(
            turns,
            f"debating {number}",
            temperature=parameters.temperature,
            max_new_tokens=context.max_new_tokens,
            generation="I",
        )
        answers = [
            said[start : start + parameters.agents] for start in range(0, len(said), parameters.agents)
        ]
    refined = []
    for task, rows in zip(talk.tasks, answers, strict=True):
        greedy = talk.before[task.task_id]
        carrier, share = weighted_winner(task, [(row, 1.0) for row in rows], greedy) or (greedy, 0.0)
        refined.append(Refined(task.task_id, carrier["sample_id"], share, talk.tokens(task.task_id)))
    return talk.samples, refined


def _next(chat: tuple[Message, ...], own: Row, rows: list[Row]) -> tuple[Message, ...]:
    """An agent's chat in which it sees what the others said."""
    others = [f"- {row['response'].strip()}" for row in rows if row["sample_id"] != own["sample_id"]]
    told = _OTHERS.format(answers="\n".join(others), question=chat[0]["content"])
    return replied(chat, own["response"], told)
