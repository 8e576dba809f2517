"""Prompt search: the policy writes instructions for itself, and the best one is used (survey 5.4)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from pydantic import Field

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Turn
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.suites import Task

MOST_CHARACTERS = 300
"""Longer instructions are refused: a policy that does not stop writing has written none."""

_PROPOSE = (
    "I have some texts along with their scores from 0 to 100. The texts are arranged in ascending order by "
    "their scores; a higher score is better.\n\n{scored}\n\nThese are questions that the text is put in "
    "front of:\n{examples}\n\nWrite a new text that is different from the old ones and has a score as high "
    "as possible. Write the text in square brackets."
)
_EVOLVE = (
    "Please follow the instructions step by step to generate a better prompt.\n1. Cross over the following "
    "prompts and generate a new prompt:\nPrompt 1: {first}\nPrompt 2: {second}\n2. Mutate the prompt "
    "generated in step 1 and write the final prompt in square brackets."
)
_VARY = "Write a variation of this instruction that keeps its meaning, in square brackets: {instruction}"
_BRACKETS = re.compile(r"\[([^\[\]]+)\]")


@dataclass(frozen=True)
class Scored:
    """An instruction and the share of the practice tasks that it answers right."""

    instruction: str
    score: float


class PromptSearch(RefinementParameters):
    """What both searches can be told."""

    practice: int = Field(
        default=32, ge=1, description="Tasks of the corpus that an instruction is tried on."
    )
    instruction: str = Field(
        default="Let's think step by step.", description="The instruction that the search starts from."
    )
    temperature: float = Field(default=1.0, gt=0, description="Softmax temperature of new instructions.")
    instruction_tokens: int = Field(default=48, ge=1, description="Tokens of a new instruction.")


class Opro(PromptSearch):
    """Parameters of `opro`."""

    steps: int = Field(default=2, ge=1, description="Times that new instructions are asked for.")
    proposals: int = Field(default=3, ge=1, description="Instructions that are asked for at a time.")
    shown: int = Field(default=8, ge=1, description="Best instructions so far that the policy is shown.")


class EvoPrompt(PromptSearch):
    """Parameters of `evoprompt`."""

    population: int = Field(default=4, ge=2, description="Instructions that live at a time.")
    generations: int = Field(default=2, ge=1, description="Times that a generation of children is made.")


@method("refinement", "opro", parameters=Opro, section="5.4", paper="arXiv:2309.03409")
def opro(context: RefinementContext, parameters: Opro) -> tuple[pl.DataFrame, list[Refined]]:
    """The policy sees instructions with their scores and writes better ones (OPRO).

    In: tasks of the round's corpus to practise on; signal: the recipe's first reward of greedy answers under
    each instruction; out: answers to the tasks under the best instruction, which no task that is answered
    helped to choose. No instruction at all is one of those that are compared, and wins ties; then the greedy
    answers stay. `agreement` is the best score. The paper's optimizer and scorer are two models; here the
    policy is both.
    """
    search = _Search(context, parameters)
    if context.practice.is_empty():
        return search.answer()
    search.score(["", parameters.instruction], "scoring the start")
    for step in range(1, parameters.steps + 1):
        shown = search.best(parameters.shown)[::-1]
        text = "\n\n".join(f"text: {s.instruction or '(nothing)'}\nscore: {100 * s.score:.0f}" for s in shown)
        asked = _PROPOSE.format(scored=text, examples=search.examples())
        new = search.write([asked] * parameters.proposals, f"writing instructions {step}")
        search.score(new, f"scoring instructions {step}")
    return search.answer()


@method("refinement", "evoprompt", parameters=EvoPrompt, section="5.4", paper="arXiv:2309.08532")
def evoprompt(context: RefinementContext, parameters: EvoPrompt) -> tuple[pl.DataFrame, list[Refined]]:
    """A population of instructions is crossed and mutated by the policy; the fittest live on (EvoPrompt, GA).

    In, signal, out and `agreement` as in `opro`. Parents are drawn by roulette, in proportion to their
    scores; after each generation the best of parents and children remain. The first population is the
    instruction with variations of it that the policy writes.
    """
    search = _Search(context, parameters)
    if context.practice.is_empty():
        return search.answer()
    chosen = np.random.default_rng(context.seed)
    varied = [_VARY.format(instruction=parameters.instruction)] * (parameters.population - 1)
    search.score(["", parameters.instruction], "scoring the start")
    search.score(search.write(varied, "varying the instruction"), "scoring the first population")
    for generation in range(1, parameters.generations + 1):
        living = search.best(parameters.population)
        fitness = roulette([scored.score for scored in living])
        pairs = [chosen.choice(len(living), size=2, p=fitness) for _ in range(parameters.population)]
        asked = [
            _EVOLVE.format(first=living[one].instruction, second=living[other].instruction)
            for one, other in pairs
        ]
        children = search.write(asked, f"crossing instructions {generation}")
        search.score(children, f"scoring generation {generation}")
    return search.answer()


def roulette(scores: Sequence[float]) -> list[float]:
    """Chances in proportion to scores; equal ones if all are 0."""
    total = math.fsum(scores)
    return [score / total if total else 1 / len(scores) for score in scores]


def new_instruction(response: str) -> str | None:
    """What a response has in its first square brackets, else its first line; None if that is none."""
    match = _BRACKETS.search(response)
    lines = [match[1]] if match else [line for line in response.splitlines() if line.strip()]
    text = " ".join(lines[0].split()) if lines else ""
    return text if 0 < len(text) <= MOST_CHARACTERS else None


class _Search:
    """Instructions and what they scored."""

    def __init__(self, context: RefinementContext, parameters: PromptSearch) -> None:
        self._context, self._parameters = context, parameters
        self._talk = Conversation(context, parameters.practice)
        self._scores: dict[str, float] = {}

    def examples(self) -> str:
        return "\n".join(f"- {task.prompt}" for task in self._talk.practice[:3])

    def score(self, instructions: Sequence[str], label: str) -> None:
        """Scores the instructions that are new."""
        for number, instruction in enumerate(dict.fromkeys(instructions)):
            if instruction not in self._scores:
                chats = {task.task_id: self._chat(instruction, task) for task in self._talk.practice}
                self._scores[instruction] = self._talk.practised(chats, f"{label}, {number + 1}")

    def best(self, count: int) -> list[Scored]:
        """The best instructions, best first; of equal ones the older."""
        ranked = sorted(self._scores.items(), key=lambda scored: -scored[1])
        return [Scored(*scored) for scored in ranked[:count]]

    def write(self, asked: Sequence[str], label: str) -> list[str]:
        """The instructions that the policy writes; what is none is left out."""
        place = self._talk.practice[
            0
        ].task_id  # instructions are asked of no task: they are kept with the first
        rows = self._talk.ask(
            [Turn(place, ({"role": "user", "content": text},)) for text in asked],
            label,
            temperature=self._parameters.temperature,
            max_new_tokens=self._parameters.instruction_tokens,
            generation="I",
        )
        written = (new_instruction(row["response"]) for row in rows)
        return [instruction for instruction in written if instruction is not None]

    def answer(self) -> tuple[pl.DataFrame, list[Refined]]:
        """Greedy answers under the best instruction; without any, those that are there."""
        best = self.best(1)[0] if self._scores else Scored("", 0.0)
        answers = dict(self._talk.before)
        if best.instruction:
            rows = self._talk.ask(
                [Turn(task.task_id, self._chat(best.instruction, task)) for task in self._talk.tasks],
                "answering",
                temperature=0,
                max_new_tokens=self._context.max_new_tokens,
                generation="R",
            )
            answers = {row["task_id"]: row for row in rows}
        shared = self._talk.shared_tokens()
        return self._talk.samples, [
            Refined(id_, row["sample_id"], best.score, self._talk.tokens(id_) + shared)
            for id_, row in answers.items()
        ]

    def _chat(self, instruction: str, task: Task) -> tuple[Message, ...]:
        *before, last = self._talk.plain(task)
        told = f"{instruction}\n{last['content']}" if instruction else last["content"]
        return (*before, {**last, "content": told})
