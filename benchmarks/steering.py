"""Steering at equal compute: the steered campaign against no steering, random selection and an oracle.

    python -m benchmarks.steering votes --out results/votes --seeds 0 1 2
    python -m benchmarks.steering saturated --out results/saturated --seeds 0 1 2
    python -m benchmarks.steering votes --out results/votes --report

Every seed has a student of its own, a small transformer that was taught to copy and to reverse up to five
letters, and four campaigns that go on from it. In the case `votes` it copies and reverses four to eight
letters, and learns from what most of its own answers agree on. In `saturated` three quarters of the tasks are
copies of four or five letters, which it does well, the others reversals of four to eight, and a verifier says
what is right.

* unsteered: the recipe as it is;
* steered: the same, with the rules of `steering` as they are shipped;
* random: the same, but as many rows as the unsteered arm kept are kept by chance;
* oracle: the same, but with what only somebody could know who has the truth: in `votes` what is right, in
  `saturated` where the budget is needed, from the first round on.

A campaign goes on until its tokens, drawn and trained, evaluation included, reach the budget; what counts is
the policy in force after the last round that lies within it. Policies are then asked new strings from the
generator, greedily, the same for all arms of a seed. What OUT already has is not run again. Writes
steering.json and steering.png and prints two tables.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import sqrt
from pathlib import Path
from statistics import stdev
from typing import Any

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict
from scipy.stats import t

from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.lab.grounds import MOST_TOKENS, Ground, healthy
from selfimp_dagster.lab.run import Lab, make_student
from selfimp_dagster.lab.truth import solve
from selfimp_dagster.lifecycle.evaluation.statistics import paired_difference_interval, wilson
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.lifecycle.selection.chain import JUDGEMENTS, SelectionContext
from selfimp_dagster.lifecycle.selection.stage import SUBSET
from selfimp_dagster.records import SAMPLES, content_hash
from selfimp_dagster.registry import Method, lent
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.rounds_in_process import open_instance, run_round
from selfimp_dagster.settings import Settings
from selfimp_dagster.store import ArtifactStore
from selfimp_dagster.tasks import strings

ARMS = ("unsteered", "steered", "random", "oracle")
ITEMS = 60  # strings of each operation and length that a policy is asked
FAR_SEED = 2 * 10**9  # far from every seed that a campaign draws with


@dataclass(frozen=True)
class Case:
    """What the campaigns of a case are about.

    `budget` is in tokens, `rounds` are the most that are run, `asked` the lengths that are measured by
    operation. `oracle` changes the campaign of that arm.
    """

    ground: Ground
    skills: dict[str, dict[str, Any]]
    train: int
    budget: int
    rounds: int
    asked: dict[strings.Operation, range]
    oracle: Callable[[dict[str, Any]], dict[str, Any]]


def _knows_what_is_right(campaign: dict[str, Any]) -> dict[str, Any]:
    _, *chain = campaign["recipe"]["selection"]
    known = {"rewards": [{"method": "answer"}], "selection": [{"method": "verified"}, *chain]}
    return campaign | {"recipe": campaign["recipe"] | known}


def _knows_what_is_needed(campaign: dict[str, Any]) -> dict[str, Any]:
    weights = {"copying": 0.1, "reversing": 0.9}
    skills = {name: source | {"weight": weights[name]} for name, source in campaign["skills"].items()}
    return campaign | {"skills": skills}


def _strings(operation: strings.Operation, lengths: range, weight: float) -> dict[str, Any]:
    bounds = {"shortest": lengths[0], "longest": lengths[-1]}
    return {"suite": "strings", "operation": operation, "weight": weight, **bounds}


_LONG, _SHORT = range(4, 9), range(4, 6)
CASES = {
    "votes": Case(
        "voted",
        {"copying": _strings("copy", _LONG, 1), "reversing": _strings("reverse", _LONG, 1)},
        train=1200,
        budget=1_600_000,
        rounds=8,
        asked={"copy": _LONG, "reverse": _LONG},
        oracle=_knows_what_is_right,
    ),
    "saturated": Case(
        "verified",
        {"copying": _strings("copy", _SHORT, 3), "reversing": _strings("reverse", _LONG, 1)},
        train=400,
        budget=600_000,
        rounds=8,
        asked={"copy": _SHORT, "reverse": _LONG},
        oracle=_knows_what_is_needed,
    ),
}


class RandomShare(BaseModel):
    """Parameters of `random_share`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float


def random_share(rows: pl.DataFrame, context: SelectionContext, parameters: RandomShare) -> pl.DataFrame:
    """Keeps so large a share of the rows, by chance."""
    chances = [
        int(content_hash([context.seed, id_])[:15], 16) / 16**15 for id_ in rows["sample_id"].to_list()
    ]
    return pl.DataFrame(
        {
            "sample_id": rows["sample_id"],
            "score": chances,
            "kept": [chance < parameters.share for chance in chances],
            "reason": "by chance",
            "evidence": "{}",
        }
    ).cast(JUDGEMENTS)


RANDOM = Method("selection", "random_share", random_share, RandomShare, "3", "", frozenset())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--report", action="store_true", help="run nothing")
    given = parser.parse_args()
    case = CASES[given.case]
    with lent(RANDOM):  # what the random arm stored can only be read while its step is there
        if not given.report:
            for seed in given.seeds:
                for arm in given.arms:
                    run_arm(case, given.out, seed, arm)
        found = {
            "case": given.case,
            "budget": case.budget,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "date": time.strftime("%Y-%m-%d"),
            "rounds": [
                row
                for seed in given.seeds
                for arm in given.arms
                for row in measured(case, given.out, seed, arm)
            ],
        }
    (given.out / "steering.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(found["rounds"]), "\n")
    print(differences(found["rounds"]))
    draw(found["rounds"], given.out / "steering.png")


def installation(out: Path, seed: int, arm: str) -> Settings:
    home = (out / f"seed-{seed}" / arm).resolve()
    (home / "campaigns").mkdir(parents=True, exist_ok=True)
    return Settings(home=home, campaigns=home / "campaigns")


def campaign(case: Case, arm: str, student: Path, seed: int, share: float | None) -> dict[str, Any]:
    """The campaign file of an arm; all but what the arm is about is the same."""
    plain = healthy(case.ground, arm, student, seed)
    optimization = plain["recipe"]["optimization"] | {"learning_rate": 1e-3, "epochs": 6}
    found = {
        **plain,
        "skills": case.skills,
        "pools": {"train": case.train, "anchor": 620, "fresh": 310, "guard": 60},
        "recipe": plain["recipe"] | {"optimization": optimization},
        "promotion": {"minimum_gain": 0.05},
        "continuation": {"rounds": case.rounds, "patience": case.rounds},
        "steering": {} if arm == "steered" else None,
    }
    if arm == "random":
        _, *chain = found["recipe"]["selection"]
        by_chance = {"method": RANDOM.name, "share": share}
        return found | {"recipe": found["recipe"] | {"selection": [by_chance, *chain]}}
    return case.oracle(found) if arm == "oracle" else found


def run_arm(case: Case, out: Path, seed: int, arm: str) -> None:
    """Runs the rounds of an arm that lie within the budget, and the one that would leave it."""
    where = installation(out, seed, arm)
    store = ArtifactStore(where.store)
    student = make_student(Lab(out / f"seed-{seed}" / "lab"), print, seed)
    share = kept_share(out, seed) if arm == "random" else None
    text = yaml.safe_dump(campaign(case, arm, student, seed, share), sort_keys=False)
    (where.campaigns / f"{arm}.yaml").write_text(text, encoding="utf-8")
    with open_instance(where.home) as instance:
        for number in range(case.rounds):
            if spent(store) >= case.budget:
                break
            key = RoundKey(arm, number)
            if not store.has(key, "eval_report"):
                run_round(instance, WorkbenchResource.at(where), key)
                print(f"seed {seed} {key}: {spent(store):,} tokens", flush=True)


def spent(store: ArtifactStore) -> int:
    ledger = read_ledger(store)
    return int(ledger["tokens"].sum()) if ledger.height else 0


def kept_share(out: Path, seed: int) -> float:
    """The share of its samples that the unsteered arm trained on."""
    store = ArtifactStore(installation(out, seed, "unsteered").store)
    kept = drawn = 0
    for round_ in read_ledger(store)["round"]:
        key = RoundKey.parse(round_)
        kept += store.open(key, "selected_subset").table("subset", SUBSET).height
        drawn += store.open(key, "generated_corpus").table("samples", SAMPLES).height
    return kept / drawn


def measured(case: Case, out: Path, seed: int, arm: str) -> Iterator[dict[str, Any]]:
    """The policy in force after each round within the budget, and what it answers; first the student."""
    where = installation(out, seed, arm)
    store = ArtifactStore(where.store)
    student = make_student(Lab(out / f"seed-{seed}" / "lab"), print, seed)
    told: dict[str, Any] = {"seed": seed, "arm": arm, "selected": None, "right": None, "directives": []}
    policy, tokens = student, 0
    yield told | {"round": None, "tokens": 0, "promoted": None, "answers": answers(case, policy, out)}
    for row in read_ledger(store).sort("round").to_dicts():
        tokens += row["tokens"]
        if tokens > case.budget:
            break
        key = RoundKey.parse(row["round"])
        if row["promoted"]:
            policy = store.open(key, "checkpoint").folder / "model"
        yield told | {
            "round": key.number,
            "tokens": tokens,
            "promoted": row["promoted"],
            **selection(store, key),
            "directives": directives(store, key),
            "answers": answers(case, policy, out),
        }


def selection(store: ArtifactStore, key: RoundKey) -> dict[str, Any]:
    """How many rows a round trained on, and which share of them is right."""
    kept = store.open(key, "selected_subset").table("subset", SUBSET)
    right = sum(
        response.strip() == solve(prompt)
        for prompt, response in kept.select("prompt", "response").iter_rows()
    )
    return {"selected": kept.height, "right": right / kept.height if kept.height else None}


def directives(store: ArtifactStore, key: RoundKey) -> list[str]:
    """The directives that a round was given."""
    return [directive.kind for directive in read_policy(store, key)[0].directives]


def answers(case: Case, model: Path, out: Path) -> dict[str, list[int]]:
    """By operation and length, whether each string is right; measured once for each set of weights."""
    from selfimp_dagster.models.hashing import policy_hash

    known = out / "answers" / f"{policy_hash(model)}.json"
    if known.exists():
        found: dict[str, list[int]] = json.loads(known.read_text())
        return found
    asked = [
        (f"{operation} {length}", prompt, answer)
        for operation, lengths in case.asked.items()
        for length in lengths
        for prompt, answer, _ in islice(strings.items(operation, [length], FAR_SEED + length), ITEMS)
    ]
    requests = [
        Request(str(place), ({"role": "user", "content": prompt},), 0)
        for place, (_, prompt, _) in enumerate(asked)
    ]
    right: dict[str, dict[int, int]] = {}
    engine = TransformersEngine(model, dtype="float32", batch_size=1024)
    for batch in engine.generate(requests, Sampling(max_new_tokens=MOST_TOKENS, temperature=0)):
        for completion in batch:
            kind, _, answer = asked[int(completion.request_id)]
            right.setdefault(kind, {})[int(completion.request_id)] = int(completion.response == answer)
    found = {kind: [rows[place] for place in sorted(rows)] for kind, rows in sorted(right.items())}
    known.parent.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps(found))
    return found


def flat(row: Mapping[str, Any]) -> list[int]:
    return [right for kind in sorted(row["answers"]) for right in row["answers"][kind]]


def last(rows: Sequence[Mapping[str, Any]], seed: int, arm: str) -> Mapping[str, Any]:
    return [row for row in rows if row["seed"] == seed and row["arm"] == arm][-1]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What each arm came to."""
    columns = (
        "seed",
        "arm",
        "rounds",
        "promoted",
        "tokens",
        "rows trained on (right)",
        "right at first",
        "right at last (95 %)",
        "copying",
        "reversing",
    )
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for seed, arm in dict.fromkeys((row["seed"], row["arm"]) for row in rows):
        mine = [row for row in rows if row["seed"] == seed and row["arm"] == arm]
        first, final = flat(mine[0]), flat(mine[-1])
        low, high = wilson(sum(final), len(final))
        trained = sum(row["selected"] or 0 for row in mine)
        right = sum((row["selected"] or 0) * (row["right"] or 0) for row in mine)
        by = {
            operation: [
                x for kind, xs in mine[-1]["answers"].items() if kind.startswith(operation) for x in xs
            ]
            for operation in ("copy", "reverse")
        }
        cells = [
            seed,
            arm,
            len(mine) - 1,
            sum(bool(row["promoted"]) for row in mine),
            f"{mine[-1]['tokens']:,}",
            f"{trained} ({right / trained:.3f})" if trained else "none",
            f"{_mean(first):.3f}",
            f"{_mean(final):.3f} ({low:.3f} to {high:.3f})",
            *(f"{_mean(by[operation]):.3f}" for operation in ("copy", "reverse")),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def differences(rows: Sequence[Mapping[str, Any]]) -> str:
    """The last policy of each arm less that of the unsteered one, on the same strings."""
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    arms = [arm for arm in dict.fromkeys(row["arm"] for row in rows) if arm != "unsteered"]
    lines = [f"| less unsteered | {' | '.join(f'seed {seed}' for seed in seeds)} | mean (95 % over seeds) |"]
    lines.append("|" + "---|" * (len(seeds) + 2))
    for arm in arms:
        cells, means = [], []
        for seed in seeds:
            ours, theirs = flat(last(rows, seed, arm)), flat(last(rows, seed, "unsteered"))
            difference = [a - b for a, b in zip(ours, theirs, strict=True)]
            low, high = paired_difference_interval(difference)
            means.append(_mean(difference))
            cells.append(f"{means[-1]:+.3f} ({low:+.3f} to {high:+.3f})")
        lines.append(f"| {arm} | {' | '.join(cells)} | {_over_seeds(means)} |")
    return "\n".join(lines)


def _over_seeds(means: Sequence[float]) -> str:
    """The mean of the seeds' differences, with the 95 % interval of Student's t from their spread."""
    if len(means) < 2:
        return f"{_mean(means):+.3f}"
    half = stdev(means) / sqrt(len(means)) * float(t.ppf(0.975, len(means) - 1))
    return f"{_mean(means):+.3f} ({_mean(means) - half:+.3f} to {_mean(means) + half:+.3f})"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    figure, panels = plt.subplots(
        1, len(seeds), figsize=(4 * len(seeds), 3.4), layout="constrained", sharey=True, squeeze=False
    )
    for seed, panel in zip(seeds, panels[0], strict=True):
        for arm in ARMS:
            mine = [row for row in rows if row["seed"] == seed and row["arm"] == arm]
            if mine:
                tokens = [row["tokens"] / 1e6 for row in mine]
                panel.plot(tokens, [_mean(flat(row)) for row in mine], "o-", ms=4, label=arm)
        panel.set(xlabel="tokens, in millions", title=f"seed {seed}")
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[0][0].set(ylabel="right, of new strings")
    panels[0][-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
