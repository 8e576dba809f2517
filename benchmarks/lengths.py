"""The testbed: how far a small model extends its reach on what it labels itself, round by round.

    python -m benchmarks.lengths --out results/ [--seed 0] [--rounds 12] [--control]

Runs `selfimp run lengths` in a home of its own, from a model that was made from nothing, and then measures the
candidate of every round on sums of every length straight from the generator (greedy, float32; the figures
know the answers, the campaign does not). `--control` runs the same campaign with demonstrations in place of
what the model labels, so at the same number of updates a round: what more training alone is worth.
Writes lengths.json, a table and lengths.png; accuracies of rounds that were rejected are shown too.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.settings import Settings
from selfimp_dagster.store import ArtifactStore
from selfimp_dagster.tasks import strings

CAMPAIGN = Path(__file__).parent.parent / "campaigns" / "lengths.yaml"
LONGEST = 14
FAR_SEED = 10**9  # far from every seed that a campaign draws with
REACHED = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--items", type=int, default=200, help="sums of each length that are asked")
    parser.add_argument("--control", action="store_true", help="demonstrations alone")
    arguments = parser.parse_args()
    folder = arguments.out / ("control" if arguments.control else f"seed-{arguments.seed}")
    wall, processor = run_campaign(folder, arguments.seed, arguments.rounds, arguments.control)
    found = {
        "seed": arguments.seed,
        "control": arguments.control,
        "items": arguments.items,
        "wall_seconds": wall,
        "processor_seconds": processor,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "rounds": measured(folder, arguments.items),
    }
    (folder / "lengths.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    draw(found, folder / "lengths.png")


def settings_in(folder: Path) -> Settings:
    return Settings(home=(folder / "home").resolve(), campaigns=(folder / "campaigns").resolve())


def run_campaign(folder: Path, seed: int, rounds: int, control: bool) -> tuple[float, float]:
    """Runs the campaign from nothing; its wall time and processor time in seconds."""
    where = settings_in(folder)
    where.campaigns.mkdir(parents=True, exist_ok=True)
    shutil.copy(CAMPAIGN, where.campaigns)
    text = yaml.safe_load(CAMPAIGN.read_text()) | {"seed": seed}
    if control:
        text["recipe"]["acquisition"]["demonstrations"] = 1.0
    (where.campaigns / CAMPAIGN.name).write_text(yaml.safe_dump(text, sort_keys=False))
    environment = {**os.environ, "SELFIMP_HOME": str(where.home), "SELFIMP_CAMPAIGNS": str(where.campaigns)}
    command = [sys.executable, "-m", "selfimp_dagster.cli", "run", "lengths", "--rounds", str(rounds)]
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - started, processor


def measured(folder: Path, items: int) -> list[dict[str, Any]]:
    """What every round did, and the accuracy of its candidate by length."""
    store = ArtifactStore(settings_in(folder).store)
    rows = []
    for row in read_ledger(store).sort("number").to_dicts():
        key = RoundKey.parse(row["round"])
        candidate = store.open(key, "checkpoint").folder / "model"
        rows.append(
            {
                "round": str(key),
                "promoted": row["promoted"],
                "seconds": row["seconds"],
                "tokens": row["tokens"],
                "labels": labels(store, key),
                "accuracy": by_length(candidate, items),
            }
        )
    return rows


def labels(store: ArtifactStore, key: RoundKey) -> dict[str, Any]:
    """How many of its own answers a round trained on, and which share of these is right."""
    selected = store.open(key, "selected_subset").table("subset")
    corpus = store.open(key, "generated_corpus")
    answers = dict(corpus.table("tasks").select("task_id", "answer").iter_rows())
    own = [
        answers[task] == response.strip()
        for task, response, generation in selected.select("task_id", "response", "generation").iter_rows()
        if generation == "SE" and task in answers
    ]
    return {"own": len(own), "right": sum(own) / len(own) if own else None}


def by_length(model: Path, items: int) -> list[float]:
    """The share of right answers to sums of 1, 2, ... digits."""
    engine = TransformersEngine(model, dtype="float32", batch_size=1024)
    asked = [
        (length, prompt, answer)
        for length in range(1, LONGEST + 1)
        for prompt, answer, _ in islice(strings.items("addition", [length], FAR_SEED + length), items)
    ]
    requests = [
        Request(str(place), ({"role": "user", "content": prompt},), 0)
        for place, (_, prompt, _) in enumerate(asked)
    ]
    right = [0] * LONGEST
    for batch in engine.generate(requests, Sampling(max_new_tokens=LONGEST + 2, temperature=0)):
        for completion in batch:
            length, _, answer = asked[int(completion.request_id)]
            right[length - 1] += completion.response == answer
    return [count / items for count in right]


def table(found: dict[str, Any]) -> str:
    lengths = range(4, LONGEST + 1)
    head = ["round", "verdict", "own rows (right)", "seconds", *(str(length) for length in lengths)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in found["rounds"]:
        right = row["labels"]["right"]
        cells = [
            row["round"],
            "promoted" if row["promoted"] else "rejected",
            "none" if right is None else f"{row['labels']['own']} ({right:.3f})",
            f"{row['seconds']:.0f}",
            *(f"{row['accuracy'][length - 1]:.2f}" for length in lengths),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"{found['machine']}, {found['date']}, {found['wall_seconds']:.0f} s by the clock, "
        f"{found['processor_seconds']:.0f} s of processor time; {found['items']} sums a cell",
        f"at least {REACHED:.0%} right up to {reach(found)} digits",
    ]
    return "\n".join(lines)


def reach(found: dict[str, Any]) -> int:
    """Up to how many digits the last promoted candidate is right often enough, at every length."""
    promoted = [row["accuracy"] for row in found["rounds"] if row["promoted"]]
    last = promoted[-1] if promoted else []
    return next((place for place, value in enumerate(last) if value < REACHED), len(last))


def draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(8, 4.2), layout="constrained")
    kept = [row for row in found["rounds"] if row["promoted"]]
    shades = plt.get_cmap("viridis")
    for place, row in enumerate(kept):
        shade = shades(place / max(len(kept) - 1, 1) * 0.9)
        panel.plot(range(1, LONGEST + 1), row["accuracy"], "o-", color=shade, label=row["round"][-4:], ms=4)
    panel.axhline(REACHED, color="black", linestyle=":", linewidth=1)
    panel.axvline(5.5, color="grey", linestyle="--", linewidth=1)
    panel.text(5.4, 0.03, "shown ", ha="right")
    panel.text(5.6, 0.03, " labelled by itself", ha="left")
    panel.set(xlabel="digits of a sum", ylabel="right to the letter", ylim=(-0.02, 1.02))
    panel.set_xticks(range(1, LONGEST + 1))
    panel.legend(title="after round", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
