"""Low-rank gradient similarity: rows that push the policy where the target pushes it."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import SelectionContext
from selfimp_dagster.lifecycle.selection.ranking import Fate, highest, judgements
from selfimp_dagster.lifecycle.selection.target import Target, target_samples
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import method

if TYPE_CHECKING:
    from selfimp_dagster.lifecycle.selection.adapter_torch import AdaptedPolicy
    from selfimp_dagster.models.adapter import Example
    from selfimp_dagster.progress import Bar

_MOST_FLOATS = 2**26  # of gradients that wait to be projected


class LessParameters(BaseModel):
    """Parameters of `less`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(
        default=0.5, gt=0, le=1, description="Share of the rows that is kept; the paper: 0.05."
    )
    target: Target = Field(default=Target(), description="What training is to get better at.")
    target_rows: int = Field(
        default=16, ge=2, description="Rows of each target skill that are compared with."
    )
    warm_up: float = Field(
        default=0.05, gt=0, le=1, description="Share of the rows that the adapter is trained on beforehand."
    )
    epochs: int = Field(
        default=1, ge=1, description="Epochs of that training; gradients are taken after each. The paper: 4."
    )
    learning_rate: float = Field(default=2e-4, gt=0, description="Learning rate of that training.")
    rank: int = Field(default=4, ge=1, description="Rank of the LoRA adapter; the paper: 128.")
    dimensions: int = Field(
        default=1024, ge=1, description="Dimensions that gradients are projected to; the paper: 8192."
    )


@method(
    "selection",
    "less",
    parameters=LessParameters,
    section="3.2.1",
    paper="arXiv:2402.04333",
    needs=frozenset({"gradients"}),
)
def less(rows: pl.DataFrame, context: SelectionContext, parameters: LessParameters) -> pl.DataFrame:
    """Keeps the rows whose gradient points where the gradients of a target point.

    LESS (Xia et al., arXiv:2402.04333): a LoRA adapter is trained for a while on a random part of the
    rows. After each epoch, a row is the direction that Adam would take for it, a target row its plain
    gradient, both projected by random signs. The score is the cosine of the two, averaged over the epochs
    and over the target rows of a skill, of the skill where it is highest. The paper's target are examples
    that people labelled; here they are samples of this corpus that a reward accepts, and a row is never
    compared with one of its own task. Empty answers are dropped.

    Raises:
        SelfimpError: there is no target.
    """
    targets = _drawn(target_samples(context, parameters.target), parameters.target_rows, context.seed)
    spoken = rows.filter(pl.col("response").str.strip_chars() != "")
    scores = _influences(spoken, targets, context, parameters) if spoken.height else []
    best = highest(scores, parameters.share)
    at = {sample_id: place for place, sample_id in enumerate(spoken["sample_id"])}
    share = f"the {parameters.share:.0%} whose gradients fit the target best"

    def fate(sample_id: str) -> Fate:
        if sample_id not in at:
            return Fate(None, False, "is empty", {})
        place = at[sample_id]
        if scores[place] is None:
            return Fate(None, False, "the target has no row of another task", {})
        return Fate(scores[place], place in best, f"{'among' if place in best else 'behind'} {share}", {})

    return judgements(rows, map(fate, rows["sample_id"]))


def influence(cosines: np.ndarray, skills: list[str], comparable: np.ndarray) -> list[float | None]:
    """Each row's mean cosine with the target rows of the skill where that is highest; none without any.

    Args:
        cosines: averaged over the epochs, shape (rows, targets).
        skills: of the target rows.
        comparable: which target rows each row may be compared with, shape (rows, targets).
    """
    of_skill = [np.array([other == skill for other in skills]) for skill in sorted(set(skills))]
    found: list[float | None] = []
    for row, allowed in zip(cosines, comparable, strict=True):
        means = [row[chosen & allowed].mean() for chosen in of_skill if (chosen & allowed).any()]
        found.append(float(max(means)) if means else None)
    return found


def _drawn(targets: pl.DataFrame, at_most: int, seed: int) -> pl.DataFrame:
    """So many target rows of each skill, by the seed."""
    luck = [derive_seed(seed, "less", sample_id) for sample_id in targets["sample_id"]]
    return (
        targets.with_columns(luck=pl.Series(luck, dtype=pl.Int64))
        .filter(pl.col("luck").rank("ordinal").over("skill") <= at_most)
        .sort("skill", "luck")
    )


def _influences(
    rows: pl.DataFrame, targets: pl.DataFrame, context: SelectionContext, parameters: LessParameters
) -> list[float | None]:
    from selfimp_dagster.lifecycle.selection.adapter_torch import AdaptedPolicy

    seed = derive_seed(context.seed, "less")
    policy = AdaptedPolicy(
        context.models.folder("incumbent"),
        rank=parameters.rank,
        learning_rate=parameters.learning_rate,
        seed=seed,
        on_tokens=context.models.count,
    )
    examples, wanted = policy.encode(context.asked(rows)), policy.encode(context.asked(targets))
    chosen = np.random.default_rng(seed).permutation(len(examples))
    warm_up = [examples[i] for i in chosen[: max(1, round(parameters.warm_up * len(examples)))]]
    cosines = np.zeros((len(examples), len(wanted)))
    steps = parameters.epochs * (len(warm_up) + len(examples) + len(wanted))
    with context.models.progress.stage("gradients", total=steps, unit="rows") as bar:
        for epoch in range(parameters.epochs):
            for learnt in policy.train(warm_up, derive_seed(seed, epoch)):
                bar.advance(learnt)
            directions = _features(policy, examples, bar, parameters.dimensions, seed, adam=True)
            gradients = _features(policy, wanted, bar, parameters.dimensions, seed, adam=False)
            cosines += directions @ gradients.T / parameters.epochs
    comparable = rows["task_id"].to_numpy()[:, None] != targets["task_id"].to_numpy()[None]
    return influence(cosines, targets["skill"].to_list(), comparable)


def _features(
    policy: "AdaptedPolicy",
    examples: "list[Example]",
    bar: "Bar",
    dimensions: int,
    seed: int,
    *,
    adam: bool,
) -> np.ndarray:
    """The projected gradients, or Adam's directions for them, at unit length: (examples, dimensions)."""
    import torch

    from selfimp_dagster.lifecycle.selection.adapter_torch import adam_direction, projected

    size = sum(weight.numel() for weight in policy.weights)
    at_once = max(1, _MOST_FLOATS // size)
    parts = []
    for start in range(0, len(examples), at_once):
        gradients = []
        for example in examples[start : start + at_once]:
            gradients.append(policy.gradient(example))
            bar.advance()
        stacked = torch.stack(gradients)
        parts.append(
            projected(adam_direction(stacked, policy.moments) if adam else stacked, dimensions, seed)
        )
    return torch.nn.functional.normalize(torch.cat(parts)).cpu().double().numpy()
