"""Training speed: the step of `sft` beside TRL's defaults, on the same rows.

    python -m benchmarks.training

Trains SmolLM2-135M-Instruct for a few steps on rows of the shipped campaign's shape (a prompt of about 60
tokens, an answer of about 10) and prints tokens per second and the ratio to TRL's SFTTrainer as it is, both
in float32 or bfloat16 as `sft` would choose.
"""

import argparse
import tempfile
import time
from pathlib import Path

import reasoning_gym
import torch
from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from selfimp_dagster.lifecycle.optimization.sft_trainer import CompletionTrainer
from selfimp_dagster.lifecycle.optimization.training import fix_lower_layers
from selfimp_dagster.models.loading import load_model, load_tokenizer, pick_dtype
from selfimp_dagster.models.source import resolve_model

INSTRUCTION = "Answer with only the final answer."


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
    speeds = {
        name: tokens_per_second(folder, trainer, upper, arguments.steps, arguments.batch_size)
        for name, trainer, upper in (
            ("TRL SFTTrainer", SFTTrainer, None),
            ("sft, all weights", CompletionTrainer, None),
            ("sft, upper_layers: 15", CompletionTrainer, 15),
        )
    }
    print("| trainer | tokens/s | ratio |\n|---|---|---|")
    for name, speed in speeds.items():
        print(f"| {name} | {speed:.0f} | {speed / speeds['TRL SFTTrainer']:.2f} |")


def tokens_per_second(
    folder: Path, trainer_class: type[SFTTrainer], upper: int | None, steps: int, batch_size: int
) -> float:
    """Prompt and answer tokens per second of wall time."""
    model = load_model(folder, dtype="float32")
    if upper is not None:
        fix_lower_layers(model, upper)
    rows = reasoning_gym.create_dataset(
        "chain_sum", size=steps * batch_size, seed=0, min_terms=2, max_terms=2, min_digits=2, max_digits=2
    )
    dataset = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"{row['question']}\n{INSTRUCTION}"}],
                "completion": [
                    {"role": "assistant", "content": f"{row['metadata']['expression']} = {row['answer']}"}
                ],
            }
            for row in rows
        ]
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = trainer_class(
            model=model,
            args=SFTConfig(
                output_dir=scratch,
                max_steps=steps,
                per_device_train_batch_size=batch_size,
                completion_only_loss=True,
                bf16=pick_dtype("auto", str(model.device)) == torch.bfloat16,
                gradient_checkpointing=False,
                optim="adamw_torch_fused",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=str(model.device) == "cpu",
            ),
            train_dataset=dataset,
            processing_class=load_tokenizer(folder),
        )
        trainer.remove_callback(PrinterCallback)
        started = time.monotonic()
        trainer.train()
        elapsed = time.monotonic() - started
    return sum(map(len, trainer.train_dataset["input_ids"])) / elapsed


if __name__ == "__main__":
    main()
