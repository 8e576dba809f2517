"""Mixture of agents: several proposals, and one answer made from them (survey 5.3)."""

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Turn
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method

_AGGREGATE = (
    "You have been provided with a set of responses to a query. Synthesize them into a single, correct "
    "response. Evaluate them critically: some of them may be wrong.\n\n{responses}\n\nThe query: {question}"
)


class MixtureOfAgents(RefinementParameters):
    """Parameters of `mixture_of_agents`."""

    proposals: int = Field(default=3, ge=2, description="Responses that are drawn in each layer.")
    layers: int = Field(
        default=1, ge=1, description="Layers of proposals; each sees those of the layer before it."
    )
    temperature: float = Field(default=0.7, gt=0, description="Softmax temperature of the proposals.")


@method(
    "refinement", "mixture_of_agents", parameters=MixtureOfAgents, section="5.3", paper="arXiv:2406.04692"
)
def mixture_of_agents(
    context: RefinementContext, parameters: MixtureOfAgents
) -> tuple[pl.DataFrame, list[Refined]]:
    """The policy writes several responses, layer on layer, and makes one answer from the last of them.

    In: samples of each task; signal: the responses of the layer before; out: the aggregated answer, greedy.
    The paper mixes different models; here they are samples of one policy. Where the aggregated answer is
    empty the greedy one stays, with `agreement` 0; else 1.
    """
    talk = Conversation(context)
    proposals = talk.draw(
        "proposing",
        times=parameters.proposals,
        temperature=parameters.temperature,
        max_new_tokens=context.max_new_tokens,
    )
    for layer in range(2, parameters.layers + 1):
        turns = [
            Turn(task.task_id, _aggregating(rows, talk.plain(task)))
            for task, rows in zip(talk.tasks, proposals, strict=True)
            for _ in range(parameters.proposals)
        ]
        said = talk.ask(
            turns,
            f"proposing, layer {layer}",
            temperature=parameters.temperature,
            max_new_tokens=context.max_new_tokens,
            generation="I",
        )
        proposals = [
            said[start : start + parameters.proposals] for start in range(0, len(said), parameters.proposals)
        ]
    answers = talk.ask(
        [
            Turn(task.task_id, _aggregating(rows, talk.plain(task)))
            for task, rows in zip(talk.tasks, proposals, strict=True)
        ],
        "aggregating",
        temperature=0,
        max_new_tokens=context.max_new_tokens,
        generation="I",
    )
    return talk.samples, [
        Refined(
            row["task_id"],
            (row if row["response"].strip() else talk.before[row["task_id"]])["sample_id"],
            float(bool(row["response"].strip())),
            talk.tokens(row["task_id"]),
        )
        for row in answers
    ]


def _aggregating(rows: list[dict[str, str]], plain: tuple[dict[str, str], ...]) -> tuple[dict[str, str], ...]:
    shown = "\n".join(f"{number}. {row['response'].strip()}" for number, row in enumerate(rows, start=1))
    content = _AGGREGATE.format(responses=shown, question=plain[-1]["content"])
    return ({"role": "user", "content": content},)
