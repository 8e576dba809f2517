"""Complexity times quality, and then nothing that resembles what is chosen already."""

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import SelectionContext, texts_of
from selfimp_dagster.lifecycle.selection.grading import expected_grades, forges
from selfimp_dagster.lifecycle.selection.models import Role
from selfimp_dagster.lifecycle.selection.ranking import Fate, judgements
from selfimp_dagster.registry import method

_COMPLEXITY = """\
You are a helpful assistant. Please identify the complexity score of the following user query.
##Query: {prompt}
##Complexity: """

_QUALITY = """\
You are a helpful assistant. Please identify the quality score of the Response corresponding to the Question.
#Question#:
{prompt}
#Response#:
{response}
##Quality: """

_MARKS = ("##Query:", "##Complexity:", "#Question#:", "#Response#:", "##Quality:")
_GRADES = (1, 2, 3, 4, 5, 6)


class DeitaParameters(BaseModel):
    """Parameters of `deita`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_most: int = Field(default=256, ge=1, description="Rows that are kept.")
    similarity: float = Field(
        default=0.9, gt=0, le=1, description="Cosine similarity to a chosen row at which a row adds nothing."
    )
    model: Role = Field(
        default="base",
        description="Who grades and embeds: `base`, the same in every round, or `incumbent`.",
    )


@method(
    "selection",
    "deita",
    parameters=DeitaParameters,
    section="3.2.1",
    paper="arXiv:2312.15685",
    needs=frozenset({"logprobs", "embeddings"}),
)
def deita(rows: pl.DataFrame, context: SelectionContext, parameters: DeitaParameters) -> pl.DataFrame:
    """Keeps complex questions with good answers, best first, that resemble none that was kept before.

    DEITA (Liu et al., arXiv:2312.15685): the score is the complexity of the question times the quality of
    the answer, each the mean of the grades 1 to 6 under the grader's probabilities. Rows are taken by
    falling score, if their cosine similarity to every taken row is below the threshold, until there are
    `at_most`. The paper's graders are two models trained on the rankings of another; here a model of the
    campaign is asked their questions. Empty answers are dropped, and so are rows that write the marks of
    these questions.
    """
    usable = [
        place
        for place, (prompt, response) in enumerate(rows.select("prompt", "response").iter_rows())
        if response.strip() and not forges(prompt, _MARKS) and not forges(response, _MARKS)
    ]
    good = rows[usable]
    prompts = good["prompt"].unique(maintain_order=True).to_list()
    grades = [
        expected_grades(context.models, parameters.model, questions, _GRADES, label)
        for questions, label in (
            ([_COMPLEXITY.format(prompt=prompt) for prompt in prompts], "grading complexity"),
            (
                [_QUALITY.format(**row) for row in good.select("prompt", "response").to_dicts()],
                "grading quality",
            ),
        )
    ]
    by_prompt = dict(zip(prompts, grades[0], strict=True))
    complexity, quality = np.array([by_prompt[prompt] for prompt in good["prompt"]]), np.array(grades[1])
    points = context.models.embed(parameters.model, texts_of(good), "embedding")
    scores = complexity * quality
    taken, nearest = diverse(points, scores, parameters.similarity, parameters.at_most)
    at = {place: number for number, place in enumerate(usable)}

    def fate(place: int, response: str) -> Fate:
        if place not in at:
            reason = "writes the marks of a grader's question" if response.strip() else "is empty"
            return Fate(None, False, reason, {})
        number = at[place]
        twin, similarity = nearest[number]
        evidence = {"complexity": complexity[number], "quality": quality[number], "similarity": similarity}
        if number in taken:
            return Fate(scores[number], True, "complex, good and unlike the rows before it", evidence)
        if twin is None:
            return Fate(scores[number], False, f"{parameters.at_most} better rows are kept", evidence)
        evidence["resembles"] = good["sample_id"][twin]
        return Fate(scores[number], False, "resembles a better row", evidence)

    return judgements(rows, (fate(place, response) for place, response in enumerate(rows["response"])))


def diverse(
    points: np.ndarray, scores: np.ndarray, threshold: float, count: int
) -> tuple[set[int], list[tuple[int | None, float | None]]]:
    """Who is taken by falling score, and of each row the taken one that it resembles and the similarity.

    A row that resembles none has none, with its similarity to the nearest row taken before it; a row
    behind the last one that was taken was compared with nothing. Rows of equal scores go by place.

    Args:
        points: at unit length, shape (rows, dimensions).
        scores: shape (rows,).
        threshold: the cosine similarity from which on rows resemble each other.
        count: rows to take at most.
    """
    taken: list[int] = []
    found: list[tuple[int | None, float | None]] = [(None, None)] * len(points)
    for place in np.argsort(-scores, kind="stable").tolist():
        if len(taken) == count:
            break
        similarities = points[taken] @ points[place]
        nearest = float(similarities.max()) if taken else None
        if nearest is not None and nearest >= threshold:
            found[place] = taken[int(similarities.argmax())], nearest
        else:
            found[place] = None, nearest
            taken.append(place)
    return set(taken), found
