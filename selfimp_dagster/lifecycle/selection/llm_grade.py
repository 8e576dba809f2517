"""A judge grades every row, and what it grades high is kept."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator

from selfimp_dagster.lifecycle.rewards.sources import IncumbentWeights, JudgeSource
from selfimp_dagster.lifecycle.rewards.verdicts import question, quoted
from selfimp_dagster.lifecycle.selection.chain import SelectionContext
from selfimp_dagster.lifecycle.selection.grading import expected_grades
from selfimp_dagster.lifecycle.selection.ranking import Fate, judgements
from selfimp_dagster.registry import method

_GRADES = (0, 1, 2, 3, 4, 5)


class LlmGradeParameters(BaseModel):
    """Parameters of `llm_grade`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    judge: JudgeSource = Field(
        description="Who grades. source: model, with a `model`; endpoint, with `url` and `model`; base, "
        "which is silent until a candidate is promoted. Nobody grades samples that the same weights drew.",
    )
    minimum: float = Field(default=4.5, ge=0, le=5, description="The smallest mean grade that is kept.")
    dimension: str = Field(default="accuracy", description="What the grade is of: accuracy, helpfulness, ...")

    @field_validator("judge")
    @classmethod
    def _is_not_the_incumbent(cls, judge: JudgeSource) -> JudgeSource:
        if isinstance(judge, IncumbentWeights):
            raise ValueError("the incumbent drew the samples, and nobody grades himself")
        return judge


@method(
    "selection",
    "llm_grade",
    parameters=LlmGradeParameters,
    section="3.2.1",
    paper="arXiv:2307.08701",
)
def llm_grade(rows: pl.DataFrame, context: SelectionContext, parameters: LlmGradeParameters) -> pl.DataFrame:
    """Keeps the rows that a judge grades at 4.5 or more of 5.

    AlpaGasus (Chen et al., arXiv:2307.08701), its question and its threshold. The score is the mean of
    the grades 0 to 5 under the judge's probabilities, where the paper has one grade be written: that costs a
    row one reading instead of an essay. A judge that writes, several times and on probation, is the
    reward `judge`; `verified` keeps by its value. Rows without an answer or without a grade are dropped.
    """
    judge = context.judge(parameters.judge)
    dimension = parameters.dimension
    asked = {
        row["sample_id"]: question(
            0,
            "We would like to request your feedback on the performance of an AI assistant in response to the "
            "instruction displayed following.",
            f"Instruction:\n{quoted(row['prompt'])}",
            f"Response:\n{quoted(row['response'])}",
            f"Please rate according to the {dimension} of the response to the instruction, on a scale of 0 "
            f"to 5, where a higher score indicates higher level of the {dimension}. Reply with the score.",
        )
        for row in rows.iter_rows(named=True)
        if row["response"].strip() and row["policy_hash"] != judge.policy_hash
    }
    found = expected_grades(judge, list(asked.values()), _GRADES, "grading")
    grades = dict(zip(asked, found, strict=True))

    def fate(sample_id: str, response: str) -> Fate:
        if sample_id not in grades:
            own = "was drawn by the weights that grade" if response.strip() else "is empty"
            return Fate(None, False, own, {})
        grade, why_not = grades[sample_id]
        if grade is None:
            return Fate(None, False, why_not, {})
        kept = grade >= parameters.minimum
        reason = f"its {dimension} is graded {'at least' if kept else 'below'} {parameters.minimum:g}"
        return Fate(grade, kept, reason, {"judge": parameters.judge.label})

    return judgements(rows, (fate(*row) for row in rows.select("sample_id", "response").iter_rows()))
