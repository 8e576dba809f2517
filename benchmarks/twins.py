"""Transformed twins: how often each transformation applies, and when the memorisation alarm sounds.

    python -m benchmarks.twins --gsm8k train.jsonl
    python -m benchmarks.twins --gsm8k train.jsonl --read numbers --seed 7 --count 20

The first prints two tables. `train.jsonl` is that of GSM8K (columns question and answer). The second prints
twins to be read by a person.

The alarm is simulated as in benchmarks.gate: a policy answers an item right if its ability less the item's
difficulty plus its own quirk on that item is positive. Its quirk on a twin correlates with that on the item.
Of the memorised items it answers the item right, whatever its quirk, and the twin as if it had never seen it.
Beside it stands the leakage alarm on 200 anchor and 100 fresh items; both at what a monitor may spend in a
campaign by default.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from itertools import islice
from math import sqrt
from pathlib import Path

import numpy as np
import numpy.typing as npt

from selfimp_dagster.lifecycle.evaluation.monitors.rule import TESTED, MonitorRule
from selfimp_dagster.lifecycle.evaluation.statistics import (
    Estimate,
    independent_difference_interval,
    paired_difference_interval,
    wilson,
)
from selfimp_dagster.tasks.suites import FileSource, ReasoningGymSource, Task, stream_tasks
from selfimp_dagster.tasks.transformations import TRANSFORMATIONS

FAMILIES = {
    "chain_sum, 2 terms": ReasoningGymSource(
        family="chain_sum", parameters={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}
    ),
    "chain_sum, 2 to 6 terms": ReasoningGymSource(family="chain_sum"),
    "products, 2 factors": ReasoningGymSource(
        family="products", parameters={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    ),
    "letter_counting": ReasoningGymSource(family="letter_counting"),
    "gcd": ReasoningGymSource(family="gcd"),
}
FAMILY_ITEMS = 500
ALPHA, ANCHOR, FRESH = MonitorRule().level_of_monitor(TESTED - 1), 200, 100
CAMPAIGNS = 2000

Scores = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gsm8k", type=Path, required=True)
    parser.add_argument("--read", choices=list(TRANSFORMATIONS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20)
    arguments = parser.parse_args()
    tasks = list(word_problems(arguments.gsm8k))
    if arguments.read:
        for task, twin in islice(twins(tasks, arguments.read, arguments.seed), arguments.count):
            print(f"{task.prompt}\n    -> {task.answer}\n{twin.prompt}\n    -> {twin.answer}\n")
        return
    print(applies({"GSM8K, train": tasks, **dict(family_items())}), "\n")
    print(alarms())


def word_problems(path: Path) -> Iterator[Task]:
    source = FileSource(
        path=path.name,
        prompt_column="question",
        answer_column="answer",
        solution_column="answer",
        answer_pattern=r"####\s*(.+)",
    )
    yield from stream_tasks(source, "word_problems", 0, path.parent)


def family_items() -> Iterator[tuple[str, list[Task]]]:
    for name, source in FAMILIES.items():
        yield name, list(islice(stream_tasks(source, name, 0, Path()), FAMILY_ITEMS))


def twins(tasks: list[Task], name: str, seed: int) -> Iterator[tuple[Task, Task]]:
    """Tasks in an order given by the seed, with their twins, without those that have none."""
    for task in random.Random(seed).sample(tasks, len(tasks)):
        twin = TRANSFORMATIONS[name](task, seed)
        if twin is not None:
            yield task, twin


def applies(sources: dict[str, list[Task]]) -> str:
    rows = [f"| items | n | {' | '.join(TRANSFORMATIONS)} | any |", f"|{'---|' * (3 + len(TRANSFORMATIONS))}"]
    for name, tasks in sources.items():
        found = np.array([[bool(change(task, 0)) for change in TRANSFORMATIONS.values()] for task in tasks])
        shares = [*found.mean(axis=0), found.any(axis=1).mean()]
        rows.append(f"| {name} | {len(tasks):,} | {' | '.join(f'{share:.3f}' for share in shares)} |")
    return "\n".join(rows)


def alarms() -> str:
    """The share of campaigns of 4 rounds in which an alarm sounds."""
    scenarios: dict[str, dict[str, float]] = {
        "nothing is memorised": {},
        "the same, accuracy rises by 0.1 a round": {"learnt": 0.3},
        "the same, and twins are harder by about 0.05": {"learnt": 0.3, "harder": 0.17},
        "a fifth of the anchor items are memorised": {"memorised": 0.2},
        "half of them": {"memorised": 0.5},
        "all of them": {"memorised": 1.0},
        "half of anchor and fresh items alike": {"memorised": 0.5, "fresh": 1.0},
    }
    sizes = (24, 48, 100, 200)
    rows = [
        f"| | {' | '.join(f'{size} twins' for size in sizes)} | leakage alarm |",
        f"|{'---|' * (2 + len(sizes))}",
    ]
    for name, scenario in scenarios.items():
        by_twins = [sounds(lambda rng, n=size, s=scenario: memorisation(rng, n, **s)) for size in sizes]
        by_leakage = sounds(lambda rng, s=scenario: leakage(rng, **s))
        rows.append(f"| {name} | {' | '.join(f'{share:.3f}' for share in (*by_twins, by_leakage))} |")
    return "\n".join(rows)


def sounds(campaign: Callable[[np.random.Generator], bool]) -> float:
    rng = np.random.default_rng(0)
    return sum(campaign(rng) for _ in range(CAMPAIGNS)) / CAMPAIGNS


def memorisation(
    rng: np.random.Generator,
    n: int,
    memorised: float = 0.0,
    learnt: float = 0.0,
    harder: float = 0.0,
    fresh: float = 0.0,
    rounds: int = 4,
) -> bool:
    confidence = 1 - 2 * ALPHA / rounds
    difficulty = rng.normal(0.4, 1, ANCHOR)
    known = rng.random(ANCHOR) < memorised

    def gap(asked: npt.NDArray[np.int64], ability: float, knows: Scores) -> Estimate:
        items, other = answers(rng, difficulty[asked], ability, harder)
        differences = np.maximum(items, knows[asked]) - other
        low, high = paired_difference_interval(differences, confidence)
        return Estimate(float(differences.mean()), low, high, n)

    first = None
    for number in range(rounds):
        asked = rng.choice(ANCHOR, n, replace=False)
        if first is None:
            first = gap(asked, 0.0, np.zeros(ANCHOR))
        now = gap(asked, learnt * (number + 1), known.astype(float))
        if independent_difference_interval(now, first).low > 0:
            return True
    return False


def leakage(
    rng: np.random.Generator,
    memorised: float = 0.0,
    learnt: float = 0.0,
    harder: float = 0.0,
    fresh: float = 0.0,
    rounds: int = 4,
) -> bool:
    confidence = 1 - 2 * ALPHA / rounds
    difficulty = rng.normal(0.4, 1, ANCHOR)
    known = rng.random(ANCHOR) < memorised
    for number in range(rounds):
        ability = learnt * (number + 1)
        anchor = np.maximum(answers(rng, difficulty, ability)[0], known)
        new = answers(rng, rng.normal(0.4, 1, FRESH), ability)[0]
        new = np.maximum(new, rng.random(FRESH) < memorised * fresh)
        estimates = [
            Estimate(float(scores.mean()), *wilson(scores.sum(), scores.size, confidence), scores.size)
            for scores in (anchor, new)
        ]
        if independent_difference_interval(*estimates).low > 0:
            return True
    return False


def answers(
    rng: np.random.Generator, difficulty: Scores, ability: float, harder: float = 0.0
) -> tuple[Scores, Scores]:
    """The scores of items and of their twins; quirks correlate by one half."""
    common, *own = rng.normal(0, sqrt(0.5), (3, difficulty.size))
    return tuple(
        (ability - difficulty + common + quirk - more > 0).astype(float)
        for quirk, more in zip(own, (0.0, harder), strict=True)
    )  # type: ignore[return-value]


if __name__ == "__main__":
    main()
