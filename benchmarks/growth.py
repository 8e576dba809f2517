"""How cost grows with the rounds of a campaign: what the sensor decides with, and what the ledger reads.

    python -m benchmarks.growth [--rounds 10 100 1000]

For each number of rounds an installation with one campaign, a line of so many rounds, made up and true to the
schemas (benchmarks/synthetic_store.py, few rows a round). Measured, in a process that has done the same
before: the decision that a tick of `next_round_sensor` comes to after the newest round, which hangs on the
whole history, and the reading of the ledger, once each round. What Dagster's own tables and pages cost is not
in it. Processor seconds, the median of five; the ratio is to the fewest rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import yaml

from benchmarks.synthetic_store import CAMPAIGN, make_store
from selfimp_dagster.automation.requests import following_round
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.resources.workbench import WorkbenchResource
from selfimp_dagster.rounds_in_process import open_instance
from selfimp_dagster.settings import Settings

REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, nargs="+", default=[10, 100, 1000])
    arguments = parser.parse_args()
    print("| rounds | the sensor's decision (ms) | ratio | the ledger (ms) | ratio |\n|---|---|---|---|---|")
    first: list[float] = []
    for rounds in sorted(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            took = measure(Settings(home=Path(folder) / "home", campaigns=Path(folder) / "campaigns"), rounds)
        first = first or took
        cells = [f"{1000 * own:.1f} | {own / base:.1f}" for own, base in zip(took, first, strict=True)]
        print(f"| {rounds:,} | {' | '.join(cells)} |", flush=True)


def measure(where: Settings, rounds: int) -> list[float]:
    """Processor seconds of the sensor's decision on the newest round, and of the ledger."""
    for _ in make_store(where.store, rounds, tasks=4):
        pass
    workbench = WorkbenchResource.at(where)
    newest = list(workbench.artifacts.rounds(CAMPAIGN))[-1]
    policy, _ = read_policy(workbench.artifacts, newest)
    where.campaigns.mkdir()
    told = policy.campaign.model_dump(mode="json", exclude_unset=True)
    told["continuation"] = {"rounds": rounds + 1, "patience": rounds + 1}
    (where.campaigns / f"{CAMPAIGN}.yaml").write_text(yaml.safe_dump(told))
    with open_instance(where.home) as instance:

        def decide() -> None:
            request = following_round(instance, workbench, newest, {})
            assert isinstance(request, dg.RunRequest), request

        return [median(decide), median(lambda: read_ledger(workbench.artifacts))]


def median(work: Callable[[], object]) -> float:
    work()
    took = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        took.append(time.process_time() - started)
    return statistics.median(took)


if __name__ == "__main__":
    main()
