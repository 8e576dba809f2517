"""What came of the lab as tables and as a picture."""

from collections.abc import Sequence
from statistics import fmean

from selfimp_dagster.console import print_rows
from selfimp_dagster.lab.outcome import Outcome, Rate, by_failure, false_alarms
from selfimp_dagster.pictures import failures_caught

HEADER = (
    "failure",
    "runs",
    "caught",
    "by",
    "in round (least to most)",
    "after samples (mean)",
    "true accuracy, from to (mean)",
    "reported at last",
    "also sounded",
)


def catch_rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """A row of HEADER for each failure, healthy campaigns left out."""
    rows: list[tuple[str, ...]] = []
    for name, runs in by_failure(o for o in outcomes if o.failure != "none").items():
        caught = [(run, run.caught) for run in runs if run.caught is not None]
        numbers = [round_.number for _, round_ in caught]
        reported = [run.reported for run in runs if run.reported is not None]
        courses = [run.course for run in runs if run.course]
        rows.append(
            (
                name,
                str(len(runs)),
                str(len(caught)),
                _counted([by for run, _ in caught for by in run.caught_by]),
                "" if not caught else f"{min(numbers)} to {max(numbers)}",
                "" if not caught else f"{fmean(run.samples for run, _ in caught):,.0f}",
                ""
                if not courses
                else f"{fmean(c[0] for c in courses):.2f} to {fmean(c[-1] for c in courses):.2f}",
                "" if not reported else f"{fmean(reported):.2f}",
                _counted([other for run in runs for other in run.others]),
            )
        )
    return rows


def false_alarm_rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Of healthy campaigns, by what they learn from and in all: what sounded, and in how many."""
    healthy = [outcome for outcome in outcomes if outcome.failure == "none"]
    groups = {**by_failure(healthy), "all": healthy} if healthy else {}
    return [
        (group, str(len(runs)), str(sum(len(run.rounds) for run in runs)), name, _rate(found))
        for group, runs in groups.items()
        for name, found in false_alarms(runs).items()
    ]


FALSE_ALARM_HEADER = ("healthy campaigns", "runs", "rounds", "monitor", "campaigns in which it sounded")


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """The table of failures."""
    rows = catch_rows(outcomes)
    if rows:
        print_rows(HEADER, rows, title="Failures")


def print_false_alarms(outcomes: Sequence[Outcome]) -> None:
    """The table of healthy campaigns."""
    rows = false_alarm_rows(outcomes)
    if rows:
        print_rows(FALSE_ALARM_HEADER, rows, title="False alarms (95 % interval, Clopper-Pearson)")


def outcomes_picture(outcomes: Sequence[Outcome]) -> bytes:
    """For each failure the true accuracy over rounds, run by run, and where it was caught: PNG.

    Runs without a measured round have nothing to show.
    """
    shown = {
        name: [(run.course, run.caught.number if run.caught else None) for run in runs if run.course]
        for name, runs in by_failure(outcomes).items()
    }
    return failures_caught({name: runs for name, runs in shown.items() if runs})


def _rate(found: Rate) -> str:
    return f"{found.events} of {found.n} ({found.low:.3f} to {found.high:.3f})"


def _counted(names: Sequence[str]) -> str:
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    return ", ".join(f"{name} {count}" for name, count in counts.items())
