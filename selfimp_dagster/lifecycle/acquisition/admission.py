"""How much of a corpus models may have written: how deep, and beside how much that is real."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.acquisition.corpus import Corpus, without
from selfimp_dagster.lifecycle.acquisition.reasons import Reason
from selfimp_dagster.records import TASKS
from selfimp_dagster.tasks.verifiers import PROPOSING


class Synthetic(BaseModel):
    """How much of a round's tasks models may have written.

    A task is real if no model wrote it (depth 0). What a model writes is one deeper than the deepest thing
    that stood before it. Training on what models wrote keeps working where it is added to real data, and
    fails where it replaces them (Gerstgrasser et al., arXiv:2404.01413).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    most_depth: int | None = Field(
        default=3,
        ge=0,
        description="Deeper tasks are set aside; 0 takes none that a model wrote, null takes all.",
    )
    least_real: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of real ones among the tasks of a round; of the others as many are set aside as "
        "it takes, the deepest first.",
    )


def admit(corpus: Corpus, rules: Synthetic) -> Corpus:
    """The corpus without the tasks, and their samples, that the rules set aside; its proposals say why."""
    tasks, depth = corpus.tasks, pl.col("generation_depth")
    deep = TASKS.to_frame() if rules.most_depth is None else tasks.filter(depth > rules.most_depth)
    real = tasks.filter(depth == 0, pl.col("verifier") != PROPOSING).height
    written = tasks.filter(depth > 0).join(deep, on="task_id", how="anti")
    room = most_written(real, rules.least_real, written.height)
    surplus = written.sort("generation_depth", "task_id").slice(room)
    too_deep = Reason.DEPTH, f"at most {rules.most_depth}"
    too_many = Reason.SHARE, f"{rules.least_real:g} of the tasks must be real, and {real} are"
    faults = dict.fromkeys(deep["task_id"], too_deep) | dict.fromkeys(surplus["task_id"], too_many)
    return without(corpus, faults)


def most_written(real: int, least_real: float, written: int) -> int:
    """How many of the tasks that models wrote may stand beside so many real ones."""
    if least_real == 0:
        return written
    return min(written, int(real * (1 - least_real) / least_real + 1e-9))
