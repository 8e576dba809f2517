"""Reward models through TRL's RewardTrainer; needs torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from datasets import Dataset
from trl import RewardConfig, RewardTrainer

from selfimp_dagster.engines.reward_model import RewardModel, load_scored
from selfimp_dagster.lifecycle.companions import Response
from selfimp_dagster.lifecycle.optimization.companion import Scores
from selfimp_dagster.lifecycle.optimization.preference_trainer import said
from selfimp_dagster.lifecycle.optimization.training import adapter, arguments, fix_lower_layers, run
from selfimp_dagster.lifecycle.optimization.update import Curve, OptimizationContext
from selfimp_dagster.models.loading import load_tokenizer

if TYPE_CHECKING:
    from selfimp_dagster.lifecycle.optimization.reward_model import RewardModelUpdate


class ScoreTrainer(RewardTrainer):
    """RewardTrainer that counts the tokens of its rows, padding left out."""

    tokens = 0

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        self.tokens += int(inputs["attention_mask"].sum())
        loss: Any = super().compute_loss
        return loss(model, inputs, return_outputs, num_items_in_batch)


def train_reward_model(
    pairs: pl.DataFrame, context: OptimizationContext, parameters: "RewardModelUpdate"
) -> tuple[Curve, Scores]:
    """Trains on the pairs and saves the reward model; the curve, and what scores with it."""
    torch.manual_seed(context.seed % 2**32)  # of the head
    model = load_scored(context.start)
    if parameters.upper_layers is not None:
        fix_lower_layers(model, parameters.upper_layers)
    trainer = ScoreTrainer(
        model=model,
        args=RewardConfig(
            **arguments(context, parameters, pairs.height, str(model.device)),
            max_length=None,
            center_rewards_coefficient=parameters.centering or None,
        ),
        train_dataset=Dataset.from_list(
            [
                {"prompt": messages, "chosen": said(chosen), "rejected": said(rejected)}
                for messages, chosen, rejected in pairs.select("messages", "chosen", "rejected").iter_rows()
            ]
        ),
        processing_class=load_tokenizer(context.start),
        peft_config=adapter(parameters, "SEQ_CLS"),
    )
    curve = run(trainer, "reward_model", context, parameters)

    def scores(responses: Sequence[Response]) -> list[float]:
        return RewardModel(context.output).scores(responses)

    return curve, scores
