"""ReAct: thinking and acting in turns, with a calculator (survey 5.3)."""

import re

import polars as pl
from pydantic import Field

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Row, Turn, replied
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method
from selfimp_dagster.tools.calculator import calculated

_RULES = (
    "{prompt}\n\nThink in one short sentence, then act on a line of its own. There are two actions:\n"
    "calculate[expression] - a calculator evaluates the expression\n"
    "finish[answer] - you are done\n"
    "Example: I need the product. calculate[3 * 4]"
)
_NO_ACTION = "error: no action; write calculate[...] or finish[...]"
_ACTION = re.compile(r"\b(calculate|finish)\s*\[([^\]\n]*)\]?", re.IGNORECASE)


class ReAct(RefinementParameters):
    """Parameters of `react`."""

    steps: int = Field(default=3, ge=1, description="Turns of thinking and acting at most.")
    step_tokens: int = Field(default=48, ge=1, description="Tokens of one turn.")


@method("refinement", "react", parameters=ReAct, section="5.3", paper="arXiv:2210.03629")
def react(context: RefinementContext, parameters: ReAct) -> tuple[pl.DataFrame, list[Refined]]:
    """The policy thinks, calls a calculator, sees what it says, and so on until it finishes.

    In: the task; signal: the calculator's replies; out: the answer that the policy gives in the end, asked
    for once more as every stage asks, so that it has the form of an answer. Only the first action of a turn
    counts. A turn without one is told so. A policy that never finishes keeps its greedy answer, with
    `agreement` 0; else 1. The paper's tools are searches in Wikipedia and text games.
    """
    talk = Conversation(context)
    chats: dict[str, tuple[Message, ...]] = {
        task.task_id: ({"role": "user", "content": _RULES.format(prompt=task.prompt)},) for task in talk.tasks
    }
    questions = {task.task_id: talk.plain(task)[-1]["content"] for task in talk.tasks}
    going, done = list(chats), []
    parents: dict[str, str] = {}
    for number in range(1, parameters.steps + 1):
        turns = [Turn(id_, chats[id_], parents.get(id_)) for id_ in going]
        for row in talk.ask(
            turns, f"acting {number}", temperature=0, max_new_tokens=parameters.step_tokens, generation="I"
        ):
            id_ = row["task_id"]
            parents[id_] = row["sample_id"]
            said, action, argument = first_action(row["response"])
            if action == "finish":
                done.append(Turn(id_, replied(chats[id_], said, questions[id_]), row["sample_id"]))
                going.remove(id_)
                continue
            heard = calculated(argument) if action else _NO_ACTION
            chats[id_] = replied(chats[id_], said, f"Observation: {heard}")
    answers: dict[str, Row] = {
        row["task_id"]: row
        for row in talk.ask(
            done, "answering", temperature=0, max_new_tokens=context.max_new_tokens, generation="I"
        )
        if row["response"].strip()
    }
    return talk.samples, [
        Refined(id_, answers.get(id_, greedy)["sample_id"], float(id_ in answers), talk.tokens(id_))
        for id_, greedy in talk.before.items()
    ]


def first_action(response: str) -> tuple[str, str | None, str]:
    """What a turn said up to its first action, that action (calculate, finish or None), and its argument.

    What a policy writes behind its action, the observation that it expects included, is cut off.
    """
    match = _ACTION.search(response)
    if match is None:
        return response, None, ""
    return response[: match.end()], match[1].lower(), match[2].strip()
