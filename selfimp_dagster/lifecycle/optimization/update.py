"""What an optimization method is given, and what it returns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from selfimp_dagster.progress import Progress


@dataclass(frozen=True)
class OptimizationContext:
    """What a method may use.

    `rows` are this round's selected rows, `earlier` those of the ancestor rounds, both in the schema
    of selected_subset. `incumbent` and `base` are model folders; the candidate goes into `output`.
    """

    rows: pl.DataFrame
    earlier: pl.DataFrame
    incumbent: Path
    base: Path
    output: Path
    seed: int
    progress: Progress


@dataclass(frozen=True)
class Update:
    """What was trained on (records.TRAINING), how it went (records.TRAINING_CURVE), and in numbers."""

    training: pl.DataFrame
    curve: pl.DataFrame
    facts: dict[str, Any]
    tokens: int
