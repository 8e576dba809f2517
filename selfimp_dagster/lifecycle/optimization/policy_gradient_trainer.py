"""Updates by advantages, through TRL's GRPOTrainer and RLOOTrainer; needs torch."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import Trainer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.trainer.utils import add_fused_lm_head

from selfimp_dagster.lifecycle.optimization.groups import grpo_advantages, rloo_advantages
from selfimp_dagster.lifecycle.optimization.halving import Batch, Halving, Part
from selfimp_dagster.lifecycle.optimization.shared_prompts import share_prompts
from selfimp_dagster.lifecycle.optimization.training import adapter, arguments, prepare, run
from selfimp_dagster.lifecycle.optimization.update import (
    Curve,
    OptimizationContext,
    Rollouts,
    Schedule,
)
from selfimp_dagster.models.loading import load_model
from selfimp_dagster.records import SAMPLES, canonical_json, derive_seed, frame, sample_id

if TYPE_CHECKING:
    from selfimp_dagster.lifecycle.optimization.grpo import Grpo, Online, PolicyGradient, Variant
    from selfimp_dagster.lifecycle.optimization.restrain import Restrain
    from selfimp_dagster.lifecycle.optimization.rloo import Rloo
    from selfimp_dagster.lifecycle.optimization.sppo import Sppo

_AT_A_TIME = 32  # rows whose log-probabilities are computed together before training


class _Rows(Halving):
    """Batches of TRL's trainers by advantages: a row each response."""

    fixed = frozenset({"num_items_in_batch"})

    @property
    def adds_up(self) -> bool:
        """Whether the loss is divided by the tokens of the whole batch already, as that of DAPO."""
        return getattr(self, "loss_type", "") == "dapo"

    def parts_of(self, batch: Batch, count: int) -> Iterator[Part]:
        """The responses in parts."""
        for part, share in super().parts_of(batch, count):
            yield part, 1.0 if self.adds_up else share


class _Recorded(_Rows):
    """What makes a trainer of TRL learn from rows with advantages instead of drawing groups.

    A row of the dataset has `prompt`, a chat, `prompt_ids`, `completion_ids`, its `advantage`, and `row`, its
    place in `sampled`: the log-probabilities that its tokens had under the policy that drew it.
    """

    sampled: list[torch.Tensor]

    def recall(self, behaviour: Any) -> None:
        """Computes `sampled` under the weights that drew the rows; none where training starts from them."""
        model = behaviour or self.model  # type: ignore[attr-defined]
        if behaviour is not None:
            add_fused_lm_head(behaviour, temperature=self.temperature)  # type: ignore[attr-defined]
            share_prompts(behaviour, self.temperature)  # type: ignore[attr-defined]
        self.sampled = []
        rows = self.train_dataset  # type: ignore[attr-defined]
        for start in range(0, len(rows), _AT_A_TIME):
            part = [rows[place] for place in range(start, min(start + _AT_A_TIME, len(rows)))]
            batch = self._batch(part)
            with torch.no_grad():
                log_probs = self._get_per_token_logps_and_entropies(  # type: ignore[attr-defined]
                    model,
                    torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
                    torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
                    batch["completion_ids"].shape[1],
                )[0]
            self.sampled += [
                row[: len(example["completion_ids"])] for row, example in zip(log_probs, part, strict=True)
            ]

    def get_train_dataloader(self) -> Any:
        return Trainer.get_train_dataloader(self)

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return Trainer._get_train_sampler(self, dataset)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["prompt_ids", "completion_ids", "advantage", "reward", "row"]

    def _prepare_inputs(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self._batch(examples)
        self.tokens += int(batch["prompt_mask"].sum() + batch["completion_mask"].sum())
        recorded = pad_sequence([self.sampled[example["row"]] for example in examples], batch_first=True)
        self._metrics["train"]["reward"].append(  # type: ignore[attr-defined]
            sum(example["reward"] for example in examples) / len(examples)
        )
        return {
            **batch,
            "advantages": torch.tensor([example["advantage"] for example in examples], device=self._device),
            "num_items_in_batch": batch["completion_mask"].sum(),
            "old_per_token_logps": recorded,
            "ref_per_token_logps": recorded,
            "old_logps": (recorded * batch["completion_mask"]).sum(1),
        }

    def _batch(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Prompts padded on the left, completions on the right, with their masks."""
        batch = {}
        for part, side in (("prompt", "left"), ("completion", "right")):
            rows = [torch.tensor(example[f"{part}_ids"]) for example in examples]
            masks = [torch.ones_like(row) for row in rows]
            for name, values in (("ids", rows), ("mask", masks)):
                padded = pad_sequence(values, batch_first=True, padding_side=side)
                batch[f"{part}_{name}"] = padded.to(self._device)
        return batch

    @property
    def _device(self) -> torch.device:
        return self.accelerator.device  # type: ignore[attr-defined]


class RecordedGrpo(_Recorded, GRPOTrainer):
    """GRPOTrainer on groups that were drawn before; the divergence is from the weights that drew them."""


class RecordedRloo(_Recorded, RLOOTrainer):
    """RLOOTrainer on groups that were drawn before."""


class PreferenceTrainer(_Recorded, GRPOTrainer):
    """The loss of SPPO on rows whose `advantage` is the log-ratio that they are to have."""

    adds_up = False

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        mask = inputs["completion_mask"]
        log_probs, entropies, _ = self._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], mask], 1),
            mask.shape[1],
            compute_entropy=True,
        )
        ratios = ((log_probs - inputs["old_per_token_logps"]) * mask).sum(1)
        self._metrics["train"]["entropy"].append(((entropies * mask).sum() / mask.sum()).item())
        return preference_loss(ratios, inputs["advantages"]).mean()


def preference_loss(ratios: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of SPPO of each response (arXiv:2405.00675, equation 4.7).

    Args:
        ratios: log-probability of the response less that under the policy that drew it.
        targets: eta (P - 1/2).
    """
    return (ratios - targets) ** 2


def train_grpo(
    rows: pl.DataFrame, context: OptimizationContext, parameters: "Grpo", variant: "Variant"
) -> Curve:
    """Trains on recorded groups with a loss of GRPO and saves the candidate."""
    told = _grpo_settings(parameters, variant)
    return _train_recorded("grpo", RecordedGrpo, rows, context, parameters, told, parameters.divergence)


def train_restrain(
    rows: pl.DataFrame, context: OptimizationContext, parameters: "Restrain", variant: "Variant"
) -> Curve:
    """Trains on recorded groups with the advantages of RESTRAIN and saves the candidate."""
    told = {"loss_type": variant.loss_type, "epsilon": parameters.clip}
    return _train_recorded("restrain", RecordedGrpo, rows, context, parameters, told, parameters.divergence)


def train_rloo(rows: pl.DataFrame, context: OptimizationContext, parameters: "Rloo") -> Curve:
    """Trains on recorded groups with the loss of RLOO and saves the candidate."""
    return _train_recorded("rloo", RecordedRloo, rows, context, parameters, {"epsilon": parameters.clip}, 0.0)


def train_preferences(rows: pl.DataFrame, context: OptimizationContext, parameters: "Sppo") -> Curve:
    """Trains on recorded groups with the loss of SPPO and saves the candidate."""
    return _train_recorded("sppo", PreferenceTrainer, rows, context, parameters, {}, 0.0)


def train_grpo_online(
    reward: str, context: OptimizationContext, parameters: "Grpo", variant: "Variant"
) -> tuple[Curve, Rollouts, pl.DataFrame]:
    """Draws groups and trains on them with a loss of GRPO; what was drawn, and its advantages."""
    told = _grpo_settings(parameters, variant) | {
        "scale_rewards": variant.scale,
        "mask_truncated_completions": variant.masks_truncated,
        "beta": parameters.divergence,
    }
    return _train_online(
        "grpo",
        (GRPOTrainer, GRPOConfig),
        reward,
        context,
        parameters,
        told,
        lambda groups: grpo_advantages(groups, scale=variant.scale),
    )


def train_rloo_online(
    reward: str, context: OptimizationContext, parameters: "Rloo"
) -> tuple[Curve, Rollouts, pl.DataFrame]:
    """Draws groups and trains on them with the loss of RLOO; what was drawn, and its advantages."""
    told = {"epsilon": parameters.clip, "beta": parameters.divergence}
    return _train_online(
        "rloo", (RLOOTrainer, RLOOConfig), reward, context, parameters, told, rloo_advantages
    )


def _grpo_settings(parameters: "Grpo", variant: "Variant") -> dict[str, Any]:
    return {
        "loss_type": variant.loss_type,
        "epsilon": parameters.clip,
        "epsilon_high": parameters.clip_high or variant.clip_high,
    }


def _train_recorded(
    update: str,
    kind: type[RecordedGrpo | RecordedRloo | PreferenceTrainer],
    rows: pl.DataFrame,
    context: OptimizationContext,
    parameters: Schedule,
    told: dict[str, Any],
    divergence: float,
) -> Curve:
    model, tokenizer = prepare(context.start, context, parameters)
    dataset = Dataset.from_list(
        [
            {
                "prompt": row["messages"],
                "prompt_ids": tokenizer.apply_chat_template(
                    row["messages"], add_generation_prompt=True, return_dict=True
                )["input_ids"],
                "completion_ids": _completion(tokenizer, row["response"], row["ended"]),
                "advantage": row["advantage"],
                "reward": row.get("value", row.get("share")),
                "row": place,
            }
            for place, row in enumerate(rows.iter_rows(named=True))
        ]
    )
    # TRL wants batches of whole groups and a reward; neither is asked of rows that were drawn before.
    common = arguments(context, parameters, len(dataset), str(model.device))
    configuration = GRPOConfig if issubclass(kind, GRPOTrainer) else RLOOConfig
    trainer = kind(
        model=model,
        reward_funcs=_no_reward,
        args=configuration(
            **common | {"per_device_train_batch_size": max(2, parameters.batch_size)},
            num_generations=max(2, parameters.batch_size),
            max_completion_length=int(rows["token_limit"].to_numpy().max()),
            temperature=rows["temperature"][0],
            beta=0.0,
            disable_dropout=True,
            **told,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=adapter(parameters),
    )
    share_prompts(trainer.model, trainer.temperature)
    drawn_by_others = context.start != context.incumbent
    trainer.recall(load_model(context.incumbent, dtype="float32") if drawn_by_others else None)
    trainer.beta = divergence  # set behind the construction, which would load a reference that is `sampled`
    return run(trainer, update, context, parameters)


def _completion(tokenizer: Any, response: str, ended: bool) -> list[int]:
    tokens: list[int] = tokenizer(response, add_special_tokens=False)["input_ids"]
    return [*tokens, tokenizer.eos_token_id] if ended else tokens


def _no_reward(**_: Any) -> list[float]:
    raise AssertionError("rows that were drawn before are not rewarded again")


class _Judge:
    """What TRL calls a reward function: the recipe's rewards, and a record of what they judged."""

    __name__ = "recipe"

    def __init__(
        self,
        reward: str,
        context: OptimizationContext,
        online: "Online",
        ends: set[int],
        advantages: Callable[[pl.DataFrame], pl.DataFrame],
    ) -> None:
        self._reward, self._context, self._online = reward, context, online
        self._ends, self._advantages = ends, advantages
        self.samples: list[pl.DataFrame] = []
        self.rewards: list[pl.DataFrame] = []
        self.advantages: list[pl.DataFrame] = []

    def __call__(
        self,
        *,
        prompts: list[Any],
        completions: list[Any],
        completion_ids: list[list[int]],
        task_id: list[str],
        **_: Any,
    ) -> list[float | None]:
        samples = frame(self._rows(prompts, completions, completion_ids, task_id), SAMPLES)
        judged = self._context.judge(samples)
        told = judged.filter(pl.col("reward") == self._reward).select(
            "sample_id", pl.col("value").fill_nan(None)
        )
        values = samples.select("sample_id", "task_id").join(
            told, on="sample_id", how="left", maintain_order="left"
        )
        advantage = pl.col("advantage").fill_null(0.0).fill_nan(0.0)  # of what no reward judged: none
        self.samples.append(samples)
        self.rewards.append(judged)
        self.advantages.append(self._advantages(values).select("sample_id", advantage))
        return values["value"].to_list()

    def _rows(
        self, prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], tasks: list[str]
    ) -> Iterator[dict[str, Any]]:
        sampling = self._online.sampling.model_dump()
        batch = len(self.samples)
        for place, (messages, said, tokens, task) in enumerate(
            zip(prompts, completions, completion_ids, tasks, strict=True)
        ):
            seed = derive_seed(self._context.seed, "rollout", batch, place)
            yield {
                "sample_id": sample_id(task, "in training", messages, sampling, seed),
                "task_id": task,
                "round": self._context.rows["round"][0],
                "generation": "SE",
                "messages": messages,
                "response": said[0]["content"],
                "completion_tokens": len(tokens),
                "finish_reason": "stop" if tokens[-1] in self._ends else "length",
                "sampling": canonical_json(sampling),
                "seed": seed,
            }


def _train_online(
    update: str,
    trl: tuple[Any, Any],
    reward: str,
    context: OptimizationContext,
    parameters: "PolicyGradient",
    told: dict[str, Any],
    advantages: Callable[[pl.DataFrame], pl.DataFrame],
) -> tuple[Curve, Rollouts, pl.DataFrame]:
    online = parameters.online
    assert online is not None
    model, tokenizer = prepare(context.start, context, parameters)
    tasks = context.rows.unique("task_id", keep="first", maintain_order=True)
    dataset = Dataset.from_list(
        [
            {"prompt": messages, "task_id": task}
            for task, messages in tasks.select("task_id", "messages").iter_rows()
        ]
    )
    judge = _Judge(reward, context, online, _ends(model, tokenizer), advantages)
    trainer_class, configuration = trl

    class Trained(_Rows, trainer_class):  # type: ignore[misc, valid-type]
        def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            self.tokens += int(inputs["prompt_mask"].sum() + inputs["completion_mask"].sum())
            return super()._compute_loss(model, inputs)

    trainer = Trained(
        model=model,
        reward_funcs=judge,
        args=configuration(
            **arguments(context, parameters, len(dataset) * online.group, str(model.device)),
            num_generations=online.group,
            max_completion_length=online.sampling.max_new_tokens,
            temperature=online.sampling.temperature,
            top_p=online.sampling.top_p,
            disable_dropout=True,
            **told,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=adapter(parameters),
    )
    for scored in (trainer.model, trainer.ref_model):
        if scored is not None:
            share_prompts(scored, trainer.temperature)
    curve = run(trainer, update, context, parameters, resumable=False)
    rollouts = Rollouts(pl.concat(judge.samples), pl.concat(judge.rewards))
    return curve, rollouts, pl.concat(judge.advantages)


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """The tokens that end a response."""
    ends = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
