"""Tree of thoughts: partial solutions are proposed, valued, and the best are gone on with (survey 5.2)."""

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Row, Turn
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method

VALUES = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}
"""What a word of the policy's counts when it values a partial solution (the paper's numbers)."""

_PROPOSE = "{prompt}\n\nSteps so far:\n{steps}\n\nWrite only the next step towards the answer, on one line."
_VALUE = (
    "{prompt}\n\nSteps so far:\n{steps}\n\nCan these steps lead to the right answer? Answer with one word: "
    "sure, likely or impossible."
)
_ANSWER = "{prompt}\n\nSteps so far:\n{steps}\n\n{question}"


class TreeOfThoughts(RefinementParameters):
    """Parameters of `tree_of_thoughts`."""

    depth: int = Field(default=2, ge=1, description="Steps from the task to the answer.")
    breadth: int = Field(default=2, ge=1, description="Partial solutions that each level keeps.")
    proposals: int = Field(default=2, ge=1, description="Next steps drawn for each partial solution.")
    valuations: int = Field(default=1, ge=1, description="Times that a partial solution is valued.")
    temperature: float = Field(default=0.7, gt=0, description="Softmax temperature of steps and values.")
    step_tokens: int = Field(default=32, ge=1, description="Tokens of a step.")


@method("refinement", "tree_of_thoughts", parameters=TreeOfThoughts, section="5.2", paper="arXiv:2305.10601")
def tree_of_thoughts(
    context: RefinementContext, parameters: TreeOfThoughts
) -> tuple[pl.DataFrame, list[Refined]]:
    """A breadth-first search over steps of reasoning that the policy proposes and values itself.

    In: the task; signal: the policy's words sure, likely or impossible for each partial solution, summed over
    the valuations; out: the answer after the best path, greedy. Any other word counts nothing. A task whose
    paths all end in empty steps keeps its greedy answer. `agreement` is the best path's value as a share of
    what it could have.
    """
    talk = Conversation(context)
    prompts = {task.task_id: task.prompt for task in talk.tasks}
    paths: dict[str, list[tuple[str, ...]]] = {id_: [()] for id_ in prompts}
    values: dict[str, list[float]] = {id_: [0.0] for id_ in prompts}
    for level in range(1, parameters.depth + 1):
        grown = _grow(talk, paths, prompts, parameters, level)
        valued = _value(talk, grown, prompts, parameters, level)
        for id_, children in grown.items():
            order = sorted(range(len(children)), key=lambda place: (-valued[id_][place], place))
            kept = order[: parameters.breadth]
            paths[id_] = [children[place] for place in kept]
            values[id_] = [valued[id_][place] for place in kept]
    found = [task for task in talk.tasks if paths[task.task_id] and paths[task.task_id][0]]
    answers: dict[str, Row] = {
        row["task_id"]: row
        for row in talk.ask(
            [
                Turn(
                    task.task_id,
                    _asked(_ANSWER, task.prompt, paths[task.task_id][0], talk.plain(task)[-1]["content"]),
                )
                for task in found
            ],
            "answering",
            temperature=0,
            max_new_tokens=context.max_new_tokens,
            generation="I",
        )
        if row["response"].strip()
    }
    most = VALUES["sure"] * parameters.valuations
    return talk.samples, [
        Refined(
            id_,
            answers.get(id_, greedy)["sample_id"],
            values[id_][0] / most if id_ in answers else 0.0,
            talk.tokens(id_),
        )
        for id_, greedy in talk.before.items()
    ]


def _grow(
    talk: Conversation,
    paths: dict[str, list[tuple[str, ...]]],
    prompts: dict[str, str],
    parameters: TreeOfThoughts,
    level: int,
) -> dict[str, list[tuple[str, ...]]]:
    """Every path with each of its proposed next steps; those without any stay as they are."""
    asked = [(id_, path) for id_, kept in paths.items() for path in kept for _ in range(parameters.proposals)]
    steps = talk.ask(
        [Turn(id_, _asked(_PROPOSE, prompts[id_], path)) for id_, path in asked],
        f"proposing steps {level}",
        temperature=parameters.temperature,
        max_new_tokens=parameters.step_tokens,
        generation="I",
    )
    grown: dict[str, list[tuple[str, ...]]] = {}
    for (id_, path), row in zip(asked, steps, strict=True):
        step = next((line.strip() for line in row["response"].splitlines() if line.strip()), None)
        longer = path if step is None else (*path, step)
        children = grown.setdefault(id_, [])
        if longer not in children:
            children.append(longer)
    return grown


def _value(
    talk: Conversation,
    paths: dict[str, list[tuple[str, ...]]],
    prompts: dict[str, str],
    parameters: TreeOfThoughts,
    level: int,
) -> dict[str, list[float]]:
    asked = [
        (id_, place)
        for id_, children in paths.items()
        for place in range(len(children))
        for _ in range(parameters.valuations)
    ]
    words = talk.ask(
        [Turn(id_, _asked(_VALUE, prompts[id_], paths[id_][place])) for id_, place in asked],
        f"valuing steps {level}",
        temperature=parameters.temperature,
        max_new_tokens=4,
        generation="I",
    )
    values = {id_: [0.0] * len(children) for id_, children in paths.items()}
    for (id_, place), row in zip(asked, words, strict=True):
        values[id_][place] += value_of(row["response"])
    return values


def value_of(response: str) -> float:
    """What the first word of a valuation counts; a word that is none of VALUES counts nothing."""
    words = response.casefold().split()
    return VALUES.get(words[0].strip(".,!:"), 0.0) if words else 0.0


def _asked(form: str, prompt: str, steps: tuple[str, ...], question: str = "") -> tuple[dict[str, str], ...]:
    shown = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1)) or "none"
    return ({"role": "user", "content": form.format(prompt=prompt, steps=shown, question=question)},)
