"""Updates on pairs and on labelled responses, through TRL's DPOTrainer and KTOTrainer; needs torch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from selfimp_dagster.lifecycle.optimization.halving import Batch, Halving, Part
from selfimp_dagster.lifecycle.optimization.shared_prompts import share_prompts
from selfimp_dagster.lifecycle.optimization.training import adapter, arguments, prepare, run
from selfimp_dagster.lifecycle.optimization.update import Curve, OptimizationContext, Schedule
from selfimp_dagster.models.loading import load_model

if TYPE_CHECKING:
    from selfimp_dagster.lifecycle.optimization.kto import Kto

_WEIGHT = "weight"


class _Pairs(Halving):
    """Batches of TRL's DPOTrainer: the better responses, and behind them the worse ones in the same order."""

    def most_parts(self, batch: Batch) -> int:
        """One a pair; one for a loss that is a mean over the tokens of all pairs."""
        return 1 if "sft" in self.loss_types else len(batch["input_ids"]) // 2  # type: ignore[attr-defined]

    def parts_of(self, batch: Batch, count: int) -> Iterator[Part]:
        """Whole pairs."""
        pairs = len(batch["input_ids"]) // 2
        for chosen in torch.arange(pairs).tensor_split(min(count, pairs)):
            both = torch.cat([chosen, chosen + pairs])
            part = {
                name: tensor[(both if len(tensor) == 2 * pairs else chosen).to(tensor.device)]
                for name, tensor in batch.items()
            }
            yield part, len(chosen) / pairs


class PairTrainer(_Pairs, DPOTrainer):
    """DPOTrainer that counts the tokens of its rows, padding left out."""

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool) -> Any:
        self.tokens += int(inputs["attention_mask"].sum())
        return super()._compute_loss(model, inputs, return_outputs)


class VoteTrainer(_Pairs, DPOTrainer):
    """The loss of ScPO: DPO and the likelihood of the better response, both by the weight of the pair."""

    def __init__(self, *, likelihood: float, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._likelihood = likelihood
        collate: Any = self.data_collator  # type: ignore[has-type]

        def with_weights(pairs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            return collate(pairs) | {_WEIGHT: torch.tensor([pair[_WEIGHT] for pair in pairs])}

        self.data_collator = with_weights

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if _WEIGHT not in self._signature_columns:
            self._signature_columns.append(_WEIGHT)

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool) -> Any:
        self.tokens += int(inputs["attention_mask"].sum())
        weights = inputs.pop(_WEIGHT)
        chosen, rejected = self._log_probs(model, inputs)
        with torch.no_grad():
            reference_chosen, reference_rejected = self.compute_ref_log_probs(self.ref_model or model, inputs)
        better, worse = chosen - reference_chosen, rejected - reference_rejected
        lengths = inputs["completion_mask"][:, 1:].sum(1).chunk(2)[0]
        loss = vote_loss(better - worse, chosen / lengths, weights, self.beta, self._likelihood).mean()
        self._metrics["train"]["rewards/chosen"].append(self.beta * better.mean().item())
        self._metrics["train"]["rewards/rejected"].append(self.beta * worse.mean().item())
        self._metrics["train"]["rewards/margins"].append(self.beta * (better - worse).mean().item())
        self._metrics["train"]["rewards/accuracies"].append((better > worse).float().mean().item())
        return loss

    def _log_probs(self, model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """The log-probability of the better and of the worse response of each pair."""
        chosen, rejected = (
            model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                labels=inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100),
                use_cache=False,
                fused_lm_head=True,
            )
            .log_probs.sum(1)
            .chunk(2)
        )
        return chosen, rejected


class LabelTrainer(Halving, KTOTrainer):
    """KTOTrainer that counts the tokens of its rows, padding left out.

    Its loss estimates a divergence over all rows of a batch, which is therefore never taken in parts.
    """

    def most_parts(self, batch: Batch) -> int:
        return 1

    def parts_of(self, batch: Batch, count: int) -> Iterator[Part]:
        yield batch, 1.0

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool) -> Any:
        self.tokens += int(inputs["attention_mask"].sum())
        return super()._compute_loss(model, inputs, return_outputs)


def vote_loss(
    margins: torch.Tensor,
    mean_log_probs: torch.Tensor,
    weights: torch.Tensor,
    beta: float,
    likelihood: float,
) -> torch.Tensor:
    """The loss of ScPO of each pair (arXiv:2411.04109, equation 2).

    Args:
        margins: log-ratio of the better response minus that of the worse one.
        mean_log_probs: of the better response, in nats per token.
        weights: difference of the shares of the votes.
    """
    return weights * (-logsigmoid(beta * margins) - likelihood * mean_log_probs)


def train_pairs(
    update: str, pairs: pl.DataFrame, context: OptimizationContext, parameters: Schedule, **losses: Any
) -> Curve:
    """Trains with losses of TRL, which `losses` are settings of DPOConfig for, and saves the candidate."""
    trainer = PairTrainer(**_pair_arguments(pairs, context, parameters, losses))
    _share(trainer)
    return run(trainer, update, context, parameters)


def train_votes(
    pairs: pl.DataFrame,
    context: OptimizationContext,
    parameters: Schedule,
    *,
    beta: float,
    likelihood: float,
) -> Curve:
    """Trains with the loss of ScPO and saves the candidate."""
    trainer = VoteTrainer(
        likelihood=likelihood, **_pair_arguments(pairs, context, parameters, {"beta": beta})
    )
    _share(trainer)
    return run(trainer, "scpo", context, parameters)


def train_labels(
    rows: pl.DataFrame,
    context: OptimizationContext,
    parameters: "Kto",
    desirable: float,
    undesirable: float,
) -> Curve:
    """Trains with the loss of KTO, the sides weighed so, and saves the candidate."""
    model, tokenizer = prepare(context.start, context, parameters)
    # TRL pairs the rows of a batch with each other to estimate the divergence, and takes batches in order.
    shuffled = rows.sample(fraction=1, shuffle=True, seed=context.seed % 2**32)
    dataset = Dataset.from_list(
        [
            {"prompt": messages, "completion": said(response), "label": label}
            for messages, response, label in shuffled.select("messages", "response", "label").iter_rows()
        ]
    )
    trainer = LabelTrainer(
        model=model,
        ref_model=_reference(context, parameters),
        args=KTOConfig(
            **arguments(context, parameters, len(dataset), str(model.device)),
            beta=parameters.beta,
            desirable_weight=desirable,
            undesirable_weight=undesirable,
            max_length=None,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=adapter(parameters),
    )
    _share(trainer)
    return run(trainer, "kto", context, parameters)


def _pair_arguments(
    pairs: pl.DataFrame, context: OptimizationContext, parameters: Schedule, losses: dict[str, Any]
) -> dict[str, Any]:
    model, tokenizer = prepare(context.start, context, parameters)
    dataset = Dataset.from_list(
        [
            {
                "prompt": pair["messages"],
                "chosen": said(pair["chosen"]),
                "rejected": said(pair["rejected"]),
                _WEIGHT: pair["weight"],
            }
            for pair in pairs.iter_rows(named=True)
        ]
    )
    return {
        "model": model,
        "ref_model": _reference(context, parameters),
        "args": DPOConfig(
            **arguments(context, parameters, len(dataset), str(model.device)), max_length=None, **losses
        ),
        "train_dataset": dataset,
        "processing_class": tokenizer,
        "peft_config": adapter(parameters),
    }


def _reference(context: OptimizationContext, parameters: Schedule) -> Any:
    """The weights that the log-ratios are to; with adapters TRL takes the model without them."""
    return None if parameters.lora_rank is not None else load_model(context.start, dtype="float32")


def _share(trainer: DPOTrainer | KTOTrainer) -> None:
    for model in (trainer.model, trainer.ref_model):
        if model is not None:
            share_prompts(model)


def said(response: str) -> list[dict[str, str]]:
    """The turn in which the policy gives a response, as TRL takes it."""
    return [{"role": "assistant", "content": response}]
