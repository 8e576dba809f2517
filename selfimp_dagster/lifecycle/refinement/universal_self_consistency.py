"""Universal self-consistency: the policy itself names its most consistent response (survey 5.2)."""

import re

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Turn
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method

_CHOICE = re.compile(r"\b(?:response\s*)?(\d+)\b", re.IGNORECASE)


class UniversalSelfConsistency(RefinementParameters):
    """Parameters of `universal_self_consistency`."""

    samples: int = Field(default=4, ge=2, description="Responses of each task to choose from.")
    temperature: float = Field(default=0.7, gt=0, description="Softmax temperature of the responses.")
    choice_tokens: int = Field(default=16, ge=1, description="Tokens in which the choice must be named.")


@method(
    "refinement",
    "universal_self_consistency",
    parameters=UniversalSelfConsistency,
    section="5.2",
    paper="arXiv:2311.17311",
)
def universal_self_consistency(
    context: RefinementContext, parameters: UniversalSelfConsistency
) -> tuple[pl.DataFrame, list[Refined]]:
    """The policy is shown its responses and chooses the most consistent one; answers need no common form.

    In: samples of each task; signal: the policy's greedy choice among them; out: the chosen response. Where
    it names none of them the greedy answer stays, with `agreement` 0; else 1.
    """
    talk = Conversation(context)
    drawn = talk.draw(
        "sampling responses",
        times=parameters.samples,
        temperature=parameters.temperature,
        max_new_tokens=context.max_new_tokens,
    )
    turns = [
        Turn(task.task_id, _choosing(task.prompt, [row["response"] for row in rows]))
        for task, rows in zip(talk.tasks, drawn, strict=True)
    ]
    choices = talk.ask(
        turns,
        "choosing the most consistent",
        temperature=0,
        max_new_tokens=parameters.choice_tokens,
        generation="I",
    )
    refined = []
    for task, rows, choice in zip(talk.tasks, drawn, choices, strict=True):
        number = chosen_number(choice["response"], len(rows))
        carrier = talk.before[task.task_id] if number is None else rows[number - 1]
        agreement = 0.0 if number is None else 1.0
        refined.append(Refined(task.task_id, carrier["sample_id"], agreement, talk.tokens(task.task_id)))
    return talk.samples, refined


def chosen_number(response: str, choices: int) -> int | None:
    """The first number from 1 to `choices` that a response names; None if it names none."""
    numbers = (int(match[1]) for match in _CHOICE.finditer(response))
    return next((number for number in numbers if 1 <= number <= choices), None)


def _choosing(prompt: str, responses: list[str]) -> tuple[dict[str, str], ...]:
    shown = "\n\n".join(f"Response {number}: {text}" for number, text in enumerate(responses, start=1))
    content = (
        f"I have generated the following responses to the question: {prompt}\n\n{shown}\n\n"
        "Evaluate these responses. Select the most consistent response based on majority consensus. Start "
        'your answer with "The most consistent response is Response X" (without quotes).'
    )
    return ({"role": "user", "content": content},)
