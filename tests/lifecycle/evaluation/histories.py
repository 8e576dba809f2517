"""Rounds made by hand, for rules and decisions."""

from typing import Any

from selfimp_dagster.lifecycle.evaluation.summary import Change, Counted, RoundSummary, Signals

SKILLS = {"sums": Counted(right=60, n=100), "gcd": Counted(right=20, n=100)}


def summary(number: int, **changes: Any) -> RoundSummary:
    """A finished round in which gcd is weak; fields of its signals are changed by their names."""
    of_signals = {name: changes.pop(name) for name in Signals.model_fields if name in changes}
    fields: dict[str, Any] = {
        "round": f"arithmetic/{number:04d}",
        "parent": f"arithmetic/{number - 1:04d}" if number else None,
        "promoted": True,
        "accuracy": {"anchor": 0.4, "fresh": 0.4},
        "per_skill": {"sums": 0.6, "gcd": 0.2},
        "tokens": 1000,
        "seconds": 60.0,
        "signals": Signals(**{"skills": SKILLS, **of_signals}),
    }
    return RoundSummary(**(fields | changes))


def fall(value: float = -0.2, high: float | None = -0.1) -> Change:
    """A change whose interval ends at `high`."""
    low = None if high is None else value - 0.1
    return Change(value=value, low=low, high=high, note="sums: 0.40, best so far 0.60.")
