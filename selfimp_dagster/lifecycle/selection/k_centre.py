"""Diversity in the policy's own eyes: rows that lie far from each other and from what was trained on."""

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.selection.chain import SelectionContext, texts_of
from selfimp_dagster.lifecycle.selection.models import Role
from selfimp_dagster.lifecycle.selection.ranking import Fate, judgements
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import method

_SAME = 1e-4  # distances below are rounding: the same text in another batch


class KCentreParameters(BaseModel):
    """Parameters of `k_centre`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_most: int = Field(default=256, ge=1, description="Rows that are kept.")
    model: Role = Field(
        default="incumbent", description="Whose embedding space: that of `incumbent`, or of `base`."
    )


@method(
    "selection",
    "k_centre",
    parameters=KCentreParameters,
    section="3.2.1",
    paper="arXiv:2311.08182",
    needs=frozenset({"embeddings"}),
)
def k_centre(rows: pl.DataFrame, context: SelectionContext, parameters: KCentreParameters) -> pl.DataFrame:
    """Keeps the rows that cover the policy's embedding space best, beside those of earlier rounds.

    K-centre sampling of DiverseEvol (Wu et al., arXiv:2311.08182): one after the other, the row that is
    farthest from all rows chosen so far and from those that earlier rounds kept. A row is the mean last
    state of its prompt and response; distances are Euclidean. Rows at the very place of a chosen one are
    not kept, and so fewer than `at_most` may be. The score is the distance to the nearest chosen row,
    when the row was chosen or else at the end; the first row of a first round is drawn by the seed and
    has none. Where the paper takes states as they are, they have unit length here: rows differ by
    direction.
    """
    points = context.models.embed(parameters.model, texts_of(rows), "embedding")
    known = context.models.embed(
        parameters.model, texts_of(context.earlier.lazy().collect()), "embedding earlier rows"
    )
    usable = [place for place in range(rows.height) if points[place].any()]
    first = np.random.default_rng(derive_seed(context.seed, "k_centre")).integers(max(1, len(usable)))
    order, distances = greedy_centres(points[usable], known, parameters.at_most, int(first))
    rank = {usable[place]: number for number, place in enumerate(order, start=1)}
    nearest = dict(zip(usable, distances, strict=True))

    def fate(place: int) -> Fate:
        if place not in nearest:
            return Fate(None, False, "has no tokens", {})
        distance = nearest[place]
        score = float(distance) if np.isfinite(distance) else None
        if place in rank:
            return Fate(score, True, "far from all rows chosen before it", {"chosen_as": rank[place]})
        reason = "lies where a chosen row lies" if distance < _SAME else "nearer to a chosen row than others"
        return Fate(score, False, reason, {})

    return judgements(rows, map(fate, range(rows.height)))


def greedy_centres(
    points: np.ndarray, known: np.ndarray, count: int, first: int
) -> tuple[list[int], np.ndarray]:
    """The points that greedy k-centre chooses, in order, and each point's distance to the nearest centre.

    A chosen point's distance is the one that it was chosen at; infinite for the first where nothing is
    known.

    Args:
        points: shape (points, dimensions).
        known: centres that are there already, shape (centres, dimensions).
        count: points to choose at most; choosing ends when all others lie on a centre.
        first: the point to begin with where there is no centre yet.
    """
    nearest = np.full(len(points), np.inf)
    for centre in known:
        np.minimum(nearest, np.linalg.norm(points - centre, axis=1), out=nearest)
    order: list[int] = []
    chosen_at = np.full(len(points), np.nan)
    while len(order) < min(count, len(points)):
        place = int(nearest.argmax()) if np.isfinite(nearest).any() else first
        if nearest[place] < _SAME:
            break
        chosen_at[place] = nearest[place]
        order.append(place)
        np.minimum(nearest, np.linalg.norm(points - points[place], axis=1), out=nearest)
        nearest[place] = 0
    return order, np.where(np.isnan(chosen_at), nearest, chosen_at)
