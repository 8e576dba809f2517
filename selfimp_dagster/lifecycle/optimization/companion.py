"""What updates that train a companion share: their pairs, what is held out of them, and what they leave."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.companions import (
    PAIRS_FILE,
    RECORD,
    CompanionRecord,
    Response,
)
from selfimp_dagster.lifecycle.optimization.dpo import require_pairs
from selfimp_dagster.lifecycle.optimization.pairs import PAIRS, pair_rows
from selfimp_dagster.lifecycle.optimization.update import Curve, OptimizationContext, Rewarded, Update
from selfimp_dagster.models.hashing import POLICY_FILES
from selfimp_dagster.records import derive_seed
from selfimp_dagster.store import write_file, write_parquet

Scores = Callable[[Sequence[Response]], list[float]]


class CompanionParameters(Rewarded):
    """Parameters of an update that trains a companion."""

    batch_size: int = Field(default=8, ge=1, description="Pairs per update.")
    pairs_per_task: int = Field(default=2, ge=1, description="Pairs that one task may give.")
    held_out: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="Share of the tasks whose pairs it is tried on and never trained on, chosen by the hash "
        "of the task: the same in every round.",
    )


def train_companion(
    name: str,
    new: pl.DataFrame,
    context: OptimizationContext,
    parameters: CompanionParameters,
    learnt_from: str,
    train: Callable[[pl.DataFrame, OptimizationContext], tuple[Curve, Scores]],
) -> Update:
    """Trains a companion on new pairs and those of earlier rounds, tries it, and passes the policy on.

    Args:
        new: pairs of this round (PAIRS).
        learnt_from: the reward that ordered them.
        train: trains on pairs, saves into the context's output, and gives the curve and a function that
            scores responses with what was trained.

    Raises:
        SelfimpError: there is no pair to train on.
    """
    pairs = _with_earlier(new, context.inherited, name)
    held_out = pl.Series(
        [is_held_out(task, parameters.held_out) for task in pairs["task_id"]], dtype=pl.Boolean
    )
    learnt, tried = pairs.filter(~held_out), pairs.filter(held_out)
    require_pairs(name, learnt)
    folder = context.companions / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    curve, scores = train(learnt, replace(context, output=folder))
    right = 0
    if tried.height:
        better, worse = (scores(_responses(tried, side)) for side in ("chosen", "rejected"))
        right = sum(one > other for one, other in zip(better, worse, strict=True))
    record = CompanionRecord(
        name=name,
        round=learnt["round"][-1] if new.is_empty() else new["round"][0],
        learnt_from=learnt_from,
        pairs=learnt.height,
        held_out=tried.height,
        right=right,
    )
    write_parquet(folder / PAIRS_FILE, pairs)
    write_file(folder / RECORD, (record.model_dump_json(indent=2) + "\n").encode())
    pass_on(context.start, context.output)
    return Update(
        training=pair_rows(learnt, name),
        curve=curve.steps,
        metrics=curve.metrics,
        facts={
            "method": name,
            "trained_from": "incumbent",
            "steps": curve.steps.height,
            "companion": record.model_dump(),
        },
        tokens=curve.tokens,
    )


def is_held_out(task: str, share: float) -> bool:
    """Whether the pairs of a task are among that share which a companion is only tried on."""
    return derive_seed("held out", task) / 2**63 < share


def pass_on(start: Path, output: Path) -> None:
    """Makes the weights in `start`, unchanged, what an update leaves in `output`."""
    output.mkdir(parents=True, exist_ok=True)
    for file in sorted(start.iterdir()):
        if any(fnmatch(file.name, pattern) for pattern in POLICY_FILES):
            shutil.copyfile(file, output / file.name)


def _with_earlier(new: pl.DataFrame, inherited: Path | None, name: str) -> pl.DataFrame:
    """The pairs that the companion before was made with, and new ones."""
    file = None if inherited is None else inherited / name / PAIRS_FILE
    if file is None or not file.is_file():
        return new
    earlier = pl.read_parquet(file, glob=False).select(list(PAIRS))
    return pl.concat([earlier, new]).unique("pair_id", keep="first", maintain_order=True)


def _responses(pairs: pl.DataFrame, side: str) -> list[Response]:
    return [(tuple(messages), said) for messages, said in pairs.select("messages", side).iter_rows()]
