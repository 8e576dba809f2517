"""The failure lab over seeds: what is caught, by what and when, and how often healthy campaigns alarm.

    python -m benchmarks.lab --home lab --seeds 3 --healthy 8 --out lab-results

runs every failure with that many seeds and, of each kind of healthy campaign, that many; what HOME already
has is not run again, so it can be stopped and started at will. Writes failures.csv, false_alarms.csv and
lab.png to the folder of `--out`; `--only NAME` (several times) runs some failures alone, `--minutes` stops
starting runs after a while.
"""

import argparse
import csv
import time
from collections.abc import Sequence
from pathlib import Path

from selfimp_dagster.lab.failures import FAILURES
from selfimp_dagster.lab.grounds import GROUNDS
from selfimp_dagster.lab.outcome import append, read
from selfimp_dagster.lab.run import Lab, run_failure
from selfimp_dagster.lab.tables import (
    FALSE_ALARM_HEADER,
    HEADER,
    catch_rows,
    false_alarm_rows,
    outcomes_picture,
    print_false_alarms,
    print_outcomes,
)


def wanted(seeds: int, healthy: int, only: Sequence[str]) -> list[tuple[str, dict[str, object], int]]:
    """Every run by failure, parameters and seed: the first seed of all, then the second, and so on."""
    runs: list[tuple[str, dict[str, object], int]] = []
    for seed in range(max(seeds, healthy)):
        if seed < healthy:
            runs += [("none", {"ground": ground}, seed) for ground in GROUNDS]
        if seed < seeds:
            runs += [(name, {}, seed) for name in FAILURES if name != "none"]
    return [run for run in runs if not only or run[0] in only]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--home", type=Path, required=True, help="the lab's folder")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each failure")
    parser.add_argument("--healthy", type=int, default=8, help="healthy campaigns of each kind")
    parser.add_argument("--only", action="append", default=[], help="a failure, or none")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, help="folder of tables and picture")
    given = parser.parse_args()
    lab, started = Lab(given.home), time.monotonic()
    lab.home.mkdir(parents=True, exist_ok=True)
    for name, values, seed in wanted(given.seeds, given.healthy, given.only):
        failure = FAILURES[name]
        parameters = failure.parameters.model_validate(values)
        have = [(o.failure, o.parameters, o.seed) for o in read(lab.outcomes)]  # of other processes too
        if (name, parameters.model_dump(mode="json"), seed) in have:
            continue
        if time.monotonic() - started > 60 * given.minutes:
            break
        append(
            lab.outcomes,
            run_failure(failure, parameters, lab, seed=seed, tell=lambda line: print(line, flush=True)),
        )
    outcomes = read(lab.outcomes)
    print_outcomes(outcomes)
    print_false_alarms(outcomes)
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
        _write(given.out / "failures.csv", HEADER, catch_rows(outcomes))
        _write(given.out / "false_alarms.csv", FALSE_ALARM_HEADER, false_alarm_rows(outcomes))
        (given.out / "lab.png").write_bytes(outcomes_picture(outcomes))


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
