"""Time to a held-out accuracy on the shipped campaign's mix, beside what a user would write plainly.

    python -m benchmarks.time_to_accuracy --out results/ [--arms campaign plain_rejection plain_grpo]

One machine, one arm after the other, nothing beside them, each from the converted base model:

* `campaign`: `selfimp run arithmetic --rounds 3`, a process from nothing. The clock runs from its start until
  a round's checkpoint is committed, imports, Dagster and the evaluation of the rounds before included.
* `plain_rejection`: four passes of sampling 8 responses to 96 tasks with transformers in float32, and of
  training all weights on the right ones.
* `plain_grpo`: TRL's GRPOTrainer with its defaults, 8 responses to a task in an update.

Each arm's weights are measured greedily in float32 on the same 200 items straight from the generators
(`benchmarks.arithmetic`); the clock of the scripts, which starts after their imports, stands still meanwhile.
Some of the items may have been drawn for training, by each arm from the same pool. One JSON line per
measurement is appended to points.jsonl; arms that have lines are not run again.
"""

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import CAMPAIGN, checkpoint, mix, run_campaign, settings_in
from benchmarks.methods import PLAIN, rows_of
from benchmarks.plain import Script
from selfimp_dagster.campaign import load_campaign
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.models.source import resolve_model
from selfimp_dagster.store import MANIFEST, ArtifactStore
from selfimp_dagster.tasks.pools import draw_pool, pool_seed

TARGETS = (0.59, 0.735, 0.76, 0.9)
PASSES, TASKS, STEPS_IN_A_PASS = 4, 96, 48  # of plain_rejection
GRPO_STEPS, GRPO_WATCH = 240, 40


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=["campaign", *PLAIN])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "points.jsonl"
    for arm in arguments.arms:
        if any(point["arm"] == arm for point in rows_of(file)):
            continue
        folder = arguments.out / arm
        shutil.rmtree(folder, ignore_errors=True)
        points = (
            campaign_points(folder, arguments.seed, arguments.rounds)
            if arm == "campaign"
            else script_points(arm, folder, arguments.seed, arguments.out / "campaign" / "home" / "models")
        )
        with file.open("a") as lines:
            lines.writelines(json.dumps({"arm": arm} | point) + "\n" for point in points)
    print(table(rows_of(file)))


def campaign_points(folder: Path, seed: int, rounds: int) -> list[dict[str, Any]]:
    """The checkpoints that were promoted, each with the seconds until it was there."""
    where = settings_in(folder)
    campaign = load_campaign(CAMPAIGN)
    resolve_model(campaign.model, where.models)
    started = time.time()
    run_campaign(folder, seed, rounds)
    ledger = read_ledger(ArtifactStore(where.store)).filter("promoted")
    found = []
    for key in ledger["round"]:
        weights = checkpoint(where, key)
        committed = (weights.parent.parent / MANIFEST).stat().st_mtime
        found.append(point(committed - started, mix(campaign, weights, set()), key))
    return found


def script_points(arm: str, folder: Path, seed: int, models: Path) -> list[dict[str, Any]]:
    """A script's weights as it goes, each with the seconds that sampling and training took."""
    campaign = load_campaign(CAMPAIGN)
    tasks = draw_pool(
        "train",
        campaign.skills,
        PASSES * TASKS,
        seed=pool_seed("train", seed, 0),
        evaluation_share=campaign.pools.evaluation_share,
        base_folder=CAMPAIGN.parent,
        skill_weights=campaign.skill_weights,
    ).tasks
    found: list[dict[str, Any]] = []
    started, measuring = time.monotonic(), 0.0

    def watch(model: Any, tokenizer: Any) -> None:
        nonlocal measuring
        stopped = time.monotonic()
        model.save_pretrained(folder / "measured")
        tokenizer.save_pretrained(folder / "measured")
        found.append(point(stopped - started - measuring, mix(campaign, folder / "measured", set()), arm))
        measuring += time.monotonic() - stopped

    script, learning_rate = PLAIN[arm]
    script(
        Script(
            base=resolve_model(campaign.model, models),
            tasks=tasks,
            asked=[dict(campaign.messages(task.prompt)[-1]) for task in tasks],
            output=folder / "model",
            seed=seed,
            steps=PASSES * STEPS_IN_A_PASS if arm == "plain_rejection" else GRPO_STEPS,
            batch=8,
            learning_rate=learning_rate,
            passes=PASSES,
            watch=watch,
            watch_every=GRPO_WATCH,
        )
    )
    return found


def point(seconds: float, reached: dict[str, Any], name: str) -> dict[str, Any]:
    """A measurement as plain data."""
    return {"seconds": seconds, "of": name} | {end: reached[end] for end in ("accuracy", "low", "high")}


def table(points: list[dict[str, Any]]) -> str:
    """Markdown: every measurement, then the seconds to each target."""
    lines = [
        f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}",
        "",
        "| arm | seconds | accuracy (95 %) |",
    ]
    lines += ["|---|---|---|"]
    lines += [
        f"| {p['arm']} | {p['seconds']:.0f} | {p['accuracy']:.3f} ({p['low']:.3f} to {p['high']:.3f}) |"
        for p in points
    ]
    arms = list(dict.fromkeys(point["arm"] for point in points))
    lines += ["", f"| first measured at | {' | '.join(arms)} |", f"|---|{'---|' * len(arms)}"]
    for target in TARGETS:
        first = [
            next(
                (f"{p['seconds']:.0f} s" for p in points if p["arm"] == arm and p["accuracy"] >= target), "-"
            )
            for arm in arms
        ]
        lines.append(f"| {target} | {' | '.join(first)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
