"""Compares the engines with plain `generate`: 64 sums and products, 4 samples each; vLLM if it is installed.

    python benchmarks/engine.py MODEL_FOLDER [--tasks 64] [--samples 4] [--dtypes float32 bfloat16]

MODEL_FOLDER is what `resolve_model` returns. Prints tokens per second of wall and of processor time;
the latter is what to compare on a machine that does other work as well.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import reasoning_gym
import torch
from rich.console import Console
from rich.table import Table

from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.choice import EngineName, installed_vllm
from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.loading import DtypeName, load_model, load_tokenizer

NEW_TOKENS = 32


def prompts(count: int) -> list[str]:
    """Half sums of two numbers of one or two digits, half products of two digits."""
    sums = reasoning_gym.create_dataset(
        "chain_sum", size=count - count // 2, seed=1, min_terms=2, max_terms=2, min_digits=1, max_digits=2
    )
    products = reasoning_gym.create_dataset(
        "products", size=count // 2, seed=1, min_terms=2, max_terms=2, min_digits=1, max_digits=1
    )
    return [
        entry["question"] + "\nAnswer with only the final answer."
        for suite in (sums, products)
        for entry in suite
    ]


def plain(folder: Path, dtype: DtypeName, asked: list[str], samples: int) -> Callable[[], int]:
    """One call of `generate` for all prompts, as most scripts have it."""
    model, tokenizer = load_model(folder, dtype, "cpu"), load_tokenizer(folder)
    tokenizer.padding_side = "left"

    def run() -> int:
        inputs = tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in asked],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            output = model.generate(
                **inputs, do_sample=True, top_k=0, num_return_sequences=samples, max_new_tokens=NEW_TOKENS
            )
        new = output[:, inputs["input_ids"].shape[1] :]
        ended = (new == tokenizer.eos_token_id).int().cumsum(-1) > 0
        return int((~ended).sum() + ended.any(-1).sum())

    return run


def engine(
    name: EngineName, folder: Path, dtype: DtypeName, asked: list[str], samples: int
) -> Callable[[], int]:
    """The same through one of the project's engines."""
    made = EnginePool(engine=name, dtype=dtype, device="cpu").engine(folder, policy_hash(folder))
    requests = [
        Request(f"{index}-{sample}", ({"role": "user", "content": prompt},), index * samples + sample)
        for index, prompt in enumerate(asked)
        for sample in range(samples)
    ]
    sampling = Sampling(max_new_tokens=NEW_TOKENS)
    return lambda: sum(
        completion.completion_tokens for batch in made.generate(requests, sampling) for completion in batch
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tasks", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    asked = prompts(options.tasks)
    table = Table("engine", "dtype", "tokens", "wall s", "cpu s", "tokens/s", "tokens/cpu s", "ratio")
    reference = 0.0
    made = {"generate": plain, "transformers": partial(engine, "transformers")}
    if installed_vllm() is not None:
        made["vllm"] = partial(engine, "vllm")
    for dtype in options.dtypes:
        for name, prepare in made.items():
            prepare(options.folder, dtype, asked[:2], 1)()
            run = prepare(options.folder, dtype, asked, options.samples)
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = run()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            reference = reference or tokens / wall
            table.add_row(
                name,
                dtype,
                str(tokens),
                f"{wall:.1f}",
                f"{cpu:.1f}",
                f"{tokens / wall:.0f}",
                f"{tokens / cpu:.0f}",
                f"{tokens / wall / reference:.2f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
