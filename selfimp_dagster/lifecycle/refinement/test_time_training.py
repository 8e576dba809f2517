"""Test-time training: weights that move for the tasks at hand, and are put back after (survey 5.5)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from pydantic import Field

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.optimization.groups import grpo_advantages
from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Row, Turn
from selfimp_dagster.lifecycle.refinement.refined import (
    Adapted,
    Refined,
    RefinementContext,
    RefinementParameters,
)
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.verifiers import comparable_answer


class TestTimeTraining(RefinementParameters):
    """What every method here can be told."""

    __test__ = False  # its name is no test's

    rank: int = Field(default=8, ge=1, description="Rank of the temporary LoRA adapter.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Learning rate of the adapter, constant.")


class TtSft(TestTimeTraining):
    """Parameters of `tt_sft`."""

    neighbours: int = Field(default=8, ge=1, description="Solved tasks that are learnt for each task.")
    epochs: int = Field(default=2, ge=1, description="Passes over them, one step each.")


class TestTimeRl(TestTimeTraining):
    """What the methods that draw groups can be told."""

    steps: int = Field(default=4, ge=1, description="Steps, each on newly drawn groups.")
    group: int = Field(default=8, ge=2, description="Responses drawn to a task in each step.")
    temperature: float = Field(default=1.0, gt=0, description="Softmax temperature of the groups.")


class Ttrl(TestTimeRl):
    """Parameters of `ttrl`."""


class Ladder(TestTimeRl):
    """Parameters of `ladder`."""

    variants: int = Field(default=16, ge=1, description="Easier tasks of each rung that are practised on.")


@method(
    "refinement",
    "tt_sft",
    parameters=TtSft,
    section="5.5",
    paper="arXiv:2305.18466",
    needs=frozenset({"embeddings", "gradients"}),
)
def tt_sft(context: RefinementContext, parameters: TtSft) -> tuple[pl.DataFrame, list[Refined]]:
    """For each task the policy is fine-tuned on its nearest solved tasks, answers, and forgets again.

    In: tasks with answers that the recipe's first reward accepts; signal: those whose prompts are nearest in
    the policy's own embeddings (cosine); out: the greedy answer with a LoRA adapter that was trained on them,
    from its beginning anew for each task. At the end the weights are bit by bit what they were, or the stage
    fails. `agreement` is the mean similarity of the neighbours. Hardt and Sun train all weights on documents
    of a large index, one step each; here the neighbours are the policy's verified answers, and an adapter is
    what moves.
    """
    talk, solved = Conversation(context), context.solved
    if solved.is_empty():
        return _unchanged(talk)
    prompts = [task.prompt for task in talk.tasks]
    nearest = neighbours(
        context.embed(prompts), context.embed(solved["prompt"].to_list()), parameters.neighbours
    )
    lessons = [
        (context.messages(prompt), response, True)
        for prompt, response in solved.select("prompt", "response").iter_rows()
    ]
    refined = []
    with context.adapt(rank=parameters.rank, learning_rate=parameters.learning_rate) as adapter:
        adapted = Conversation(replace(context, sample=adapter.sample))
        for task, near in zip(talk.tasks, nearest, strict=True):
            before = adapter.tokens
            adapter.reset()
            for _ in range(parameters.epochs):
                adapter.step([lessons[place] for place, _ in near], [1.0] * len(near))
            (row,) = _answers(adapted, [task], context)
            alike = sum(similarity for _, similarity in near) / len(near)
            refined.append(
                Refined(
                    task.task_id,
                    _said(row, talk)["sample_id"],
                    min(1.0, max(0.0, alike)),
                    adapted.tokens(task.task_id) + adapter.tokens - before,
                )
            )
    return adapted.samples, refined


@method(
    "refinement",
    "ttrl",
    parameters=Ttrl,
    section="5.5",
    paper="arXiv:2504.16084",
    needs=frozenset({"verifier", "gradients"}),
)
def ttrl(context: RefinementContext, parameters: Ttrl) -> tuple[pl.DataFrame, list[Refined]]:
    """Reinforcement learning on the very tasks to be answered, with the majority's answer as the label.

    In: the tasks without their answers; signal: 1 for a response that gives the answer of most of its group,
    0 for another; where answers tie, or there is none, the group teaches nothing; out: the greedy answers
    after so many steps of GRPO on an adapter, each on groups drawn from the policy as it then is, so that all
    probability ratios are 1. Then the weights are bit by bit what they were, or the stage fails. `agreement`
    is the share of the last group that gives the answer. Zuo et al. train all weights, with more votes than
    responses that are learnt from; here an adapter moves, and each vote is learnt from.
    """
    talk = Conversation(context)
    with context.adapt(rank=parameters.rank, learning_rate=parameters.learning_rate) as adapter:
        adapted = Conversation(replace(context, sample=adapter.sample))
        groups: list[list[Row]] = []
        for step in range(1, parameters.steps + 1):
            groups = _draw_groups(adapted, talk.tasks, step, context, parameters)
            values = {
                row["sample_id"]: value
                for task, rows in zip(talk.tasks, groups, strict=True)
                for row, value in zip(rows, majority(task, rows), strict=True)
            }
            _reinforce(adapter, groups, values)
        answers = _answers(adapted, talk.tasks, context)
        trained = adapter.tokens // len(talk.tasks)
    refined = []
    for task, row, rows in zip(talk.tasks, answers, groups, strict=True):
        kept = _said(row, talk)
        answer = comparable_answer(task, kept["response"])
        agree = sum(comparable_answer(task, vote["response"]) == answer is not None for vote in rows)
        refined.append(
            Refined(
                task.task_id, kept["sample_id"], agree / len(rows), adapted.tokens(task.task_id) + trained
            )
        )
    return adapted.samples, refined


@method(
    "refinement",
    "ladder",
    parameters=Ladder,
    section="5.5",
    paper="arXiv:2503.00735",
    needs=frozenset({"verifier", "gradients"}),
)
def ladder(context: RefinementContext, parameters: Ladder) -> tuple[pl.DataFrame, list[Refined]]:
    """The policy climbs from easier tasks to the one at hand by reinforcement learning, and forgets again.

    In: tasks of the round's corpus of the same skill and a lower difficulty, rung by rung from the easiest;
    signal: the recipe's first reward; out: the greedy answers after steps of GRPO on each rung, with an
    adapter of their own for the tasks of a skill and a difficulty. Then the weights are bit by bit what they
    were, or the stage fails. Tasks without easier ones keep their greedy answer, with `agreement` 0; else it
    is the mean reward of the last groups. In LADDER (Simonds and Yoshiyama) the policy writes the easier
    variants itself, and a numerical check of integrals judges them; here they are the suites' own tasks of
    lower levels, which come with a verifier.
    """
    talk = Conversation(context)
    kinds = sorted({(task.skill, task.difficulty) for task in talk.tasks if task.difficulty is not None})
    answers: dict[str, Row] = dict(talk.before)
    sure: dict[str, float] = {}
    drawn, costs = [talk.samples], Counter[str]()
    for skill, difficulty in kinds:
        easier = context.practice.filter(
            (pl.col("skill") == skill) & (pl.col("difficulty") < difficulty)
        ).sort("difficulty", "task_id")
        if easier.is_empty():
            continue
        own = [task for task in talk.tasks if (task.skill, task.difficulty) == (skill, difficulty)]
        with context.adapt(rank=parameters.rank, learning_rate=parameters.learning_rate) as adapter:
            adapted = Conversation(replace(context, sample=adapter.sample))
            level, step = 0.0, 0
            for rung in easier.partition_by("difficulty", maintain_order=True):
                tasks = tasks_from_frame(rung.head(parameters.variants))
                for _ in range(parameters.steps):
                    step += 1
                    groups = _draw_groups(adapted, tasks, step, context, parameters)
                    rows = [row for group in groups for row in group]
                    values = context.judge(pl.DataFrame(rows, schema=adapted.samples.schema))
                    _reinforce(adapter, groups, values)
                    level = sum(values.values()) / len(rows)
            for task, row in zip(own, _answers(adapted, own, context), strict=True):
                answers[task.task_id] = _said(row, talk)
                sure[task.task_id] = min(1.0, max(0.0, level))
            spent = adapter.tokens + int(
                adapted.samples.select(pl.sum("prompt_tokens") + pl.sum("completion_tokens")).item()
            )
            costs |= {task.task_id: spent // len(own) for task in own}
        drawn.append(adapted.samples)
    return pl.concat(drawn), [
        Refined(id_, row["sample_id"], sure.get(id_, 0.0), costs[id_]) for id_, row in answers.items()
    ]


def neighbours(asked: np.ndarray, known: np.ndarray, count: int) -> list[list[tuple[int, float]]]:
    """The nearest rows of `known` to each row of `asked`, with their cosine; ties by place.

    Args:
        asked, known: embeddings at unit length, shapes (asked, hidden) and (known, hidden).
    """
    found = []
    for similarities in asked @ known.T:
        order = np.argsort(-similarities, kind="stable")[:count]
        found.append([(int(place), float(similarities[place])) for place in order])
    return found


def majority(task: Task, rows: Sequence[Row]) -> list[float | None]:
    """1 for each response that gives the most frequent answer, 0 for the others; none without a majority."""
    answers = [comparable_answer(task, row["response"]) for row in rows]
    leaders = Counter(answer for answer in answers if answer is not None).most_common(2)
    if not leaders or (len(leaders) == 2 and leaders[0][1] == leaders[1][1]):
        return [None] * len(rows)
    return [float(answer == leaders[0][0]) for answer in answers]


def _draw_groups(
    talk: Conversation,
    tasks: Sequence[Task],
    step: int,
    context: RefinementContext,
    parameters: TestTimeRl,
) -> list[list[Row]]:
    """A group of responses to each task, drawn as every stage asks."""
    rows = talk.ask(
        [Turn(task.task_id, talk.plain(task)) for task in tasks for _ in range(parameters.group)],
        f"drawing groups {step}",
        temperature=parameters.temperature,
        max_new_tokens=context.max_new_tokens,
        generation="I",  # other weights drew them than the candidate's
    )
    return [rows[start : start + parameters.group] for start in range(0, len(rows), parameters.group)]


def _reinforce(
    adapter: Adapted,
    groups: Sequence[Sequence[Row]],
    values: Mapping[str, float] | Mapping[str, float | None],
) -> None:
    """One step of GRPO on the groups whose responses differ in their value."""
    rows = {row["sample_id"]: row for group in groups for row in group}
    told = pl.DataFrame(
        [
            {"sample_id": id_, "task_id": row["task_id"], "value": values[id_]}
            for id_, row in rows.items()
            if values.get(id_) is not None
        ],
        schema={"sample_id": pl.String, "task_id": pl.String, "value": pl.Float64},
    )
    several = told.filter(pl.len().over("task_id") > 1)
    learnt = grpo_advantages(several, scale="group").filter(pl.col("advantage") != 0)
    if not learnt.is_empty():
        adapter.step([_as_said(rows[id_]) for id_ in learnt["sample_id"]], learnt["advantage"].to_list())


def _as_said(row: Row) -> tuple[tuple[Message, ...], str, bool]:
    return tuple(row["messages"]), row["response"], row["finish_reason"] != "length"


def _answers(talk: Conversation, tasks: Sequence[Task], context: RefinementContext) -> list[Row]:
    """The greedy answers with the adapter as it is."""
    return talk.ask(
        [Turn(task.task_id, talk.plain(task)) for task in tasks],
        "answering with the adapter",
        temperature=0,
        max_new_tokens=context.max_new_tokens,
        generation="I",
    )


def _said(row: Row, talk: Conversation) -> Row:
    """The row, or the plain greedy answer where it says nothing."""
    return row if row["response"].strip() else talk.before[row["task_id"]]


def _unchanged(talk: Conversation) -> tuple[pl.DataFrame, list[Refined]]:
    return talk.samples, [Refined(id_, row["sample_id"], 0.0, 0) for id_, row in talk.before.items()]
