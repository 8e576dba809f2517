"""A model grades every row, and what it grades high is kept."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import SelectionContext
from selfimp_dagster.lifecycle.selection.grading import expected_grades, forges
from selfimp_dagster.lifecycle.selection.models import Role
from selfimp_dagster.lifecycle.selection.ranking import Fate, judgements
from selfimp_dagster.registry import method

_FORM = """\
We would like to request your feedback on the performance of AI assistant in response to the instruction \
displayed following.

Instruction: {prompt}

Response: {response}

Please rate according to the {dimension} of the response to the instruction. The assistant receives a score \
on a scale of 0 to 5, where a higher score indicates higher level of the {dimension}. Please output a single \
line containing the value indicating the score."""

_MARKS = ("Instruction:", "Response:", "Please rate according to")
_GRADES = (0, 1, 2, 3, 4, 5)


class LlmGradeParameters(BaseModel):
    """Parameters of `llm_grade`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minimum: float = Field(default=4.5, ge=0, le=5, description="The smallest mean grade that is kept.")
    dimension: str = Field(default="accuracy", description="What the grade is of: accuracy, helpfulness, ...")
    model: Role = Field(
        default="base",
        description="Who grades: `base`, the same in every round, or `incumbent`, which grades itself.",
    )


@method(
    "selection",
    "llm_grade",
    parameters=LlmGradeParameters,
    section="3.2.1",
    paper="arXiv:2307.08701",
    needs=frozenset({"logprobs"}),
)
def llm_grade(rows: pl.DataFrame, context: SelectionContext, parameters: LlmGradeParameters) -> pl.DataFrame:
    """Keeps the rows that a model grades at 4.5 or more of 5.

    The question and the threshold are AlpaGasus's (Chen et al., arXiv:2307.08701). The score is the mean
    of the grades 0 to 5 under the grader's probabilities, not the one grade that it would write: a small
    model's written grade is mostly noise. A judge that writes is a reward, and `verified` keeps by its
    value. Empty answers are dropped, and so are rows that write the marks of the question: they might
    grade themselves.
    """
    graded = [
        place
        for place, (prompt, response) in enumerate(rows.select("prompt", "response").iter_rows())
        if response.strip() and not forges(prompt, _MARKS) and not forges(response, _MARKS)
    ]
    questions = [
        _FORM.format(prompt=row["prompt"], response=row["response"], dimension=parameters.dimension)
        for row in rows[graded].iter_rows(named=True)
    ]
    grades = dict(
        zip(
            graded,
            expected_grades(context.models, parameters.model, questions, _GRADES, "grading"),
            strict=True,
        )
    )
    grader: dict[str, object] = {"grader": parameters.model, "dimension": parameters.dimension}

    def fate(place: int, response: str) -> Fate:
        if place not in grades:
            reason = "writes the marks of the grader's question" if response.strip() else "is empty"
            return Fate(None, False, reason, {})
        kept = grades[place] >= parameters.minimum
        return Fate(
            grades[place], kept, f"graded {'at least' if kept else 'below'} {parameters.minimum:g}", grader
        )

    return judgements(rows, (fate(place, response) for place, response in enumerate(rows["response"])))
