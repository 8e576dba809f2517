"""Published methods at equal compute on the shipped campaign's mix, beside what a user would write plainly.

    python -m benchmarks.methods --out results/ --seeds 0 1 2

Each method has one round from the base model: as many responses sampled (`--samples`) and as many updates of
as many rows (`--steps`, `--batch`) as every other, the train tasks from the same pool. Then its candidate,
promoted or not, is measured greedily in float32 on 200 items straight from the generators
(`benchmarks.arithmetic`), those that it never drew apart. `plain_grpo` is TRL's GRPOTrainer with a reward
function, which samples a batch for each update, so that the defaults give it as many responses as the others;
`plain_rejection` is a loop over transformers: sample, keep what is right, train. Learning rates are those of
LEARNING_RATES, which nobody tuned. What a method could not do (too few rows, no group with different rewards)
is a row with its error.

One JSON line per method and seed is appended to rows.jsonl as it is measured; lines that are there are not
measured again. The table at the end has the mean over seeds with its 95 % t interval.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from scipy import stats

from benchmarks.arithmetic import CAMPAIGN, mix
from benchmarks.plain import ANSWER_TOKENS, GROUP, Script, grpo, rejection
from selfimp_dagster.campaign import Campaign, load_campaign
from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.acquisition.stage import generate_corpus
from selfimp_dagster.lifecycle.optimization.stage import train_checkpoint
from selfimp_dagster.lifecycle.policy import start_round
from selfimp_dagster.lifecycle.selection.stage import select_subset
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.models.source import resolve_model
from selfimp_dagster.presets import find_preset
from selfimp_dagster.progress import LogProgress
from selfimp_dagster.records import TASKS
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore
from selfimp_dagster.tasks.pools import draw_pool, pool_seed

KEY = RoundKey("arithmetic", 0)

LEARNING_RATES = {"sft": 1e-4, "dpo": 5e-6, "scpo": 5e-6, "spin": 5e-6, "grpo": 1e-5}

UPPER_LAYERS = 15  # of 30, that are trained, as in the shipped campaign; the plain scripts train all

METHODS = ("star", "rft", "lmsi", "scpo", "self_rewarding", "spin", "grpo_rlvr", "ttrl")

PLAIN: dict[str, tuple[Callable[[Script], int], float]] = {
    "plain_grpo": (grpo, LEARNING_RATES["grpo"]),
    "plain_rejection": (rejection, LEARNING_RATES["sft"] / 5),  # all layers move
}
"""The scripts with their learning rates."""


@dataclass(frozen=True)
class Compute:
    """What every method may spend: responses sampled, updates, and rows in each."""

    samples: int
    steps: int
    batch: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=["base", *METHODS, *PLAIN])
    parser.add_argument("--samples", type=int, default=320)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    arguments = parser.parse_args()
    compute = Compute(arguments.samples, arguments.steps, arguments.batch)
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "rows.jsonl"
    for seed in arguments.seeds:
        for method in arguments.methods:
            if not any((row["method"], row["seed"]) == (method, seed) for row in rows_of(file)):
                folder = arguments.out / f"{method}-{seed}"
                shutil.rmtree(folder, ignore_errors=True)  # of a measurement that was killed
                row = measure(method, seed, compute, folder, arguments.out / "models")
                with file.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
                if not arguments.keep:
                    shutil.rmtree(folder)
    print(table(rows_of(file)))


def rows_of(file: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def measure(method: str, seed: int, compute: Compute, folder: Path, models: Path) -> dict[str, Any]:
    """A row: what the method reached and spent, or its error."""
    shutil.copytree(CAMPAIGN.parent, folder / "campaigns")
    row: dict[str, Any] = {"method": method, "seed": seed, **vars(compute)}
    started = time.monotonic()
    write_campaign(folder / "campaigns", method, seed, compute)
    campaign = load_campaign(folder / "campaigns" / CAMPAIGN.name)
    try:
        if method == "base":
            model, told = resolve_model(campaign.model, models), {"tokens": 0, "prompts": []}
        elif method in PLAIN:
            model, told = plain(method, campaign, seed, compute, folder, models)
        else:
            model, told = one_round(folder, models)
    except SelfimpError as error:
        return {**row, "error": error.what}
    spent = time.monotonic() - started
    reached = mix(campaign, model, set(told["prompts"]))
    row |= {"seconds": spent, "tokens": told["tokens"], "rows": told.get("rows")}
    return row | {name: reached[name] for name in ("accuracy", "low", "high", "skills", "never_drawn")}


def write_campaign(campaigns: Path, method: str, seed: int, compute: Compute) -> None:
    """The shipped campaign with the preset's recipe, of the size that the compute allows."""
    data = yaml.safe_load(CAMPAIGN.read_text()) | {"seed": seed}
    if method in METHODS:
        recipe = find_preset(method).recipe
        update = recipe["optimization"]["method"]
        per_task = recipe["acquisition"]["samples_per_task"]
        rationalized = recipe["acquisition"].get("rationalized", 0)
        changes: dict[str, Any] = {
            "acquisition": {"sampling": {"max_new_tokens": ANSWER_TOKENS}},
            "optimization": {
                "learning_rate": LEARNING_RATES[update],
                "upper_layers": UPPER_LAYERS,
                "batch_size": compute.batch,
                "epochs": 1000,
                "most_steps": compute.steps,
            },
        }
        if method == "self_rewarding":  # the gold probe would bar this judge: what is learnt from it is shown
            changes["rewards"] = [{**recipe["rewards"][0], "reading": "probabilities", "floor": 0}]
        data["recipe"] = {"preset": method, **changes}
        data["pools"]["train"] = max(1, compute.samples // (per_task + rationalized))
    else:
        data["pools"]["train"] = max(1, compute.samples // GROUP)
    (campaigns / CAMPAIGN.name).write_text(yaml.safe_dump(data, sort_keys=False))


def one_round(folder: Path, models: Path) -> tuple[Path, dict[str, Any]]:
    """The candidate of a first round, and what it cost."""
    store = ArtifactStore(folder / "store")
    bench = Workbench(store, EnginePool(), models, folder / "campaigns", LogProgress(print))
    start_round(bench, KEY)
    corpus = generate_corpus(bench, KEY, {})
    subset = select_subset(bench, KEY)
    checkpoint = train_checkpoint(bench, KEY, {})
    spent = sum(artifact.measurements["tokens"] for artifact in (corpus, subset, checkpoint))
    prompts = corpus.table("tasks", TASKS)["prompt"].to_list()
    return checkpoint.folder / "model", {
        "tokens": spent,
        "prompts": prompts,
        "rows": checkpoint.facts["rows"],
    }


def plain(
    method: str, campaign: Campaign, seed: int, compute: Compute, folder: Path, models: Path
) -> tuple[Path, dict[str, Any]]:
    """What a script of a user trains, on train tasks of the same pool."""
    tasks = draw_pool(
        "train",
        campaign.skills,
        compute.samples // GROUP,
        seed=pool_seed("train", seed, 0),
        evaluation_share=campaign.pools.evaluation_share,
        base_folder=folder / "campaigns",
        skill_weights=campaign.skill_weights,
    ).tasks
    script, learning_rate = PLAIN[method]
    output = folder / "model"
    tokens = script(
        Script(
            base=resolve_model(campaign.model, models),
            tasks=tasks,
            asked=[dict(campaign.messages(task.prompt)[-1]) for task in tasks],
            output=output,
            seed=seed,
            steps=compute.steps,
            batch=compute.batch,
            learning_rate=learning_rate,
        )
    )
    return output, {"tokens": tokens, "prompts": [task.prompt for task in tasks]}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line per method, best first; methods that failed at the end."""
    lines = [
        "| method | accuracy, mean over seeds (95 %) | by seed (95 % of items) | tokens | seconds |",
        "|---|---|---|---|---|",
    ]
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    frames = {method: pl.DataFrame(own, infer_schema_length=None) for method, own in by_method.items()}
    order = sorted(frames, key=lambda m: -_mean([row.get("accuracy", -1.0) for row in by_method[m]]))
    for method in order:
        done = [row for row in by_method[method] if "accuracy" in row]
        errors = sorted({row["error"] for row in by_method[method] if "error" in row})
        if not done:
            lines.append(f"| {method} | none: {'; '.join(errors)} | | | |")
            continue
        values = [row["accuracy"] for row in done]
        each = ", ".join(f"{row['accuracy']:.3f} ({row['low']:.2f} to {row['high']:.2f})" for row in done)
        tokens, seconds = (_mean([row[name] for row in done]) for name in ("tokens", "seconds"))
        failed = f"; {len(by_method[method]) - len(done)} failed" if errors else ""
        lines.append(
            f"| {method} | {_mean(values):.3f}{_interval(values)}{failed} | {each} "
            f"| {tokens:,.0f} | {seconds:,.0f} |"
        )
    return "\n".join(lines)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _interval(values: list[float]) -> str:
    if len(values) < 3 or len(set(values)) == 1:
        return ""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.tstd(values) / len(values) ** 0.5
    return f" ({_mean(values) - half:.3f} to {_mean(values) + half:.3f})"


if __name__ == "__main__":
    main()
