"""The testbed: how far a small model extends its reach on what it labels itself, round by round.

    python -m benchmarks.lengths --out results/ [--seed 0] [--rounds 9] [--control]
    python -m benchmarks.lengths --out results/ --measure

Runs `selfimp run lengths` in a home of its own, from a model that was made from nothing, and then measures
the candidate of every round on sums of every length straight from the generator (greedy, float32; the
benchmark knows the answers, the recipe does not). `--control` runs the same campaign with demonstrations in
place of what the model labels, at the same number of tasks a round: what more training alone is worth.
`--measure` measures the rounds that are there. Writes lengths.json and lengths.png and prints a table.
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
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import yaml

from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.lifecycle.selection.stage import SUBSET
from selfimp_dagster.records import SAMPLES, TASKS
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.settings import Settings
from selfimp_dagster.store import ArtifactStore
from selfimp_dagster.tasks import strings

CAMPAIGN = Path(__file__).parent.parent / "campaigns" / "lengths.yaml"
LENGTHS = range(2, 15)
SHOWN = 5  # digits of the longest sums that come with their answers
FAR_SEED = 10**9  # far from every seed that a campaign draws with
REACHED = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--items", type=int, default=200, help="sums of each length that are asked")
    parser.add_argument("--control", action="store_true", help="demonstrations alone")
    parser.add_argument("--measure", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    folder = arguments.out / ("control" if arguments.control else f"seed-{arguments.seed}")
    spent = None
    if not arguments.measure:
        spent = run_campaign(folder, arguments.seed, arguments.rounds, arguments.control)
    found = {
        "items": arguments.items,
        "processor_seconds": spent,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
        "rounds": measured(folder, arguments.items),
    }
    (folder / "lengths.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    draw(found, folder / "lengths.png")


def settings_in(folder: Path) -> Settings:
    return Settings(home=(folder / "home").resolve(), campaigns=(folder / "campaigns").resolve())


def run_campaign(folder: Path, seed: int, rounds: int, control: bool) -> float:
    """Runs the campaign from nothing; its processor time in seconds, over all threads."""
    where = settings_in(folder)
    where.campaigns.mkdir(parents=True, exist_ok=True)
    shutil.copy(CAMPAIGN, where.campaigns)
    text = yaml.safe_load(CAMPAIGN.read_text()) | {"seed": seed}
    if control:
        text["recipe"]["acquisition"]["demonstrations"] = 1.0
    (where.campaigns / CAMPAIGN.name).write_text(yaml.safe_dump(text, sort_keys=False))
    environment = {**os.environ, "SELFIMP_HOME": str(where.home), "SELFIMP_CAMPAIGNS": str(where.campaigns)}
    command = [sys.executable, "-m", "selfimp_dagster.cli", "run", "lengths", "--rounds", str(rounds)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environment, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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
    corpus = store.open(key, "generated_corpus")
    drawn = corpus.table("samples", SAMPLES).filter(generation="SE")
    selected = store.open(key, "selected_subset").table("subset", SUBSET)
    answers = dict(corpus.table("tasks", TASKS).select("task_id", "answer").iter_rows())
    own = [
        answers[task] == response
        for task, response in selected.join(drawn, on="sample_id", how="semi")
        .select("task_id", "response")
        .iter_rows()
    ]
    return {"own": len(own), "right": sum(own) / len(own) if own else None}


def by_length(model: Path, items: int) -> dict[int, float]:
    """The share of right answers to sums of each length."""
    engine = TransformersEngine(model, dtype="float32", batch_size=1024)
    asked = [
        (length, prompt, answer)
        for length in LENGTHS
        for prompt, answer, _ in islice(strings.items("addition", [length], FAR_SEED + length), items)
    ]
    requests = [
        Request(str(place), ({"role": "user", "content": prompt},), 0)
        for place, (_, prompt, _) in enumerate(asked)
    ]
    right = dict.fromkeys(LENGTHS, 0)
    for batch in engine.generate(requests, Sampling(max_new_tokens=max(LENGTHS) + 2, temperature=0)):
        for completion in batch:
            length, _, answer = asked[int(completion.request_id)]
            right[length] += completion.response == answer
    return {length: count / items for length, count in right.items()}


def table(found: dict[str, Any]) -> str:
    head = ["round", "verdict", "own rows (right)", "seconds", *(str(length) for length in LENGTHS)]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in found["rounds"]:
        right = row["labels"]["right"]
        cells = [
            row["round"],
            "promoted" if row["promoted"] else "rejected",
            "none" if right is None else f"{row['labels']['own']} ({right:.3f})",
            f"{row['seconds']:.0f}",
            *(f"{row['accuracy'][length]:.2f}" for length in LENGTHS),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    spent = found["processor_seconds"]
    lines += [
        "",
        f"{found['machine']}, {found['date']}; {found['items']} sums a cell",
        *([f"{spent:.0f} s of processor time"] if spent is not None else []),
        f"at least {REACHED:.0%} right up to {reach(found)} digits",
    ]
    return "\n".join(lines)


def reach(found: dict[str, Any]) -> int:
    """Up to how many digits the last promoted candidate is right often enough, at every length."""
    promoted = [row["accuracy"] for row in found["rounds"] if row["promoted"]]
    last = promoted[-1] if promoted else {}
    fit = takewhile(lambda length: last.get(length, 0.0) >= REACHED, LENGTHS)
    return max(fit, default=0)


def draw(found: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(8, 4.2), layout="constrained")
    kept = [row for row in found["rounds"] if row["promoted"]]
    shades = plt.get_cmap("viridis")
    for place, row in enumerate(kept):
        shade = shades(place / max(len(kept) - 1, 1) * 0.9)
        values = [row["accuracy"][length] for length in LENGTHS]
        panel.plot(LENGTHS, values, "o-", color=shade, label=row["round"][-4:], ms=4)
    panel.axhline(REACHED, color="black", linestyle=":", linewidth=1)
    panel.axvline(SHOWN + 0.5, color="grey", linestyle="--", linewidth=1)
    panel.text(SHOWN + 0.4, 0.03, "shown", ha="right")
    panel.text(SHOWN + 0.6, 0.03, "labelled by itself, or not at all", ha="left")
    panel.set(xlabel="digits of a sum", ylabel="right to the letter", ylim=(-0.02, 1.02))
    panel.set_xticks(LENGTHS)
    panel.legend(title="after round", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
