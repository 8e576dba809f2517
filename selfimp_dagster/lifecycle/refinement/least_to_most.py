"""Least-to-most: a task is taken apart, and its parts are answered one on top of the other (survey 5.3)."""

import re

import polars as pl
from pydantic import Field

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Row, Turn, replied
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method

_DECOMPOSE = (
    "{prompt}\n\nBefore this can be answered, which simpler questions have to be answered? List them, one "
    "per line, the simplest first, without answering them."
)
_LIST_MARK = re.compile(r"^\s*(?:[-*\u2022]|\(?\d+[.):])?\s*")


class LeastToMost(RefinementParameters):
    """Parameters of `least_to_most`."""

    questions: int = Field(default=3, ge=1, description="Simpler questions that are answered at most.")
    list_tokens: int = Field(default=96, ge=1, description="Tokens of the list of questions.")
    answer_tokens: int = Field(default=48, ge=1, description="Tokens of the answer to a simpler question.")


@method("refinement", "least_to_most", parameters=LeastToMost, section="5.3", paper="arXiv:2205.10625")
def least_to_most(context: RefinementContext, parameters: LeastToMost) -> tuple[pl.DataFrame, list[Refined]]:
    """The policy lists simpler questions, answers them in turn, and then the task with all of that in sight.

    In: the task alone; signal: the answers to its parts, each seen by those that come later; out: the last
    answer. The paper shows worked examples of taking apart; here the instruction alone asks for it. A task of
    which no simpler question was named keeps its greedy answer, with `agreement` 0; else 1.
    """
    talk = Conversation(context)
    lists = talk.ask(
        [
            Turn(task.task_id, ({"role": "user", "content": _DECOMPOSE.format(prompt=task.prompt)},))
            for task in talk.tasks
        ],
        "taking apart",
        temperature=0,
        max_new_tokens=parameters.list_tokens,
        generation="I",
    )
    prompts = {task.task_id: task.prompt for task in talk.tasks}
    questions = {
        row["task_id"]: simpler_questions(row["response"], prompts[row["task_id"]])[: parameters.questions]
        for row in lists
    }
    chats: dict[str, tuple[Message, ...]] = {}
    parents: dict[str, str] = {row["task_id"]: row["sample_id"] for row in lists}
    for number in range(parameters.questions):
        turns = []
        for id_, named in questions.items():
            if number < len(named):
                chats[id_] = _next(chats.get(id_), prompts[id_], named[number])
                turns.append(Turn(id_, chats[id_], parents[id_]))
        for row in talk.ask(
            turns,
            f"answering part {number + 1}",
            temperature=0,
            max_new_tokens=parameters.answer_tokens,
            generation="I",
        ):
            chats[row["task_id"]] = (
                *chats[row["task_id"]],
                {"role": "assistant", "content": row["response"]},
            )
            parents[row["task_id"]] = row["sample_id"]
    last = [
        Turn(
            task.task_id,
            (*chats[task.task_id], {"role": "user", "content": talk.plain(task)[-1]["content"]}),
            parents[task.task_id],
        )
        for task in talk.tasks
        if task.task_id in chats
    ]
    answers: dict[str, Row] = {
        row["task_id"]: row
        for row in talk.ask(
            last, "answering the whole", temperature=0, max_new_tokens=context.max_new_tokens, generation="I"
        )
        if row["response"].strip()
    }
    return talk.samples, [
        Refined(id_, answers.get(id_, greedy)["sample_id"], float(id_ in answers), talk.tokens(id_))
        for id_, greedy in talk.before.items()
    ]


def simpler_questions(response: str, prompt: str) -> list[str]:
    """The lines of a response that ask something, without list marks, repetitions and the task itself."""
    lines = (_LIST_MARK.sub("", line, count=1).strip() for line in response.splitlines())
    found = dict.fromkeys(line for line in lines if line.endswith("?") and line != prompt)
    return list(found)


def _next(chat: tuple[Message, ...] | None, prompt: str, question: str) -> tuple[Message, ...]:
    if chat is None:
        return ({"role": "user", "content": f"{prompt}\n\nFirst answer only this: {question}"},)
    *before, said = chat
    return replied(tuple(before), said["content"], f"Then answer only this: {question}")
