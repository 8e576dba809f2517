"""Memory: solved tasks come back as examples, and those that do not help are retired (survey 5.4)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from pydantic import Field

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.evaluation.statistics import wilson
from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Turn
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.suites import Task


class ExperienceMemory(RefinementParameters):
    """Parameters of `experience_memory`."""

    recalled: int = Field(default=2, ge=1, description="Memories that a task is shown.")
    practice: int = Field(default=32, ge=1, description="Tasks on which the memories are tried.")


@dataclass(frozen=True)
class Memory:
    """A task with a right answer to it."""

    task_id: str
    skill: str
    prompt: str
    response: str


@method(
    "refinement", "experience_memory", parameters=ExperienceMemory, section="5.4", paper="arXiv:2308.10144"
)
def experience_memory(
    context: RefinementContext, parameters: ExperienceMemory
) -> tuple[pl.DataFrame, list[Refined]]:
    """The most alike solved tasks are shown as examples; a memory under which practice fails is retired.

    In: right answers to tasks of the round's corpus; signal: the recipe's first reward of practice tasks that
    were answered with a memory in sight; out: greedy answers with the memories that remain. A memory is
    retired when the 95 % interval of its successes lies wholly below the rate of the practice without any
    memory. `agreement` is the rate of the practice with memories. ExpeL recalls whole trajectories and
    lessons that it draws from them; here a memory is one solved task, compared by the words that two tasks
    share.
    """
    memories = [Memory(**row) for row in context.solved.iter_rows(named=True)]
    talk = Conversation(context, parameters.practice)
    tried = [task for task in talk.practice if memories]
    plain = talk.ask(
        [Turn(task.task_id, talk.plain(task)) for task in tried],
        "practising without memory",
        temperature=0,
        max_new_tokens=context.max_new_tokens,
        generation="I",
    )
    shown = {task.task_id: recall(task, memories, parameters.recalled) for task in tried}
    rows = talk.ask(
        [Turn(task.task_id, _with_memories(talk.plain(task), shown[task.task_id])) for task in tried],
        "practising with memory",
        temperature=0,
        max_new_tokens=context.max_new_tokens,
        generation="I",
    )
    values = context.judge(talk.samples)
    without, successes = (
        {row["task_id"]: values.get(row["sample_id"], 0.0) >= 1 for row in asked} for asked in (plain, rows)
    )
    base = sum(without.values()) / len(without) if without else 0.0
    gone = retired({id_: [m.task_id for m in seen] for id_, seen in shown.items()}, successes, base)
    living = [memory for memory in memories if memory.task_id not in gone]
    recalled = {task.task_id: recall(task, living, parameters.recalled) for task in talk.tasks}
    answers = dict(talk.before) | {
        row["task_id"]: row
        for row in talk.ask(
            [
                Turn(task.task_id, _with_memories(talk.plain(task), recalled[task.task_id]))
                for task in talk.tasks
                if recalled[task.task_id]
            ],
            "answering with memory",
            temperature=0,
            max_new_tokens=context.max_new_tokens,
            generation="R",
        )
        if row["response"].strip()
    }
    rate = sum(successes.values()) / len(successes) if successes else 0.0
    shared = talk.shared_tokens()
    return talk.samples, [
        Refined(id_, row["sample_id"], rate, talk.tokens(id_) + shared) for id_, row in answers.items()
    ]


def recall(task: Task, memories: Sequence[Memory], count: int) -> list[Memory]:
    """The memories of the task's skill, other tasks than itself, whose prompts are most alike to its own.

    Alike is Jaccard's coefficient of the sets of words; ties go by id.
    """
    mine = set(task.prompt.casefold().split())

    def alike(memory: Memory) -> float:
        theirs = set(memory.prompt.casefold().split())
        return len(mine & theirs) / len(mine | theirs)

    others = [memory for memory in memories if memory.skill == task.skill and memory.task_id != task.task_id]
    return sorted(others, key=lambda memory: (-alike(memory), memory.task_id))[:count]


def retired(shown: Mapping[str, Sequence[str]], successes: Mapping[str, bool], base: float) -> set[str]:
    """The memories whose successes, of the tasks that they were shown with, are proven to be below `base`."""
    uses = Counter(memory for seen in shown.values() for memory in seen)
    right = Counter(memory for id_, seen in shown.items() if successes[id_] for memory in seen)
    return {memory for memory, used in uses.items() if wilson(right[memory], used).high < base}


def _with_memories(plain: tuple[Message, ...], memories: Sequence[Memory]) -> tuple[Message, ...]:
    """The chat behind turns in which the memories were asked and answered."""
    asked = [
        turn
        for memory in reversed(memories)  # the most alike comes last, next to the question
        for turn in (
            {"role": "user", "content": memory.prompt},
            {"role": "assistant", "content": memory.response},
        )
    ]
    return (*asked, *plain)
