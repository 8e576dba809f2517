"""The reward `weighted`: other rewards of the recipe as one."""

from typing import Annotated

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.parameters import NamedParameters
from selfimp_dagster.records import REWARDS, canonical_json, frame
from selfimp_dagster.registry import method

WEIGHTED = "weighted"

_LEAST_CERTAIN_FIRST = "MHV"


class Weighted(NamedParameters):
    """Parameters of `weighted`."""

    parts: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={"answer": 1.0},
        min_length=1,
        description="The rewards that it is made of, which stand before it in the recipe, by their weights.",
    )

    @property
    def made_of(self) -> frozenset[str]:
        return frozenset(self.parts)


@method("reward", WEIGHTED, parameters=Weighted, section="4.3", paper="arXiv:2404.18796")
def weighted(context: RewardContext, parameters: Weighted) -> pl.DataFrame:
    """Several rewards as one: their mean, each by its weight and its confidence (kind of the least certain).

    Inputs: the judgements of the parts, which stand before it. With w the weight, c the confidence and v the
    value of a part, over the parts that have a value for the sample and a confidence above 0, the value is
    sum(w c v) / sum(w c); the confidence is sum(w c) over the sum of all weights, so that a part that says
    nothing costs confidence and moves nothing. Without any such part there is no value. The kind is M where
    a model's part counts, else H, else V. It generalises the panel of judges of Verga et al.
    (arXiv:2404.18796, section 3), where weights and confidences are equal.
    """
    named = context.rewards.filter(pl.col("reward").is_in(list(parameters.parts))).with_columns(
        pl.col("value").fill_nan(None)
    )
    by_sample = named.sort("sample_id", "reward").partition_by("sample_id", as_dict=True, include_key=False)
    total = sum(parameters.parts.values())
    rows = []
    for id_ in context.samples["sample_id"]:
        given = by_sample[(id_,)].to_dicts() if (id_,) in by_sample else []
        sure = [parameters.parts[part["reward"]] * (part["confidence"] or 0.0) for part in given]
        heard = [
            (weight, part)
            for weight, part in zip(sure, given, strict=True)
            if weight > 0 and part["value"] is not None
        ]
        sum_of_weights = sum(weight for weight, _ in heard)
        shares = [(weight / sum_of_weights, part) for weight, part in heard]
        kinds = "".join(part["kind"] for _, part in heard) or "".join(part["kind"] for part in given)
        evidence = {
            "parts": {part["reward"]: {"value": part["value"], "share": share} for share, part in shares},
            "silent": sorted(set(parameters.parts) - {part["reward"] for _, part in heard}),
        }
        value = sum(share * part["value"] for share, part in shares)
        rows.append(
            {
                "sample_id": id_,
                "reward": parameters.name or WEIGHTED,
                "kind": min(kinds, key=_LEAST_CERTAIN_FIRST.index, default="M"),
                "value": round(value, 12) if heard else None,  # shares sum to one only up to rounding
                "confidence": sum_of_weights / total,
                "evidence": canonical_json(evidence),
            }
        )
    return frame(rows, REWARDS)
