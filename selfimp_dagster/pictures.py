"""Pictures of a round and of a campaign, as PNG bytes. matplotlib is imported when one is drawn."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _GREY, _ORANGE, _GREEN = "#3b6fd4", "#9aa3b2", "#d9822b", "#2e9e6b"
_COLORS = (_BLUE, _GREEN, _ORANGE, "#8a5cc2")


def loss_curve(curve: pl.DataFrame) -> bytes:
    """Training loss over steps, from records.TRAINING_CURVE."""
    axes = _axes("training loss (nats per token)", "step")
    axes.plot(curve["step"], curve["loss"], color=_BLUE, linewidth=1.6)
    axes.set_ylim(bottom=0)
    return _png(axes)


def funnel(steps: Sequence[Mapping[str, Any]]) -> bytes:
    """How many rows reached and left each step of a selection chain."""
    axes = _axes("rows", "")
    names = [step["step"] for step in steps]
    kept = [step["kept"] for step in steps]
    dropped = [step["dropped"] for step in steps]
    axes.barh(names, kept, color=_BLUE, label="kept")
    axes.barh(names, dropped, left=kept, color=_GREY, label="dropped")
    for place, (k, d) in enumerate(zip(kept, dropped, strict=True)):
        axes.text(k + d, place, f" {k} of {k + d}", va="center", fontsize=8)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel("rows")
    axes.set_ylabel("")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return _png(axes)


def scores(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Incumbent beside candidate on each suite, with 95 % intervals.

    Rows hold suite, arm, accuracy, low and high.
    """
    axes = _axes("accuracy", "")
    suites = sorted({row["suite"] for row in rows})
    for arm, color, shift in (("incumbent", _GREY, -0.18), ("candidate", _BLUE, 0.18)):
        mine = {row["suite"]: row for row in rows if row["arm"] == arm}
        places = [place + shift for place, suite in enumerate(suites) if suite in mine]
        found = [mine[suite] for suite in suites if suite in mine]
        errors = _errors(found)
        axes.bar(
            places, [row["accuracy"] for row in found], 0.34, yerr=errors, color=color, label=arm, capsize=3
        )
    axes.set_xticks(range(len(suites)), suites)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
    return _png(axes)


def accuracy_over_rounds(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The tree of rounds, a panel for each campaign: candidates' anchor accuracy with 95 % intervals.

    Rows hold round, weights_round, promoted, candidate_anchor and its low and high, incumbent_anchor.
    A line leads to each candidate from the weights that it was trained from.
    """
    from matplotlib.figure import Figure

    campaigns = sorted({row["round"].split("/")[0] for row in rows})
    figure = Figure(figsize=(7, 2.8 * max(len(campaigns), 1)), dpi=110, layout="constrained")
    for panel, campaign in enumerate(campaigns):
        axes = figure.add_subplot(len(campaigns), 1, panel + 1)
        _style(axes, "anchor accuracy", "round")
        mine = [row for row in rows if row["round"].split("/")[0] == campaign]
        places = {row["round"]: number for number, row in enumerate(mine)}
        for row in mine:
            x, start = places[row["round"]], row["weights_round"]
            come_from = places.get(start, -1) if start else -1
            color = _GREEN if row["promoted"] else _ORANGE
            axes.plot(
                [come_from, x],
                [row["incumbent_anchor"], row["candidate_anchor"]],
                color=color,
                linestyle="-" if row["promoted"] else ":",
                linewidth=1.4,
            )
            axes.errorbar(
                x,
                row["candidate_anchor"],
                yerr=[
                    [row["candidate_anchor"] - row["candidate_anchor_low"]],
                    [row["candidate_anchor_high"] - row["candidate_anchor"]],
                ],
                fmt="o" if row["promoted"] else "x",
                color=color,
                capsize=3,
            )
            if come_from == -1:
                axes.plot(-1, row["incumbent_anchor"], "s", color=_GREY)
        axes.set_title(f"{campaign}: ● promoted, x rejected, ■ base model", fontsize=9, loc="left")
        axes.set_xticks([-1, *places.values()], ["base", *(name.split("/")[1] for name in places)])
        axes.set_ylim(0, 1)
    return _figure_png(figure)


_PANELS = {
    "accuracy": ("anchor_accuracy", "fresh_accuracy", "pass_at_1", "pass_at_k"),
    "stability": ("worst_skill_change", "worst_guard_change", "rewording_consistency"),
    "growth": ("gain", "pass_at_1_change", "pass_at_k_change", "distinct_1"),
    "safety": ("verifier_precision", "verifier_recall", "truncation_rate", "contamination_rate"),
}
"""The measures of each dimension that are shares, or differences of shares, and so fit on one axis."""


def dimensions_over_rounds(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A panel for each dimension: the candidates' measures over the rounds of a line, with 95 % intervals.

    Rows are those of records.DIMENSIONS with their round, in the order of the rounds; a measure that a round
    does not have leaves a gap.
    """
    from matplotlib.figure import Figure

    rounds = list(dict.fromkeys(row["round"] for row in rows))
    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    for place, (dimension, measures) in enumerate(_PANELS.items()):
        axes = figure.add_subplot(2, 2, place + 1)
        _style(axes, "share", "round" if place > 1 else "")
        axes.set_title(dimension, fontsize=10, loc="left")
        axes.axhline(0, color=_GREY, linewidth=0.8)
        for number, (measure, color) in enumerate(zip(measures, _COLORS, strict=False)):
            shift = (number - (len(measures) - 1) / 2) * 0.09
            found = {row["round"]: row for row in rows if _shown(row, measure)}
            values = [found[name]["value"] if name in found else float("nan") for name in rounds]
            errors = [
                [
                    abs(found[name]["value"] - found[name][end]) if name in found else float("nan")
                    for name in rounds
                ]
                for end in ("low", "high")
            ]
            if found:
                axes.errorbar(
                    [x + shift for x in range(len(rounds))],
                    values,
                    yerr=errors,
                    fmt="o-",
                    markersize=3.5,
                    linewidth=1.2,
                    elinewidth=0.8,
                    capsize=2,
                    color=color,
                    label=measure.replace("_", " "),
                )
        axes.set_xlim(-0.6, len(rounds) - 0.4)
        ticks = range(0, len(rounds), 1 + len(rounds) // 12)
        axes.set_xticks(ticks, [rounds[x].split("/")[1] for x in ticks])
        axes.legend(frameon=False, fontsize=7, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return _figure_png(figure)


def _shown(row: Mapping[str, Any], measure: str) -> bool:
    """Contamination is of the incumbent's samples; all else that is drawn is the candidate's."""
    arm = "incumbent" if measure == "contamination_rate" else "candidate"
    return bool(row["measure"] == measure and row["arm"] == arm and row["low"] is not None)


def _errors(rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    return [
        [row["accuracy"] - row["low"] for row in rows],
        [row["high"] - row["accuracy"] for row in rows],
    ]


def _axes(y: str, x: str) -> "Axes":
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 2.8), dpi=110, layout="constrained").add_subplot()
    _style(axes, y, x)
    return axes


def _style(axes: "Axes", y: str, x: str) -> None:
    axes.set_ylabel(y, fontsize=9)
    axes.set_xlabel(x, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#e6e8ec")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _png(axes: "Axes") -> bytes:
    return _figure_png(axes.figure)


def _figure_png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
