"""What an optimization method is given, and what it returns."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.progress import Progress
from selfimp_dagster.records import MESSAGES, REWARDS, SAMPLES, TRAINING, TRAINING_METRICS, frame
from selfimp_dagster.registry import Signal

WHERE = "checkpoint: recipe.optimization"

POOL = pl.Schema(
    {
        "sample_id": pl.String(),
        "task_id": pl.String(),
        "round": pl.String(),
        "skill": pl.String(),
        "prompt": pl.String(),
        "messages": MESSAGES,  # the chat that it is trained on in
        "response": pl.String(),
        "ended": pl.Boolean(),  # by itself, not at the token limit
        "fate": pl.String(),  # kept; contrast: dropped for its reward alone; sibling: for something else
        "own": pl.Boolean(),  # drawn by the incumbent in that very chat, so that its group is on-policy
        "temperature": pl.Float64(),
        "token_limit": pl.Int64(),
    }
)
"""The samples of the round that an update may look at; what quotes an evaluation item is not among them."""

COMPARABLE: frozenset[Signal] = frozenset({"verdict", "score", "ordering"})
"""Rewards that say which of two responses to a task is better."""

ABSOLUTE: frozenset[Signal] = frozenset({"verdict", "score"})
"""Rewards that say of a response by itself whether it is good."""

Role = Literal["imitated", "chosen", "rejected", "desirable", "undesirable", "scored"]


class Schedule(BaseModel):
    """Parameters that every update has: how long and how it steps, and which weights it moves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(default=2, gt=0, description="Passes over the rows.")
    most_steps: int | None = Field(
        default=None, ge=1, description="Updates at which training ends early. None: after all its epochs."
    )
    learning_rate: float = Field(default=1e-5, gt=0, description="Peak learning rate of AdamW.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        default="cosine", description="How the learning rate falls after its warm-up."
    )
    warmup: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps that the rate rises over."
    )
    batch_size: int = Field(default=16, ge=1, description="Rows per update.")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's decoupled weight decay.")
    upper_layers: int | None = Field(
        default=None,
        ge=1,
        description="Train that many of the uppermost layers; embeddings and the layers below stay as they "
        "are, and the backward pass ends there. None trains all weights.",
    )
    lora_rank: int | None = Field(
        default=None, ge=1, description="Rank of LoRA adapters, merged when saved. None trains the weights."
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute activations again in the backward pass instead of keeping them: less memory, "
        "about a third more time.",
    )

    def steps(self, rows: int) -> int:
        """Updates that training on so many rows takes."""
        steps = max(1, round(self.epochs * rows / self.batch_size))
        return steps if self.most_steps is None else min(steps, self.most_steps)


class Rewarded(Schedule):
    """Parameters of an update that learns from one of the recipe's rewards."""

    learning_rate: float = Field(default=1e-6, gt=0, description="Peak learning rate of AdamW.")
    reward: str | None = Field(
        default=None,
        description="The reward that it learns from. None: the first of the recipe that says enough for it.",
    )


@dataclass(frozen=True)
class OptimizationContext:
    """What a method may use.

    `rows` are this round's selected rows, `earlier` those of the ancestor rounds, both in the schema
    of selected_subset; `pool` is all of this round's corpus that may be looked at (POOL), `tasks`
    (records.TASKS) are its tasks, `rewards` (records.REWARDS) what the recipe's rewards say of the pool.
    `gives` are these rewards in their order, with what each tells; `judge` has them judge other samples
    (records.SAMPLES) of these tasks.

    `start` is the model folder that training begins from: `incumbent`, the weights that drew the samples, or
    in a sequence what the update before made of them. The candidate goes into `output`, what is trained
    beside it into folders of `companions`; `inherited` are the companions of the round before, if it has any.
    """

    rows: pl.DataFrame
    earlier: pl.DataFrame
    pool: pl.DataFrame
    tasks: pl.DataFrame
    rewards: pl.DataFrame
    gives: Mapping[str, frozenset[Signal]]
    judge: Callable[[pl.DataFrame], pl.DataFrame]
    start: Path
    incumbent: Path
    base: Path
    output: Path
    companions: Path
    inherited: Path | None
    seed: int
    progress: Progress

    def reward_name(self, chosen: str | None, takes: frozenset[Signal]) -> str:
        """The reward that an update learns from: the chosen one, else the first that gives what it takes."""
        return chosen or next(name for name, given in self.gives.items() if given & takes)

    def judged(self, chosen: str | None, takes: frozenset[Signal]) -> pl.DataFrame:
        """The rows of the pool that this reward gave a number: POOL with `value` and `confidence`.

        Raises:
            SelfimpError: there are none.
        """
        name = self.reward_name(chosen, takes)
        told = self.rewards.filter(pl.col("reward") == name).select(
            "sample_id", pl.col("value").fill_nan(None), "confidence"
        )
        judged = self.pool.join(told, on="sample_id", maintain_order="left").drop_nulls("value")
        if judged.is_empty():
            raise SelfimpError(
                f"the reward {name} gave none of {self.pool.height} samples a value",
                where=WHERE,
                fix="see the evidence of the reward in the corpus, or name another reward of the recipe",
            )
        return judged


@dataclass(frozen=True)
class Curve:
    """How training went: step by step (records.TRAINING_CURVE), what was measured then, and the tokens."""

    steps: pl.DataFrame
    metrics: pl.DataFrame
    tokens: int


@dataclass(frozen=True)
class Rollouts:
    """What an update drew itself (records.SAMPLES), and what the recipe's rewards said (records.REWARDS)."""

    samples: pl.DataFrame = field(default_factory=SAMPLES.to_frame)
    rewards: pl.DataFrame = field(default_factory=REWARDS.to_frame)


@dataclass(frozen=True)
class Update:
    """What was trained on (records.TRAINING), how it went (records.TRAINING_CURVE), and in numbers.

    `metrics` are what was measured beside the loss (records.TRAINING_METRICS). `tokens` went through the
    model.
    """

    training: pl.DataFrame
    curve: pl.DataFrame
    facts: dict[str, Any]
    tokens: int
    metrics: pl.DataFrame = field(default_factory=TRAINING_METRICS.to_frame)
    rollouts: Rollouts = field(default_factory=Rollouts)


def training_rows(
    rows: pl.DataFrame, update: str, role: Role, weights: Iterable[float] | None = None
) -> pl.DataFrame:
    """Rows of the pool or the subset as rows of records.TRAINING; without weights each has 1."""
    told = rows.select("sample_id", "task_id", "skill", pl.col("round").alias("origin_round"))
    given = [1.0] * rows.height if weights is None else list(weights)
    return told.with_columns(
        pl.lit(update).alias("update"),
        pl.lit(role).alias("role"),
        pl.lit(None, pl.String).alias("pair_id"),
        pl.Series("weight", given, dtype=pl.Float64),
    ).select(list(TRAINING))


def no_rows(update: str, needs: str, fix: str) -> SelfimpError:
    """The refusal of an update that found nothing to learn from."""
    return SelfimpError(f"{update} found no {needs} in this round", where=WHERE, fix=fix)


def training_frame(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows as a frame of records.TRAINING."""
    return frame(rows, TRAINING)
