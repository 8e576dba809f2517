"""Training speed: the steps of `sft` and `dpo` beside TRL's trainers, on the same rows in the same order.

    python -m benchmarks.training

Trains SmolLM2-135M-Instruct for a few steps on rows of the shipped campaign's shape (a prompt of about 60
tokens, answers of about 10; pairs of a right and a wrong answer) and prints tokens per second, the ratio to
TRL's trainer in float32, and the mean loss over the steps. Beside it TRL's trainer in the numerics that this
project would choose (bfloat16 where the processor multiplies it faster); nobody checkpoints gradients.
"""

import argparse
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reasoning_gym
import torch
from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from selfimp_dagster.lifecycle.optimization.preference_trainer import PairTrainer
from selfimp_dagster.lifecycle.optimization.sft_trainer import CompletionTrainer
from selfimp_dagster.lifecycle.optimization.shared_prompts import share_prompts
from selfimp_dagster.lifecycle.optimization.training import fix_lower_layers
from selfimp_dagster.models.loading import load_model, load_tokenizer, pick_dtype
from selfimp_dagster.models.source import resolve_model

INSTRUCTION = "Answer with only the final answer."


@dataclass(frozen=True)
class Arm:
    """A trainer as it is measured: which, whether in the project's numerics, and which layers it moves."""

    name: str
    trainer: type[SFTTrainer | DPOTrainer]
    rounded: bool
    upper: int | None = None

    @property
    def preferences(self) -> bool:
        return issubclass(self.trainer, DPOTrainer)


ARMS = (
    Arm("TRL `SFTTrainer`, float32", SFTTrainer, rounded=False),
    Arm("TRL `SFTTrainer`", SFTTrainer, rounded=True),
    Arm("`sft`", CompletionTrainer, rounded=True),
    Arm("`sft`, `upper_layers: 15`", CompletionTrainer, rounded=True, upper=15),
    Arm("TRL `DPOTrainer`, float32", DPOTrainer, rounded=False),
    Arm("TRL `DPOTrainer`", DPOTrainer, rounded=True),
    Arm("`dpo`", PairTrainer, rounded=True),
    Arm("`dpo`, `upper_layers: 15`", PairTrainer, rounded=True, upper=15),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=Path(".selfimp/models"), help="cache of base models")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    arguments = parser.parse_args()
    disable_progress_bars()
    folder = resolve_model("embedded:smollm2-135m-instruct", arguments.models)
    print("| trainer | tokens/s | ratio | mean loss |\n|---|---|---|---|")
    for arm in ARMS:
        speed, loss = measure(folder, arm, arguments.steps, arguments.batch_size)
        if not arm.rounded:
            peer = speed
        print(f"| {arm.name} | {speed:.0f} | {speed / peer:.2f} | {loss:.3f} |", flush=True)


def measure(folder: Path, arm: Arm, steps: int, batch_size: int) -> tuple[float, float]:
    """Prompt and answer tokens per second of wall time, and the mean loss over the steps."""
    model = load_model(folder, dtype="float32")
    if arm.upper is not None:
        fix_lower_layers(model, arm.upper)
    with tempfile.TemporaryDirectory() as scratch:
        shared = {
            "output_dir": scratch,
            "max_steps": steps,
            "per_device_train_batch_size": batch_size,
            "bf16": arm.rounded and pick_dtype("auto", str(model.device)) == torch.bfloat16,
            "gradient_checkpointing": False,
            "optim": "adamw_torch_fused",
            "save_strategy": "no",
            "logging_steps": 1,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": str(model.device) == "cpu",
        }
        told: dict[str, Any] = {
            "args": DPOConfig(**shared) if arm.preferences else SFTConfig(completion_only_loss=True, **shared)
        }
        if arm.preferences:
            told["ref_model"] = load_model(folder, dtype="float32")
        trainer = arm.trainer(
            model=model,
            train_dataset=rows(arm.preferences, steps * batch_size),
            processing_class=load_tokenizer(folder),
            **told,
        )
        if arm.trainer is PairTrainer:
            share_prompts(trainer.model)
            share_prompts(trainer.ref_model)
        trainer.remove_callback(PrinterCallback)
        started = time.monotonic()
        trainer.train()
        elapsed = time.monotonic() - started
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return tokens_in(trainer.train_dataset) / elapsed, sum(losses) / len(losses)


def rows(preferences: bool, size: int) -> Dataset:
    """Sums with right answers, or with a right and a wrong one."""
    drawn = reasoning_gym.create_dataset(
        "chain_sum", size=size, seed=0, min_terms=2, max_terms=2, min_digits=2, max_digits=2
    )
    chosen = random.Random(0)
    made = []
    for row in drawn:
        prompt = [{"role": "user", "content": f"{row['question']}\n{INSTRUCTION}"}]
        said = [
            [{"role": "assistant", "content": f"{row['metadata']['expression']} = {answer}"}]
            for answer in (row["answer"], str(int(row["answer"]) + chosen.randrange(1, 9)))
        ]
        if preferences:
            made.append({"prompt": prompt, "chosen": said[0], "rejected": said[1]})
        else:
            made.append({"prompt": prompt, "completion": said[0]})
    return Dataset.from_list(made)


def tokens_in(dataset: Any) -> int:
    """Tokens of the prepared rows, of pairs those of both responses with their prompts."""
    pairs = "chosen_ids" in dataset[0]
    return sum(
        2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])
        if pairs
        else len(row["input_ids"])
        for row in dataset
    )


if __name__ == "__main__":
    main()
