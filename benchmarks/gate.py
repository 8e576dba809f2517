"""What promotion rules promote: false promotions at a true effect of zero, power, progress of campaigns.

    python -m benchmarks.gate --out gate
    python -m benchmarks.gate --out gate --soup SOUP_VENV/bin/python

prints tables and writes gate.csv and gate.png. With `--soup`, an interpreter that has PyPI's soup-cli, the
decision of `soup ship` is asked for too (benchmarks/soup_ship.py). Simulated, with nothing but the
promotion test itself (guard skills and alarms can only reject more):

* A policy answers an item right if its ability less the item's difficulty plus its own quirk on that item
  is positive; difficulty and quirk are normal. So items differ in how often they are answered right, and
  a candidate, whose quirks correlate with those of the incumbent that it was trained from, mostly agrees
  with it: as much as the wanted discordance says.
* Half of the items are fixed for the campaign (anchor), half are new in each round (fresh).
* A promoted candidate is the next incumbent, with its answers to the anchor items.
"""

import argparse
import csv
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from math import sqrt
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import multivariate_normal

from selfimp_dagster.lifecycle.evaluation.statistics import (
    CriticalWins,
    PastTest,
    e_value_critical_wins,
    level_of_round,
    mcnemar_critical_wins,
    paired_power,
)

ALPHA = 0.05  # of the whole campaign for our rules, of each round for the uncorrected test
PATIENCE = 3  # rounds in a row without a promotion after which a campaign stops: the default
ACCURACY = 0.35  # of the base model
DIFFICULTY = 1.0  # standard deviation over items; that of a quirk is 1
CAMPAIGNS = 4000

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Round:
    """The tests of many campaigns in one round. Accuracies are shares; `past` is how every earlier round of
    each campaign ended, one column a round."""

    wins: Counts
    losses: Counts
    before: npt.NDArray[np.float64]
    after: npt.NDArray[np.float64]
    past: Flags
    items: int
    rounds: int


Rule = Callable[[Round], Flags]
"""The campaigns whose candidate is promoted."""


@cache
def level(rounds: int, promoted: tuple[bool, ...]) -> float:
    """Our level of the round after these."""
    line: list[PastTest] = []
    for number, verdict in enumerate(promoted):
        line.append(PastTest(number, level(rounds, promoted[:number]), verdict))
    return level_of_round(ALPHA, rounds, PATIENCE, len(promoted), line)


@cache
def critical(test: CriticalWins, items: int, alpha: float) -> Counts:
    """The fewest wins that promote, by the number of discordant items."""
    everything = np.arange(items + 1)
    return test(everything, alpha) if alpha > 0 else everything + 1


def selfimp(test: CriticalWins) -> Rule:
    """A test at the levels of this project."""

    def promotes(round_: Round) -> Flags:
        promoted = np.zeros(round_.wins.size, dtype=np.bool_)
        pasts, campaign_of = np.unique(round_.past, axis=0, return_inverse=True)
        for number, past in enumerate(pasts):
            mine = campaign_of.reshape(-1) == number
            least = critical(test, round_.items, level(round_.rounds, tuple(bool(p) for p in past)))
            promoted[mine] = round_.wins[mine] >= least[(round_.wins + round_.losses)[mine]]
        return promoted

    return promotes


def mcnemar(alpha: Callable[[int], float]) -> Rule:
    """The exact McNemar test at a level that only the number of rounds moves."""

    def promotes(round_: Round) -> Flags:
        least = critical(mcnemar_critical_wins, round_.items, alpha(round_.rounds))
        promoted: Flags = round_.wins >= least[round_.wins + round_.losses]
        return promoted

    return promotes


def soup(python: Path) -> tuple[str, Rule]:
    """`soup ship` with its version, and what it decides, asked of the installation of this interpreter."""
    peer = subprocess.Popen(
        [python, Path(__file__).with_name("soup_ship.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert peer.stdin is not None
    assert peer.stdout is not None
    sent, answers = peer.stdin, peer.stdout
    known: dict[tuple[float, float], bool] = {}

    def promotes(round_: Round) -> Flags:
        pairs = list(zip(round_.before.tolist(), round_.after.tolist(), strict=True))
        asked = sorted(set(pairs) - known.keys())
        if asked:
            sent.write(json.dumps(asked) + "\n")
            sent.flush()
            known.update(zip(asked, json.loads(answers.readline()), strict=True))
        return np.array([known[pair] for pair in pairs])

    version = answers.readline().strip()
    if not version:
        raise SystemExit(f"{python} has no soup-cli")
    return f"soup ship {version}", promotes


RULES: dict[str, Rule] = {
    "selfimp": selfimp(mcnemar_critical_wins),
    "selfimp, e-value": selfimp(e_value_critical_wins),
    "McNemar alpha/rounds": mcnemar(lambda rounds: ALPHA / rounds),
    "McNemar 0.05": mcnemar(lambda rounds: ALPHA),
    '"+1 point"': lambda round_: round_.wins - round_.losses >= 0.01 * round_.items,
    '"strictly better"': lambda round_: round_.wins > round_.losses,
}


@dataclass(frozen=True)
class Row:
    """One cell. `question` is what was asked:

    * `noise`: no candidate is better; `probability` is that of any promotion, no campaign stops early.
    * `round`: one candidate is better by `gain`; `probability` is that of promoting it. `exact` is the same
      by `paired_power` where the rule is a test at a level of its own.
    * `campaign`: each candidate is better by `gain` with probability 1/2, else just as good; a campaign stops
      after PATIENCE rounds without a promotion. `probability` is that of promoting a better one,
      `promotions` how many are, and `false` the probability of any promotion of one that is not.
    """

    question: str
    rule: str
    gain: float
    discordance: float
    rounds: int
    items: int
    probability: float
    standard_error: float
    promotions: float
    promotions_error: float
    false: float
    exact: float | None


def ability(accuracy: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The ability at which that share of all items is answered right."""
    normal = NormalDist(sigma=sqrt(DIFFICULTY**2 + 1))
    values = np.atleast_1d(np.asarray(accuracy, dtype=np.float64))
    distinct, place = np.unique(values, return_inverse=True)
    found: npt.NDArray[np.float32] = np.array([normal.inv_cdf(v) for v in distinct], np.float32)[place]
    return found


@cache
def kinship(gain: float, discordance: float) -> float:
    """The correlation of quirks at which base model and first candidate disagree on such a share of items."""
    before, after = ACCURACY, ACCURACY + gain
    spread = sqrt(DIFFICULTY**2 + 1)
    at = [NormalDist().inv_cdf(share) for share in (before, after)]

    def disagreement(correlation: float) -> float:
        alike = (correlation + DIFFICULTY**2) / spread**2
        both_right = multivariate_normal([0, 0], [[1, alike], [alike, 1]]).cdf(at)
        return float(before + after - 2 * both_right - discordance)

    return float(brentq(disagreement, -0.99, 0.9999))


@dataclass(frozen=True)
class Outcome:
    """Of each campaign: promotions of better candidates, of others; whether a false one came at all."""

    better: Counts
    others: Counts


def simulate(
    rule: Rule,
    gain: float,
    chance: float,
    discordance: float,
    rounds: int,
    played: int,
    items: int,
    rng: np.random.Generator,
    patience: int | None,
) -> Outcome:
    """Campaigns of so many planned rounds, of which some are played.

    Each candidate is better than its incumbent by `gain` with that chance, else just as good.
    """
    shape = (CAMPAIGNS, items // 2)
    near = np.float32(kinship(gain, discordance))
    own = np.float32(sqrt(1 - near**2))

    def normal() -> npt.NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    anchor, incumbent = DIFFICULTY * normal(), normal()
    accuracy = np.full(CAMPAIGNS, ACCURACY)
    past = np.zeros((CAMPAIGNS, played), dtype=np.bool_)
    better, others = np.zeros(CAMPAIGNS, dtype=np.int64), np.zeros(CAMPAIGNS, dtype=np.int64)
    rejected, running = np.zeros(CAMPAIGNS, dtype=np.int64), np.ones(CAMPAIGNS, dtype=np.bool_)
    for number in range(played):
        is_better = rng.random(CAMPAIGNS) < chance
        gained = np.minimum(accuracy + gain * is_better, 0.99)
        low, high = ability(accuracy)[:, None], ability(gained)[:, None]
        candidate = near * incumbent + own * normal()
        fresh, fresh_incumbent = DIFFICULTY * normal(), normal()
        fresh_candidate = near * fresh_incumbent + own * normal()
        counts = {name: np.zeros(CAMPAIGNS, dtype=np.int64) for name in ("wins", "losses", "right")}
        for difficulty, before, after in (
            (anchor, incumbent, candidate),
            (fresh, fresh_incumbent, fresh_candidate),
        ):
            was, became = before + low > difficulty, after + high > difficulty
            counts["wins"] += (became & ~was).sum(axis=1)
            counts["losses"] += (was & ~became).sum(axis=1)
            counts["right"] += was.sum(axis=1)
        wins, losses, right = counts["wins"], counts["losses"], counts["right"]
        promoted = running & rule(
            Round(
                wins=wins,
                losses=losses,
                before=right / items,
                after=(right + wins - losses) / items,
                past=past[:, :number],
                items=items,
                rounds=rounds,
            )
        )
        past[:, number] = promoted
        better += promoted & is_better
        others += promoted & ~is_better
        accuracy = np.where(promoted, gained, accuracy)
        incumbent = np.where(promoted[:, None], candidate, incumbent)
        rejected = np.where(promoted, 0, rejected + 1)
        if patience is not None:
            running &= rejected < patience
    return Outcome(better, others)


def measure(
    question: str, name: str, rule: Rule, gain: float, discordance: float, rounds: int, items: int, seed: int
) -> Row:
    # Every rule meets the same base models, items and first candidates.
    rng = np.random.default_rng([seed, items, rounds, round(1000 * gain), round(1000 * discordance)])
    chance = {"noise": 0.0, "round": 1.0, "campaign": 0.5}[question]
    played = 1 if question == "round" else rounds
    patience = PATIENCE if question == "campaign" else None
    found = simulate(rule, gain, chance, discordance, rounds, played, items, rng, patience)
    counted = found.others if question == "noise" else found.better
    probability = float((counted > 0).mean())
    exact = None
    if question == "round" and name in ("selfimp", "selfimp, e-value"):
        test = mcnemar_critical_wins if name == "selfimp" else e_value_critical_wins
        exact = paired_power(items, gain, discordance, level(rounds, ()), test)
    return Row(
        question=question,
        rule=name,
        gain=gain,
        discordance=discordance,
        rounds=rounds,
        items=items,
        probability=probability,
        standard_error=sqrt(probability * (1 - probability) / CAMPAIGNS),
        promotions=float(counted.mean()),
        promotions_error=float(counted.std(ddof=1) / sqrt(CAMPAIGNS)),
        false=float((found.others > 0).mean()),
        exact=exact,
    )


NOISE = [("noise", 0.0, 0.2, rounds, items) for rounds in (8, 30) for items in (100, 200, 500)]
POWER = [("round", 0.05, discordance, 8, 500) for discordance in (0.08, 0.12, 0.2)]
PROGRESS = [
    ("campaign", 0.05, discordance, rounds, 500) for rounds in (8, 30) for discordance in (0.08, 0.12, 0.2)
]


def print_table(rows: list[Row]) -> None:
    """Markdown tables, one a question."""

    def cells(row: Row) -> str:
        if row.question == "campaign":
            return f"{row.promotions:.2f} ({row.probability:.2f}; {row.false:.3f})"
        return f"{row.probability:.3f} ({row.standard_error:.3f})"

    for question, title in (
        ("noise", "any false promotion (standard error); rounds x items"),
        ("round", "one candidate that is better by 5 points is promoted (standard error); discordance"),
        ("campaign", "better ones promoted (P(any); P(any false)); rounds, discordance"),
    ):
        mine = [row for row in rows if row.question == question]
        columns = list(dict.fromkeys((row.rounds, row.items, row.discordance) for row in mine))
        heads = {
            "noise": [f"{rounds} x {items}" for rounds, items, _ in columns],
            "round": [f"{discordance:g}" for _, _, discordance in columns],
            "campaign": [f"{rounds}, {discordance:g}" for rounds, _, discordance in columns],
        }[question]
        print(f"\n{title}\n\n| rule | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
        for rule in dict.fromkeys(row.rule for row in mine):
            print(f"| {rule} | {' | '.join(cells(row) for row in mine if row.rule == rule)} |")
            exact = [row.exact for row in mine if row.rule == rule and row.exact is not None]
            if exact:
                print(f"|   by formula | {' | '.join(f'{value:.3f}' for value in exact)} |")


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(row.rule for row in rows))
    palette = ("#3b6fd4", "#2e9e6b", "#1f9aa8", "#d9822b", "#9aa3b2", "#8e5bbf", "#c8483f")
    colors = dict(zip(names, palette, strict=False))
    panels = (
        ("noise", "No candidate is better, 200 items", "P(any false promotion)", (8, 30), "rounds"),
        ("round", "One candidate, +5 points, 500 items", "P(promoted)", (0.08, 0.12, 0.2), "discordance"),
        (
            "campaign",
            "Half are +5 points, 30 rounds",
            "better ones promoted",
            (0.08, 0.12, 0.2),
            "discordance",
        ),
    )
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.4), layout="constrained")
    for panel, (question, title, y, places, x) in zip(axes, panels, strict=True):
        for number, name in enumerate(names):
            mine = [
                row
                for row in rows
                if (row.question, row.rule) == (question, name)
                and (question != "noise" or row.items == 200)
                and (question != "campaign" or row.rounds == 30)
            ]
            values = [row.promotions if question == "campaign" else row.probability for row in mine]
            errors = [row.promotions_error if question == "campaign" else row.standard_error for row in mine]
            shift = (number - (len(names) - 1) / 2) * 0.11
            panel.bar(
                [place + shift for place in range(len(places))],
                values,
                0.1,
                yerr=[2 * error for error in errors],
                color=colors[name],
                label=name,
            )
        panel.set_xticks(range(len(places)), [f"{place:g}" for place in places])
        panel.set(title=title, xlabel=x, ylabel=y)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    axes[0].axhline(ALPHA, color="black", linestyle=":", linewidth=1)
    axes[1].axhline(0.8, color="black", linestyle=":", linewidth=1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for gate.csv and gate.png")
    parser.add_argument("--soup", type=Path, help="an interpreter that has soup-cli")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    rules = dict(RULES)
    if arguments.soup:
        name, rule = soup(arguments.soup)
        rules[name] = rule
    rows = [
        measure(question, name, rule, gain, discordance, rounds, items, arguments.seed)
        for question, gain, discordance, rounds, items in (*NOISE, *POWER, *PROGRESS)
        for name, rule in rules.items()
    ]
    print_table(rows)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "gate.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    draw(rows, arguments.out / "gate.png")
    print(f"\n{CAMPAIGNS} campaigns a cell, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
