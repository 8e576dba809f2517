"""Complexity times quality, and then nothing that resembles what is chosen already."""

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.rewards.context import Question
from selfimp_dagster.lifecycle.rewards.sources import BaseWeights, JudgeSource
from selfimp_dagster.lifecycle.rewards.verdicts import question, quoted
from selfimp_dagster.lifecycle.selection.chain import SelectionContext, texts_of
from selfimp_dagster.lifecycle.selection.grading import expected_grades
from selfimp_dagster.lifecycle.selection.models import Role
from selfimp_dagster.lifecycle.selection.ranking import Fate, judgements
from selfimp_dagster.registry import method

_GRADES = (1, 2, 3, 4, 5, 6)
_SCALE = "Reply with a whole number alone, from 1, the lowest, to 6, the highest."


class DeitaParameters(BaseModel):
    """Parameters of `deita`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_most: int = Field(default=256, ge=1, description="Rows that are kept.")
    similarity: float = Field(
        default=0.9, gt=0, le=1, description="Cosine similarity to a chosen row at which a row adds nothing."
    )
    judge: JudgeSource = Field(
        default=BaseWeights(),
        description="Who grades. source: base, the campaign's base model; incumbent; model, with a `model`; "
        "endpoint, with `url` and `model`.",
    )
    model: Role = Field(
        default="base", description="Whose embedding space: that of `base` or of `incumbent`."
    )


@method(
    "selection",
    "deita",
    parameters=DeitaParameters,
    section="3.2.1",
    paper="arXiv:2312.15685",
    needs=frozenset({"embeddings"}),
)
def deita(rows: pl.DataFrame, context: SelectionContext, parameters: DeitaParameters) -> pl.DataFrame:
    """Keeps complex questions with good answers, best first, that resemble none that was kept before.

    DEITA (Liu et al., arXiv:2312.15685): the score is the complexity of the question times the quality of
    the answer, each the mean of the grades 1 to 6 under the grader's probabilities. Rows are taken by
    falling score, if their cosine similarity to every taken row is below the threshold, until there are
    `at_most`. The paper's graders are two models trained on the rankings of another; here a judge is asked
    their questions. It may be the weights that drew the samples, for it only ranks what stands in the
    corpus: have `verified` before it say what is right. Rows without an answer or a grade are dropped.
    """
    judge = context.judge(parameters.judge)
    spoken = rows.filter(pl.col("response").str.strip_chars() != "")
    prompts = spoken["prompt"].unique(maintain_order=True).to_list()
    complexities = dict(
        zip(
            prompts,
            expected_grades(
                judge, [_complexity(prompt) for prompt in prompts], _GRADES, "grading complexity"
            ),
            strict=True,
        )
    )
    answered = [_quality(*pair) for pair in spoken.select("prompt", "response").iter_rows()]
    qualities = expected_grades(judge, answered, _GRADES, "grading quality")
    graded: dict[str, tuple[float, float]] = {}
    ungraded: dict[str, str] = {}
    for (sample_id, prompt), (quality, why_not) in zip(
        spoken.select("sample_id", "prompt").iter_rows(), qualities, strict=True
    ):
        complexity, why = complexities[prompt]
        if complexity is None or quality is None:
            ungraded[sample_id] = why or why_not
        else:
            graded[sample_id] = complexity, quality
    usable = spoken.filter(pl.col("sample_id").is_in(list(graded)))
    points = context.models.embed(parameters.model, texts_of(usable), "embedding")
    scores = np.array([complexity * quality for complexity, quality in graded.values()])
    taken, nearest = diverse(points, scores, parameters.similarity, parameters.at_most)
    at = {sample_id: place for place, sample_id in enumerate(graded)}

    def fate(sample_id: str) -> Fate:
        if sample_id not in at:
            return Fate(None, False, ungraded.get(sample_id, "is empty"), {})
        place = at[sample_id]
        complexity, quality = graded[sample_id]
        twin, similarity = nearest[place]
        evidence: dict[str, object] = {"complexity": complexity, "quality": quality, "similarity": similarity}
        if place in taken:
            return Fate(float(scores[place]), True, "complex, good and unlike the rows before it", evidence)
        if twin is None:
            return Fate(float(scores[place]), False, f"{parameters.at_most} better rows are kept", evidence)
        evidence |= {"resembles": usable["sample_id"][twin]}
        return Fate(float(scores[place]), False, "resembles a better row", evidence)

    return judgements(rows, map(fate, rows["sample_id"]))


def _complexity(prompt: str) -> Question:
    return question(
        0, f"Query:\n{quoted(prompt)}", f"Please identify the complexity score of the user query. {_SCALE}"
    )


def _quality(prompt: str, response: str) -> Question:
    return question(
        0,
        f"Question:\n{quoted(prompt)}",
        f"Response:\n{quoted(response)}",
        f"Please identify the quality score of the Response corresponding to the Question. {_SCALE}",
    )


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
