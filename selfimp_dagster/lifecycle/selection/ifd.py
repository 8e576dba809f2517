"""Instruction-following difficulty: how little the question helps with the answer."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import SelectionContext
from selfimp_dagster.lifecycle.selection.models import Role, perplexity
from selfimp_dagster.lifecycle.selection.ranking import Fate, highest, judgements
from selfimp_dagster.registry import method


class IfdParameters(BaseModel):
    """Parameters of `ifd`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of the rows with an IFD below 1 that is kept; the paper: 0.1.",
    )
    model: Role = Field(
        default="incumbent", description="Whose perplexities: `incumbent`, anew every round, or `base`."
    )


@method(
    "selection",
    "ifd",
    parameters=IfdParameters,
    section="3.2.2",
    paper="arXiv:2402.00530",
    needs=frozenset({"logprobs"}),
)
def ifd(rows: pl.DataFrame, context: SelectionContext, parameters: IfdParameters) -> pl.DataFrame:
    """Keeps the answers that stay hard although the question is known: the highest IFD below 1.

    The score is IFD(x, y) = perplexity(y given x) / perplexity(y) (Li et al., arXiv:2308.12032; in the
    form of perplexities, arXiv:2402.00530). At 1 or more the question does not help with the answer,
    which then belongs to another question. An answer of a single token has no perplexity of its own and
    is dropped. Where the paper scores a fixed corpus once, the incumbent scores each round's corpus anew.
    """
    asked = context.asked(rows)
    given = context.models.losses(parameters.model, asked, "answers, asked")
    alone = context.models.losses(parameters.model, [((), answer) for _, answer in asked], "answers, alone")
    perplexities = [
        None if with_question is None or without is None else (perplexity(with_question), perplexity(without))
        for with_question, without in zip(given, alone, strict=True)
    ]
    scores = [found and found[0] / found[1] for found in perplexities]
    best = highest([score if score is not None and score < 1 else None for score in scores], parameters.share)

    def fate(place: int) -> Fate:
        found, score = perplexities[place], scores[place]
        if found is None or score is None:
            return Fate(None, False, "has too few tokens for a perplexity of its own", {})
        if score >= 1:
            reason = "the question does not help with the answer"
        elif place in best:
            reason = f"among the hardest {parameters.share:.0%} that the question helps with"
        else:
            reason = f"easier than the hardest {parameters.share:.0%}"
        return Fate(
            score,
            place in best,
            reason,
            {"perplexity_given_question": found[0], "perplexity_alone": found[1]},
        )

    return judgements(rows, map(fate, range(rows.height)))
