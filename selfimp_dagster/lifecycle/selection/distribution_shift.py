"""Leave out what is far from real data, even where it seems right."""

from statistics import fmean

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.lifecycle.selection.chain import SelectionContext
from selfimp_dagster.lifecycle.selection.ranking import Fate, highest, judgements
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import method


class DistributionShiftParameters(BaseModel):
    """Parameters of `distribution_shift`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(default=0.8, gt=0, le=1, description="Share of the rows that is kept; the nearest.")
    valid: int = Field(default=16, ge=1, description="Tasks whose own answers stand for real data.")


@method(
    "selection",
    "distribution_shift",
    parameters=DistributionShiftParameters,
    section="3.2.2",
    paper="arXiv:2408.09849",
    needs=frozenset({"logprobs"}),
)
def distribution_shift(
    rows: pl.DataFrame, context: SelectionContext, parameters: DistributionShiftParameters
) -> pl.DataFrame:
    """Keeps the rows whose loss is nearest to that of a few real answers (IWSI).

    The score is the DS weight of Jiang et al. (arXiv:2408.09849): with w the mean loss of the valid set over
    the loss of the row, both under the incumbent, w where that is above 1 and else 1 / w, so that 1 is the
    least. The valid set is the answers of some tasks of the corpus as they came, chosen by the seed, where
    the paper has reasoning too: supervision, so the recipe must list the reward `answer`. A row without
    tokens, or of a loss of 0, has no weight and is dropped, as in the authors' code.

    Raises:
        SelfimpError: the recipe has no reward `answer`, or no task has an answer.
    """
    context.reward(ANSWER)
    answered = context.tasks.filter(pl.col("answer").str.strip_chars() != "").select(
        "task_id", "prompt", "answer"
    )
    if answered.is_empty() and not rows.is_empty():
        raise SelfimpError(
            "no task of the corpus has an answer, so there is nothing real to compare with",
            where="recipe.selection: distribution_shift",
            fix="leave the step out, or use tasks with answers",
        )
    chosen = sorted(answered.rows(), key=lambda row: derive_seed(context.seed, "distribution_shift", row[0]))
    real = [(context.messages(prompt), answer) for _, prompt, answer in chosen[: parameters.valid]]
    valid = [loss for loss in context.models.losses("incumbent", real, "valid set") if loss is not None]
    losses = context.models.losses("incumbent", context.asked(rows), "distribution shift")
    weights = [ds_weight(fmean(valid), loss) if loss else None for loss in losses]
    nearest = highest([None if weight is None else -weight for weight in weights], parameters.share)

    def fate(place: int, weight: float | None) -> Fate:
        if weight is None:
            return Fate(None, False, "has no loss to compare", {})
        kept = place in nearest
        reason = f"{'among' if kept else 'behind'} the {parameters.share:.0%} nearest to real answers"
        return Fate(weight, kept, reason, {"loss": losses[place], "valid_loss": fmean(valid)})

    return judgements(rows, (fate(place, weight) for place, weight in enumerate(weights)))


def ds_weight(valid: float, loss: float) -> float | None:
    """How far a loss is from that of real data, as a ratio of at least 1; none where that is 0."""
    low, high = sorted((valid, loss))
    return high / low if low > 0 else None
