"""Budget: what a line of rounds spent of what it may."""

from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading, inapplicable


def budget(spent_tokens: int, spent_seconds: float, tokens: int | None, seconds: float | None) -> Reading:
    """Whether the line spent more than its budget; `tokens` and `seconds` are its limits, None for none."""
    limits = [
        (spent / limit, f"{spent:,.0f} of {limit:,.0f} {unit}")
        for spent, limit, unit in ((spent_tokens, tokens, "tokens"), (spent_seconds, seconds, "seconds"))
        if limit is not None
    ]
    if not limits:
        return inapplicable("budget", "the campaign has no budget")
    share, _ = max(limits)
    return Reading(
        monitor="budget",
        state="alarm" if share > 1 else "quiet",
        follows="warn",
        sentence=f"Spent: {' and '.join(told for _, told in limits)}.",
        value=share,
        threshold=1.0,
    )
