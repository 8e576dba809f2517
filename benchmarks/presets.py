"""One real round of every preset on SmolLM2: what ran, on what, and what was measured.

    python -m benchmarks.presets --out results/ [--presets star scpo] [--model FOLDER]

Each preset has one round of the shipped campaign, cut small (`--tasks` train tasks, 16 tokens a response, 60
anchor and 40 fresh items), through the same job as `selfimp run`, gate included. A judge's floor stays as it
is unless `--floor` is given, so a judge that the gold probe bars is what the row says. `--model` starts from
another model, for example that of `benchmarks.primed`: some presets ask for more than SmolLM2 can do, or for
answers right often enough to agree. One JSON line per preset is appended to rounds.jsonl; presets with a line
are not run again. The table at the end goes into the documentation.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.arithmetic import CAMPAIGN, settings_in
from benchmarks.methods import LEARNING_RATES, rows_of
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.presets import all_presets
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.rounds_in_process import open_instance, run_round
from selfimp_dagster.store import ArtifactStore

KEY = RoundKey("arithmetic", 0)
ANSWER_TOKENS = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--presets", nargs="+", default=list(all_presets()))
    parser.add_argument("--tasks", type=int, default=24)
    parser.add_argument("--model", help="in the place of the shipped campaign's")
    parser.add_argument("--floor", type=float, help="of judges, in the place of the recipe's")
    parser.add_argument("--temperature", type=float, default=1.0, help="of responses")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "rounds.jsonl"
    for name in arguments.presets:
        if not any(row["preset"] == name for row in rows_of(file)):
            row = one_round(name, arguments)
            with file.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
    print(table(rows_of(file)))


def one_round(name: str, told: argparse.Namespace) -> dict[str, Any]:
    """A round of the preset in an installation of its own, and its row."""
    folder = told.out / name
    shutil.rmtree(folder, ignore_errors=True)
    where = settings_in(folder)
    shutil.copytree(CAMPAIGN.parent, where.campaigns)
    write_campaign(where.campaigns / CAMPAIGN.name, name, told)
    where.models.parent.mkdir(parents=True, exist_ok=True)
    (told.out / "models").mkdir(exist_ok=True)
    where.models.symlink_to((told.out / "models").resolve())  # the base model is converted once
    started = time.monotonic()
    try:
        with open_instance(where.home) as instance:
            run_round(instance, WorkbenchResource.at(where), KEY)
    except SelfimpError as error:
        if error.what == "interrupted":  # by who stopped this program: the round is run again
            raise
        return {"preset": name, "seconds": time.monotonic() - started, "error": error.what}
    store = ArtifactStore(where.store)
    ledger = read_ledger(store).row(0, named=True)
    corpus, checkpoint = (store.open(KEY, asset) for asset in ("generated_corpus", "checkpoint"))
    kept = [f"{arm}_{suite}" for arm in ("incumbent", "candidate") for suite in ("anchor", "fresh", "guard")]
    row = {
        "preset": name,
        "tasks": told.tasks,
        "temperature": told.temperature,
        "seconds": ledger["seconds"],
        "tokens": ledger["tokens"],
        "samples": corpus.facts["samples"],
        "rows": checkpoint.facts["rows"],
        "promoted": ledger["promoted"],
        "verdict": ledger["verdict"],
        **{column: ledger[column] for column in kept},
        **{f"candidate_anchor_{end}": ledger[f"candidate_anchor_{end}"] for end in ("low", "high")},
    }
    shutil.rmtree(folder)
    return row


def write_campaign(path: Path, name: str, told: argparse.Namespace) -> None:
    """The shipped campaign, cut small, with this preset."""
    data = yaml.safe_load(path.read_text())
    data["model"] = told.model or data["model"]
    recipe = all_presets()[name].recipe
    words = {field: {"max_new_tokens": 32} for field in ("criticism", "reflection")}
    own = {"self_correction": ("criticism",), "reflect_retry": ("reflection",)}
    extra: dict[str, Any] = {field: words[field] for field in own.get(recipe["acquisition"]["method"], ())}
    if recipe["acquisition"]["method"] == "spice":
        extra["documents"] = ["python:statistics"]  # the documentation of Python's own module
    data["recipe"] = {
        "preset": name,
        "acquisition": {
            "sampling": {"max_new_tokens": ANSWER_TOKENS, "temperature": told.temperature},
            **extra,
        },
        "optimization": _update(recipe["optimization"]),
        "refinement": {"tasks": 8},
        "minimum_rows": 4,
    }
    if told.floor is not None:
        data["recipe"]["rewards"] = [
            reward | ({"floor": told.floor} if "judge" in reward else {})
            for reward in all_presets()[name].recipe["rewards"]
        ]
    data["pools"] |= {"train": told.tasks, "anchor": 60, "fresh": 40, "guard": 20}
    data["evaluation"] |= {"rewordings": 0, "reworded_items": 0, "twins": 0}
    data["promotion"] = {"minimum_gain": 0.25, "discordance": 0.3, "guard_margin": None}
    path.write_text(yaml.safe_dump(data, sort_keys=False))


def _update(update: dict[str, Any]) -> dict[str, Any]:
    short = {"epochs": 1, "batch_size": 8, "most_steps": 60}
    if update["method"] == "sequence":
        return {"updates": [one | short | _rate(one["method"]) for one in update["updates"]]}
    return short | _rate(update["method"])


def _rate(update: str) -> dict[str, float]:
    return {"learning_rate": LEARNING_RATES.get(update, LEARNING_RATES["grpo"])}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line per preset, in the order of the names."""
    lines = [
        "| preset | samples | rows trained on | anchor | fresh | guard | verdict | tokens | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["preset"]):
        if "error" in row:
            why = row["error"].partition(":")[0].partition(";")[0]
            lines.append(f"| {row['preset']} | | | | | | no round: {why} | | {row['seconds']:.0f} |")
            continue
        anchor, fresh, guard = (
            f"{row[f'incumbent_{suite}']:.3f} -> {row[f'candidate_{suite}']:.3f}"
            for suite in ("anchor", "fresh", "guard")
        )
        interval = f" ({row['candidate_anchor_low']:.2f} to {row['candidate_anchor_high']:.2f})"
        verdict = "promoted" if row["promoted"] else "rejected"
        cells = [row["preset"], row["samples"], row["rows"], anchor + interval, fresh, guard, verdict]
        cells += [f"{row['tokens']:,}", f"{row['seconds']:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
