"""What is learnable, worth learning, and not yet learnt."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import SelectionContext
from selfimp_dagster.lifecycle.selection.ranking import Fate, highest, judgements
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import method


class RhoLossParameters(BaseModel):
    """Parameters of `rho_loss`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(
        default=0.5, gt=0, le=1, description="Share of the rows that is kept; the paper: 0.1."
    )
    epochs: int = Field(default=1, ge=1, description="Passes over its half that a reference is trained for.")
    learning_rate: float = Field(default=5e-4, gt=0, description="Learning rate of the references.")
    rank: int = Field(default=8, ge=1, description="Rank of the references' LoRA adapters.")


@method(
    "selection",
    "rho_loss",
    parameters=RhoLossParameters,
    section="3.2.2",
    paper="arXiv:2206.07137",
    needs=frozenset({"gradients"}),
)
def rho_loss(rows: pl.DataFrame, context: SelectionContext, parameters: RhoLossParameters) -> pl.DataFrame:
    """Keeps the rows whose loss falls most once other rows like them are learnt.

    The score is the reducible holdout loss (Mindermann et al., arXiv:2206.07137): the loss of the
    incumbent minus that of a reference that was trained on held-out rows, in nats a token of the answer.
    Noise is as hard for the reference, what is known as easy for the incumbent. Nothing is held out: as
    the paper does without holdout data, the tasks are cut into two halves by the seed, and the rows of
    each half have a reference that was trained on the other. A reference is the incumbent with a LoRA
    adapter where the paper trains a small model from scratch. Empty answers are dropped.
    """
    spoken = rows.filter(pl.col("response").str.strip_chars() != "")
    tasks = spoken["task_id"].unique().to_list()
    shuffled = sorted(tasks, key=lambda task: derive_seed(context.seed, "rho_loss", task))
    half_of = {task: place % 2 for place, task in enumerate(shuffled)}
    found = _losses(spoken, [half_of[task] for task in spoken["task_id"]], context, parameters)
    scores = [loss - reference for loss, reference in found]
    best = highest(list(scores), parameters.share)
    at = {sample_id: place for place, sample_id in enumerate(spoken["sample_id"])} if found else {}

    def fate(sample_id: str, response: str) -> Fate:
        if sample_id not in at:
            empty = not response.strip()
            return Fate(
                None, False, "is empty" if empty else "there is no other task to train a reference on", {}
            )
        place = at[sample_id]
        kept = place in best
        reason = f"{'among' if kept else 'behind'} the {parameters.share:.0%} with the most loss to lose"
        loss, reference = found[place]
        return Fate(scores[place], kept, reason, {"loss": loss, "reference_loss": reference})

    return judgements(rows, (fate(*row) for row in rows.select("sample_id", "response").iter_rows()))


def _losses(
    rows: pl.DataFrame, halves: list[int], context: SelectionContext, parameters: RhoLossParameters
) -> list[tuple[float, float]]:
    """Each row's loss under the incumbent and under the reference of its half; none if a half is
    empty."""
    if len(set(halves)) < 2:
        return []
    from selfimp_dagster.lifecycle.selection.adapter_torch import AdaptedPolicy

    policy = AdaptedPolicy(
        context.models.folder("incumbent"),
        rank=parameters.rank,
        learning_rate=parameters.learning_rate,
        seed=derive_seed(context.seed, "rho_loss", "adapter"),
        on_tokens=context.models.count,
    )
    examples = policy.encode(context.asked(rows))
    found = [(0.0, 0.0)] * len(examples)
    steps = (parameters.epochs + 2) * len(examples)
    with context.models.progress.stage("reducible loss", total=steps, unit="rows") as bar:
        for half in (0, 1):
            policy.reset()
            held_out = [example for example, of in zip(examples, halves, strict=True) if of != half]
            for epoch in range(parameters.epochs):
                for learnt in policy.train(held_out, derive_seed(context.seed, "rho_loss", half, epoch)):
                    bar.advance(learnt)
            places = [place for place, of in enumerate(halves) if of == half]
            of_half = [examples[place] for place in places]
            losses = [policy.losses(of_half, adapted=adapted) for adapted in (False, True)]
            for place, loss, reference in zip(places, *losses, strict=True):
                found[place] = loss, reference
            bar.advance(2 * len(places))
    return found
