"""Contrastive decoding: what the candidate finds likelier than an earlier model does (survey 5.2)."""

from dataclasses import replace
from typing import Literal

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Turn
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.verifiers import comparable_answer


class ContrastiveDecoding(RefinementParameters):
    """Parameters of `contrastive_decoding`."""

    amateur: Literal["base", "incumbent"] = Field(
        default="base",
        description="Whose likely tokens are marked down: the campaign's base model, or the weights that the "
        "round started from.",
    )
    plausibility: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="alpha: tokens that the candidate finds less likely than that share of its likeliest are "
        "out; 1 leaves only the likeliest.",
    )
    amateur_temperature: float = Field(
        default=1.0, gt=0, description="Softmax temperature of the amateur's probabilities."
    )
    temperature: float = Field(
        default=0.0, ge=0, description="Softmax temperature of the contrastive score; 0 takes the best token."
    )


@method(
    "refinement",
    "contrastive_decoding",
    parameters=ContrastiveDecoding,
    section="5.2",
    paper="arXiv:2210.15097",
    needs=frozenset({"logprobs"}),
)
def contrastive_decoding(
    context: RefinementContext, parameters: ContrastiveDecoding
) -> tuple[pl.DataFrame, list[Refined]]:
    """The tokens whose log-probability rose most over an earlier model's, among those that are plausible.

    In: the candidate as the expert, and the model that it came from as the amateur; signal: log p_expert -
    log p_amateur of each token, where p_expert is at least alpha times its largest (equation 3); out: the
    answer decoded by it. Both models read every token, and both are in the price. `agreement` is 1 where the
    answer is that of greedy decoding, else 0. Li et al. take a smaller model as the amateur and search with
    beams; here it is an earlier one, which a campaign always has, and there is no beam. Where candidate and
    amateur are the same weights the greedy answers stay.
    """
    talk = Conversation(context)
    against = context.sample_against(
        parameters.amateur, parameters.plausibility, parameters.amateur_temperature
    )
    if against is None:
        return talk.samples, [
            Refined(task.task_id, talk.before[task.task_id]["sample_id"], 1.0, 0) for task in talk.tasks
        ]
    contrasted = Conversation(replace(context, sample=against))
    rows = contrasted.ask(
        [Turn(task.task_id, talk.plain(task)) for task in talk.tasks],
        "decoding against the amateur",
        temperature=parameters.temperature,
        max_new_tokens=context.max_new_tokens,
        generation="I",
    )
    refined = []
    for task, row in zip(talk.tasks, rows, strict=True):
        greedy = talk.before[task.task_id]
        kept = row if row["response"].strip() else greedy
        same = comparable_answer(task, kept["response"]) == comparable_answer(task, greedy["response"])
        refined.append(
            Refined(task.task_id, kept["sample_id"], float(same), 2 * contrasted.tokens(task.task_id))
        )
    return contrasted.samples, refined
