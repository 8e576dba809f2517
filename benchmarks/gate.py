"""What promotion rules promote: false promotions at a true effect of zero, and power at real gains.

    python benchmarks/gate.py --out gate

prints a table and writes gate.csv and gate.png. Simulated, with nothing but the promotion test itself
(guard skills and alarms can only reject more):

* A policy answers an item right if its ability less the item's difficulty plus its own quirk on that item
  is positive; difficulty and quirk are normal. So items differ in how often they are answered right, and
  a candidate, whose quirks correlate with those of the incumbent that it was trained from, mostly agrees
  with it.
* Half of the items are fixed for the campaign (anchor), half are new in each round (fresh).
* A promoted candidate is the next incumbent, with its answers to the anchor items.
"""

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from selfimp_dagster.lifecycle.evaluation.statistics import (
    alpha_for_round,
    mcnemar_critical_wins,
    mcnemar_power,
)

ALPHA = 0.05  # of the whole campaign for our rule, of each round for the uncorrected test
ACCURACY = 0.35  # of the base model
DIFFICULTY = 1.0  # standard deviation over items; that of a quirk is 1
KINSHIP = 0.55  # correlation of the quirks of a candidate with those of its incumbent
CAMPAIGNS = 2000

Counts = npt.NDArray[np.int64]
Rule = Callable[[Counts, Counts, int, int], npt.NDArray[np.bool_]]
"""Wins and losses of many candidates, items and planned rounds -> promoted."""


def selfimp(wins: Counts, losses: Counts, items: int, rounds: int) -> npt.NDArray[np.bool_]:
    return _mcnemar(wins, losses, items, alpha_for_round(ALPHA, rounds, 0))


def uncorrected(wins: Counts, losses: Counts, items: int, rounds: int) -> npt.NDArray[np.bool_]:
    return _mcnemar(wins, losses, items, ALPHA)


def one_point(wins: Counts, losses: Counts, items: int, rounds: int) -> npt.NDArray[np.bool_]:
    return wins - losses >= 0.01 * items


def strictly_better(wins: Counts, losses: Counts, items: int, rounds: int) -> npt.NDArray[np.bool_]:
    return wins > losses


RULES: dict[str, Rule] = {
    "selfimp": selfimp,
    "McNemar 0.05": uncorrected,
    "+1 point": one_point,
    "strictly better": strictly_better,
}


@dataclass(frozen=True)
class Row:
    """One cell of the table. `probability` is that of any promotion in the campaign at a gain of zero, and
    that of promoting one candidate otherwise; `discordance` is the share of items on which the arms of the
    first round disagree; `exact` is the power by `mcnemar_power`."""

    rule: str
    gain: float
    rounds: int
    items: int
    probability: float
    standard_error: float
    promotions_per_campaign: float
    discordance: float
    exact: float | None


def _mcnemar(wins: Counts, losses: Counts, items: int, alpha: float) -> npt.NDArray[np.bool_]:
    critical = mcnemar_critical_wins(np.arange(items + 1), alpha)
    promoted: npt.NDArray[np.bool_] = wins >= critical[wins + losses]
    return promoted


def ability(accuracy: float) -> float:
    """The ability at which that share of all items is answered right."""
    return NormalDist(sigma=sqrt(DIFFICULTY**2 + 1)).inv_cdf(accuracy)


def simulate(
    rule: Rule, gain: float, rounds: int, played: int, items: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], float]:
    """Promotions of each campaign in the rounds played, and the share of discordant items.

    Every candidate answers the base accuracy plus the gain, its incumbent the base accuracy.
    """
    shape = (CAMPAIGNS, items // 2)
    low, high = np.float32(ability(ACCURACY)), np.float32(ability(ACCURACY + gain))
    own = np.float32(sqrt(1 - KINSHIP**2))

    def normal() -> npt.NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32)

    anchor, incumbent = DIFFICULTY * normal(), normal()
    promotions, discordant = np.zeros(CAMPAIGNS, dtype=np.int64), 0.0
    for number in range(played):
        candidate = KINSHIP * incumbent + own * normal()
        fresh, fresh_incumbent = DIFFICULTY * normal(), normal()
        fresh_candidate = KINSHIP * fresh_incumbent + own * normal()
        wins, losses = np.zeros(CAMPAIGNS, dtype=np.int64), np.zeros(CAMPAIGNS, dtype=np.int64)
        for difficulty, before, after in (
            (anchor, incumbent, candidate),
            (fresh, fresh_incumbent, fresh_candidate),
        ):
            was, became = before + low > difficulty, after + high > difficulty
            wins += (became & ~was).sum(axis=1)
            losses += (was & ~became).sum(axis=1)
        if number == 0:
            discordant = float((wins + losses).mean()) / items
        promoted = rule(wins, losses, items, rounds)
        promotions += promoted
        incumbent = np.where(promoted[:, None], candidate, incumbent)
    return promotions, discordant


def measure(name: str, gain: float, rounds: int, items: int, seed: int) -> Row:
    played = 1 if gain else rounds
    # Every rule meets the same base models, items and first candidates.
    promotions, discordance = simulate(
        RULES[name],
        gain,
        rounds,
        played,
        items,
        np.random.default_rng([seed, items, rounds, round(100 * gain)]),
    )
    probability = float((promotions > 0).mean())
    levels = {"selfimp": alpha_for_round(ALPHA, rounds, 0), "McNemar 0.05": ALPHA}
    exact = mcnemar_power(items, gain, discordance, levels[name]) if gain and name in levels else None
    return Row(
        rule=name,
        gain=gain,
        rounds=rounds,
        items=items,
        probability=probability,
        standard_error=sqrt(probability * (1 - probability) / CAMPAIGNS),
        promotions_per_campaign=float(promotions.mean()),
        discordance=discordance,
        exact=exact,
    )


def print_table(rows: list[Row]) -> None:
    for gain in sorted({row.gain for row in rows}):
        print(f"\ntrue gain {gain:+.2f}: probability of {'promoting' if gain else 'any false promotion'}")
        cells = sorted({(row.rounds, row.items) for row in rows if row.gain == gain})
        print(
            f"{'':16}"
            + "".join(f"{f'{rounds} x {items}':>11}" for rounds, items in cells)
            + "  rounds x items"
        )
        for name in RULES:
            of_rule = {(row.rounds, row.items): row for row in rows if (row.rule, row.gain) == (name, gain)}
            print(f"{name:16}" + "".join(f"{of_rule[cell].probability:11.3f}" for cell in cells))
            if gain and of_rule[cells[0]].exact is not None:
                print(f"{'  by formula':16}" + "".join(f"{of_rule[cell].exact:11.3f}" for cell in cells))


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in RULES:
        noise = sorted(
            (row.items, row.probability)
            for row in rows
            if row.rule == name and not row.gain and row.rounds == 8
        )
        axes[0].plot(*zip(*noise, strict=True), marker="o", label=name)
        power = sorted(
            (100 * row.gain, row.probability)
            for row in rows
            if row.rule == name and row.gain and row.rounds == 8
        )
        axes[1].plot(*zip(*power, strict=True), marker="o", label=name)
    axes[0].axhline(ALPHA, color="grey", linestyle=":", linewidth=1)
    axes[0].set(
        title="True gain of zero, 8 rounds",
        xlabel="items",
        ylabel="P(any false promotion)",
        ylim=(-0.02, 1.02),
    )
    axes[1].set(
        title="One candidate, 500 items",
        xlabel="true gain (points)",
        ylabel="P(promoted)",
        ylim=(-0.02, 1.02),
    )
    axes[0].legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for gate.csv and gate.png")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    settings = [(0.0, rounds, items) for rounds in (8, 30) for items in (100, 300, 500)]
    settings += [(gain, rounds, 500) for gain in (0.05, 0.10, 0.20) for rounds in (8, 30)]
    rows = [measure(name, *setting, seed=arguments.seed) for setting in settings for name in RULES]
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
