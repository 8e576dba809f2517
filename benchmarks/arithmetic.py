"""The shipped campaign, from nothing, for several seeds: what two rounds reach and what they cost.

    python -m benchmarks.arithmetic --out results/ --seeds 0 1 2

Each seed runs `selfimp run arithmetic --rounds 2` in a home of its own, model conversion included. What is in
force after the rounds is then measured, beside the base model, on 200 items straight from the generators of
the campaign's mix (100 sums, 100 products; float32, greedy, the last number is the answer). Unlike the
campaign's own items, these may coincide with tasks that the campaign drew: there are only 100 one-digit
products. So the items that it never drew are counted apart. Writes seed-<n>/result.json as it goes, and a
table at the end.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import reasoning_gym
import yaml

from selfimp_dagster.campaign import Campaign, load_campaign
from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.lifecycle.evaluation.statistics import wilson
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.source import resolve_model
from selfimp_dagster.records import TASKS
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.settings import Settings
from selfimp_dagster.store import ArtifactStore
from selfimp_dagster.tasks.verifiers import extract_answer

CAMPAIGN = Path(__file__).parent.parent / "campaigns" / "arithmetic.yaml"
ITEMS_PER_SKILL = 100
FAR_SEED = 10**9  # far from every seed that a campaign draws with


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        folder = arguments.out / f"seed-{seed}"
        wall = run_campaign(folder, seed, arguments.rounds)
        (folder / "result.json").write_text(json.dumps(result(folder, seed, wall), indent=2) + "\n")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}\n")
    print(table([json.loads(path.read_text()) for path in sorted(arguments.out.glob("seed-*/result.json"))]))


def settings_in(folder: Path) -> Settings:
    return Settings(home=(folder / "home").resolve(), campaigns=(folder / "campaigns").resolve())


def run_campaign(folder: Path, seed: int, rounds: int) -> float:
    """Runs one campaign from nothing; its wall time in seconds."""
    where = settings_in(folder)
    shutil.copytree(CAMPAIGN.parent, where.campaigns)
    text = yaml.safe_load(CAMPAIGN.read_text()) | {"seed": seed}
    (where.campaigns / CAMPAIGN.name).write_text(yaml.safe_dump(text, sort_keys=False))
    environment = {**os.environ, "SELFIMP_HOME": str(where.home), "SELFIMP_CAMPAIGNS": str(where.campaigns)}
    command = [sys.executable, "-m", "selfimp_dagster.cli", "run", "arithmetic", "--rounds", str(rounds)]
    started = time.monotonic()
    subprocess.run(command, env=environment, check=True)
    return time.monotonic() - started


def result(folder: Path, seed: int, wall: float) -> dict[str, object]:
    """A campaign's ledger and wall time, and the mix before and after."""
    where = settings_in(folder)
    campaign = load_campaign(where.campaigns / CAMPAIGN.name)
    ledger = read_ledger(ArtifactStore(where.store)).to_dicts()
    base = resolve_model(campaign.model, where.models)
    promoted = [row["round"] for row in ledger if row["promoted"]]
    drawn = drawn_prompts(where)
    return {
        "seed": seed,
        "wall_seconds": wall,
        "rounds": ledger,
        "mix_before": mix(campaign, base, drawn),
        "mix_after": mix(campaign, checkpoint(where, promoted[-1]) if promoted else base, drawn),
    }


def checkpoint(where: Settings, key: str) -> Path:
    return ArtifactStore(where.store).open(RoundKey.parse(key), "checkpoint").folder / "model"


def drawn_prompts(where: Settings) -> set[str]:
    """Every prompt that the campaign sampled, so may have trained on."""
    store = ArtifactStore(where.store)
    tables = (
        store.open(key, asset).table("tasks", TASKS)
        for key in store.rounds()
        for asset in ("generated_corpus", "refined_outputs")
    )
    return {prompt for table in tables for prompt in table["prompt"]}


def mix(campaign: Campaign, model: Path, drawn: set[str]) -> dict[str, object]:
    """Greedy float32 accuracy on items straight from the generators, in all, by skill, and if never drawn."""
    engine = TransformersEngine(model, dtype="float32")
    answered: list[tuple[str, bool, bool]] = []  # skill, right, never drawn
    for skill, source in campaign.skills.items():
        items = reasoning_gym.create_dataset(
            source.family, size=ITEMS_PER_SKILL, seed=FAR_SEED, **source.parameters
        )
        requests = [Request(str(n), campaign.messages(item["question"]), 0) for n, item in enumerate(items)]
        sampling = Sampling(max_new_tokens=campaign.evaluation.max_new_tokens, temperature=0)
        for batch in engine.generate(requests, sampling):
            for completion in batch:
                item = items[int(completion.request_id)]
                answer = extract_answer(completion.response, expected_numeric=True)
                answered.append((skill, answer == item["answer"], item["question"] not in drawn))
    right = sum(right for _, right, _ in answered)
    low, high = wilson(right, len(answered))
    return {
        "policy_hash": policy_hash(model),
        "accuracy": right / len(answered),
        "low": low,
        "high": high,
        "n": len(answered),
        "skills": {skill: share(answered, skill) for skill in campaign.skills},
        "never_drawn": {
            skill: share([row for row in answered if row[2]], skill) for skill in campaign.skills
        },
    }


def share(answered: list[tuple[str, bool, bool]], skill: str) -> dict[str, float]:
    """Accuracy on the items of a skill, and how many they are."""
    right = [right for name, right, _ in answered if name == skill]
    return {"accuracy": sum(right) / max(1, len(right)), "n": len(right)}


def table(seeds: list[dict]) -> str:
    """Markdown: a line per seed and round, then the mix."""
    lines = [
        "| seed | round | anchor | fresh | guard | verdict | tokens | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed in seeds:
        for row in seed["rounds"]:
            cells = [
                f"{row[f'incumbent_{suite}']:.3f} -> {row[f'candidate_{suite}']:.3f} "
                f"({row[f'candidate_{suite}_low']:.3f} to {row[f'candidate_{suite}_high']:.3f})"
                for suite in ("anchor", "fresh", "guard")
            ]
            verdict = "promoted" if row["promoted"] else "rejected"
            cells += [verdict, f"{row['tokens']:,}", f"{row['seconds']:.0f}"]
            lines.append(f"| {seed['seed']} | {row['round']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| seed | mix before | mix after (95 %) | by skill (items) | never drawn (items) | wall seconds | "
        "outside the stages |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed in seeds:
        before, after, wall = seed["mix_before"], seed["mix_after"], seed["wall_seconds"]
        outside = 1 - sum(row["seconds"] for row in seed["rounds"]) / wall
        skills, new = (
            ", ".join(
                f"{skill} {value['accuracy']:.2f} ({value['n']})" for skill, value in after[part].items()
            )
            for part in ("skills", "never_drawn")
        )
        lines.append(
            f"| {seed['seed']} | {before['accuracy']:.3f} | {after['accuracy']:.3f} "
            f"({after['low']:.3f} to {after['high']:.3f}) | {skills} | {new} | {wall:.0f} | {outside:.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
