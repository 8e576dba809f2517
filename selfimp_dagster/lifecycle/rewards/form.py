"""The reward `format`: whether a response has the form that was asked for."""

from typing import Self

import polars as pl
from pydantic import Field, model_validator

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.parameters import NamedParameters
from selfimp_dagster.records import REWARDS, frame
from selfimp_dagster.registry import method
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.verifiers import comparable_answer

_NAME = "format"


class Format(NamedParameters):
    """Parameters of `format`."""

    pattern: str | None = Field(
        default=None,
        description="A regular expression that the whole response must match, in the syntax of Rust's regex: "
        "no look-around and no back-references, so that no response can make matching slow; a dot also "
        "matches line breaks. None: an answer of the task's kind must be found in it.",
    )
    ended: bool = Field(
        default=True, description="A response must have ended by itself, not at the token limit."
    )

    @model_validator(mode="after")
    def _pattern_can_be_read(self) -> Self:
        try:
            _matches(pl.Series([""]), self.pattern or "")
        except pl.exceptions.ComputeError as error:
            told = " ".join(str(error).split("\n\nThis error")[0].split())
            raise ValueError(f"pattern: {told}") from error
        return self


@method(
    "reward",
    _NAME,
    parameters=Format,
    section="4.3",
    paper="arXiv:2501.12948",
    gives=frozenset({"verdict"}),
)
def format_(context: RewardContext, parameters: Format) -> pl.DataFrame:
    """1 for a response of the form that was asked for, 0 for another one (kind H); right or wrong alike.

    In: each sample by itself; signal: the pattern, or that an answer of the task's kind is found and the
    response ended by itself; out: the verdict. DeepSeek-R1 (section 2.2.2) adds such a reward to that of the
    answer, as `weighted` does here. A response without any text has 0.
    """
    tasks = {task.task_id: task for task in tasks_from_frame(context.tasks)}
    samples = context.samples.select("sample_id", "task_id", "response", "finish_reason")
    if parameters.pattern is None:
        formed = [
            comparable_answer(tasks[task], response) is not None
            for task, response in samples.select("task_id", "response").iter_rows()
        ]
        wanted = "an answer of the task's kind"
    else:
        formed = _matches(samples["response"], parameters.pattern).to_list()
        wanted = "the pattern"
    rows = []
    for (id_, _, response, finish), right in zip(samples.iter_rows(), formed, strict=True):
        cut_off = parameters.ended and finish == "length"
        if not response.strip():
            told = "empty response"
        elif not right:
            told = f"does not have {wanted}"
        else:
            told = "cut off at the token limit" if cut_off else f"has {wanted}"
        rows.append(
            {
                "sample_id": id_,
                "reward": parameters.name or _NAME,
                "kind": "H",
                "value": float(right and not cut_off and bool(response.strip())),
                "confidence": 1.0,
                "evidence": told,
            }
        )
    return frame(rows, REWARDS)


def _matches(texts: pl.Series, pattern: str) -> pl.Series:
    return texts.str.contains(rf"(?s)\A(?:{pattern})\z")
