"""Pictures of a round and of a campaign, as PNG bytes. matplotlib is imported when one is drawn."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle, pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import polars as pl

from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.lineage.round_tree import Line, lines
from selfimp_dagster.round_key import RoundKey

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _GREY, _RED = "#3b6fd4", "#9aa3b2", "#c8483f"

_COLORS = (_BLUE, "#d9822b", "#2e9e6b", "#8e5bbf", _RED, "#1f9aa8", "#8a6d3b", "#c75c9e")
"""Colours of lines of rounds by lane, of stages, of measures."""

_DPI = 110
_METRICS_IN_A_ROW = 3
_MOST_PANELS = 20  # campaigns in one picture
_MOST_NAMED = 12  # lines in a legend
_FEW = 16  # rounds whose accuracies are written beside them
_MANY = 80  # rounds from which on marks are small
_LONGEST_NAME = 76
_WRAPPED = 46  # characters of a line's name beside its lane


def loss_curve(curve: pl.DataFrame) -> bytes:
    """Training loss over steps, from records.TRAINING_CURVE."""
    updates = curve["update"].unique(maintain_order=True).to_list()
    axes = _axes("training loss (nats per token)" if updates == ["sft"] else "training loss", "step")
    for update, color in zip(updates, cycle(_COLORS), strict=False):
        steps = curve.filter(update=update)
        axes.plot(steps["step"], steps["loss"], color=color, linewidth=1.6, label=update)
    if len(updates) > 1:
        axes.legend(frameon=False, fontsize=8)
    if (curve["loss"] >= 0).all():
        axes.set_ylim(bottom=0)
    return _png(axes)


def training_metrics(metrics: pl.DataFrame) -> bytes:
    """What was measured over the steps of a training, a panel each, from records.TRAINING_METRICS."""
    from matplotlib.figure import Figure

    names = metrics["metric"].unique(maintain_order=True).to_list()
    rows = -(-len(names) // _METRICS_IN_A_ROW)
    figure = Figure(figsize=(7.5, 0.5 + 1.7 * rows), dpi=_DPI, layout="constrained")
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, _METRICS_IN_A_ROW, place + 1)
        _style(axes, "", "step")
        axes.set_title(name.replace("_", " "), fontsize=9, loc="left")
        steps = metrics.filter(metric=name)
        axes.plot(steps["step"], steps["value"], color=_BLUE, linewidth=1.4)
    return _figure_png(figure)


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


def round_tree(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The tree of rounds, a panel for each campaign and a lane for each line of rounds.

    A solid edge leads to each round from its parent, a dotted one from the round whose weights it started
    from where that is another. Rows are of the ledger.
    """
    return _panels(rows, _draw_tree, lambda mine: 1.2 + 0.42 * len(lines(mine)))


def accuracy_over_rounds(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Candidates' anchor accuracy with 95 % intervals, a panel for each campaign, a colour for each line.

    An edge leads to each candidate from the weights that it was trained from; where the anchor items were
    drawn anew, an upright line parts accuracies that are not of the same items. Rows are of the ledger.
    """

    def height(mine: Sequence[Mapping[str, Any]]) -> float:
        named = min(len(lines(mine)), _MOST_NAMED + 1)
        return 3.0 + (0.16 * named if named > 1 else 0)

    return _panels(rows, _draw_accuracy, height)


def cost_over_rounds(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Seconds and tokens of each round by stage, for each campaign. Rows are of the ledger."""
    return _panels(rows, _draw_cost, lambda _: 3.6)


def _panels(
    rows: Sequence[Mapping[str, Any]],
    draw: Callable[[Any, list[Mapping[str, Any]]], None],
    height: Callable[[list[Mapping[str, Any]]], float],
) -> bytes:
    """A picture with a part for each campaign, as high as its rows need; `height` is in inches."""
    from matplotlib.figure import Figure

    by_campaign: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_campaign.setdefault(row["round"].split("/")[0], []).append(row)
    shown = list(by_campaign.items())[:_MOST_PANELS]
    heights = [height(mine) for _, mine in shown] or [1.0]
    longest = max((len(mine) for _, mine in shown), default=0)
    width = min(max(7.0, 4.5 + 0.3 * longest), 14.0)
    figure = Figure(figsize=(width, sum(heights)), dpi=_DPI, layout="constrained")
    if len(by_campaign) > len(shown):
        figure.suptitle(f"{len(shown)} of {len(by_campaign)} campaigns", fontsize=9)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (_, mine) in zip(parts, shown, strict=False):
        draw(part, mine)
    return _figure_png(figure)


def _draw_tree(part: Any, rows: list[Mapping[str, Any]]) -> None:
    axes = part.add_subplot()
    _style(axes, "", "round")
    axes.grid(visible=False)
    found = lines(rows)
    names = ["\n".join(wrap(_short(line.name), _WRAPPED)) for line in found]
    room = part.bbox.width / _DPI - 0.06 * _WRAPPED  # inches
    places = {key: (_number(key), line.lane) for line in found for key in line.rounds}
    start = min(number for number, _ in places.values()) - 1
    size = _mark_size(rows)
    if any(row["parent"] is None for row in rows):
        axes.plot(start, 0, "s", color=_GREY, markersize=7, zorder=3)
    for line in found:
        color = _COLORS[line.lane % len(_COLORS)]
        x, y = places.get(line.parent or "", (start, line.lane))
        first = places[line.rounds[0]][0]
        edge = [(x, y), (x + 0.5, line.lane), (first, line.lane)]  # leaves its parent before the next round
        edge += [places[key] for key in line.rounds[1:]]
        axes.plot(*zip(*edge, strict=True), color=color, linewidth=1.6, zorder=2)
    for row in rows:
        x, y = places[row["round"]]
        _mark(axes, row, x, y, _COLORS[y % len(_COLORS)], size)
        if len(rows) <= _FEW and row["candidate_anchor"] is not None:
            axes.annotate(
                f"{row['candidate_anchor']:.2f}",
                (x, y),
                xytext=(0, -10),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=7,
                color="#444",
            )
        if row["weights_round"] != row["parent"] and len(rows) <= _FEW:
            from_x, from_y = places.get(row["weights_round"], (start, 0))
            bow = 0.25 / ((x - from_x) * room / (len(rows) + 1)) if from_y == y else 0.12
            axes.annotate(
                "",
                (x, y),
                (from_x, from_y),
                arrowprops={
                    "arrowstyle": "-",
                    "linestyle": ":",
                    "color": "#666",
                    "connectionstyle": f"arc3,rad={-bow}",
                    "shrinkA": 5,
                    "shrinkB": 5,
                },
            )
    axes.set_yticks(range(len(found)), names)
    axes.set_ylim(len(found) - 0.4, -0.75)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    _number_rounds(axes, [number for number, _ in places.values()], room)
    _explain(part, rows)


def _draw_accuracy(part: Any, rows: list[Mapping[str, Any]]) -> None:
    axes = part.add_subplot()
    _style(axes, "anchor accuracy", "round")
    found = lines(rows)
    numbers = {row["round"]: _number(row["round"]) for row in rows}
    lanes = {key: line.lane for line in found for key in line.rounds}
    start = min(numbers.values()) - 1
    size = _mark_size(rows)
    for row in rows:
        if row["candidate_anchor"] is None:
            continue
        x, color = numbers[row["round"]], _COLORS[lanes[row["round"]] % len(_COLORS)]
        come_from = numbers.get(row["weights_round"], start)
        axes.plot(
            [come_from, x],
            [row["incumbent_anchor"], row["candidate_anchor"]],
            color=color,
            linestyle="-" if row["promoted"] else ":",
            linewidth=1.4,
        )
        axes.plot(
            [x, x], [row["candidate_anchor_low"], row["candidate_anchor_high"]], color=color, linewidth=1
        )
        _mark(axes, row, x, row["candidate_anchor"], color, size)
        if row["weights_round"] is None:
            axes.plot(start, row["incumbent_anchor"], "s", color=_GREY, markersize=7)
    axes.set_ylim(0, 1.02)
    _part_anchor_sets(axes, [(numbers[row["round"]], row["anchor_set"]) for row in rows])
    _number_rounds(axes, numbers.values(), part.bbox.width / _DPI)
    _explain(part, rows, [] if len(found) == 1 else found)


def _draw_cost(part: Any, rows: list[Mapping[str, Any]]) -> None:
    numbers = {row["round"]: _number(row["round"]) for row in rows}
    for place, (measure, unit) in enumerate((("seconds", "seconds"), ("tokens", "tokens"))):
        axes = part.add_subplot(2, 1, place + 1)
        _style(axes, unit, "round" if place else "")
        below = [0.0] * len(rows)
        for color, stage in zip(_COLORS, STAGES[1:], strict=False):
            cost = [row[f"{stage}_{measure}"] or 0 for row in rows]
            axes.bar(list(numbers.values()), cost, 0.7, bottom=below, color=color, label=stage)
            below = [under + own for under, own in zip(below, cost, strict=True)]
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 10 else f"{value:g}")
        _number_rounds(axes, numbers.values(), part.bbox.width / _DPI, base=False)
        if place == 0:
            axes.set_title(rows[0]["round"].split("/")[0], fontsize=9, loc="left")
            handles, labels = axes.get_legend_handles_labels()
            part.legend(handles, labels, frameon=False, fontsize=8, ncols=5, loc="outside lower center")


def _mark(axes: "Axes", row: Mapping[str, Any], x: float, y: float, color: str, size: float) -> None:
    """One round: a star for the champion, a disc for another promoted one, a cross for a rejected one."""
    if row["champion"]:
        axes.plot(x, y, "*", color=color, markersize=15, markeredgecolor="white", zorder=4)
    elif row["promoted"]:
        axes.plot(x, y, "o", color=color, markersize=size, markeredgecolor="white", zorder=3)
    else:
        axes.plot(x, y, "x", color=color, markersize=size, markeredgewidth=size / 3.5, zorder=3)


def _mark_size(rows: Sequence[Mapping[str, Any]]) -> float:
    return 6.5 if len(rows) <= _MANY else 3.5


def _explain(part: Any, rows: Sequence[Mapping[str, Any]], found: Sequence[Line] = ()) -> None:
    """What the marks mean, and which line has which colour."""
    from matplotlib.lines import Line2D

    campaign = rows[0]["round"].split("/")[0]
    part.suptitle(
        f"{campaign}: $\\bigstar$ champion, $\\bullet$ promoted, $\\times$ rejected, "
        "$\\blacksquare$ base model",
        fontsize=9,
        x=0.01,
        ha="left",
    )
    if found:
        handles = [
            Line2D([], [], color=_COLORS[line.lane % len(_COLORS)], label=_short(line.name))
            for line in found[:_MOST_NAMED]
        ]
        left = len(found) - len(handles)
        if left:
            handles.append(Line2D([], [], linestyle="", label=f"and {left} more"))
        part.legend(handles=handles, frameon=False, fontsize=7, ncols=2, loc="outside lower center")


def _number_rounds(axes: "Axes", numbers: Iterable[int], room: float, base: bool = True) -> None:
    """Round numbers under an axis of so many inches, thinned out where they are many."""
    values = sorted(numbers)
    step = -(-len(values) // max(1, int(room / 0.42)))
    ticks = values[::step]
    names = [f"{value:04d}" for value in ticks]
    if base:
        if step > 1:  # no room for a name beside it
            del ticks[0], names[0]
        ticks, names = [values[0] - 1, *ticks], ["base", *names]
    axes.set_xticks(ticks, names)
    axes.set_xlim(values[0] - (1.5 if base else 0.7), max(values[-1] + 0.7, values[0] + (0 if base else 5)))


def _number(key: str) -> int:
    return RoundKey.parse(key).number


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"


_PANELS = {
    "accuracy": (
        "anchor_accuracy",
        "fresh_accuracy",
        "pass_at_1",
        "pass_at_k",
        "memorisation_gap",
        "environment_outcome",
    ),
    "stability": ("worst_skill_change", "worst_guard_change", "rewording_consistency", "seed_deviation"),
    "growth": (
        "gain",
        "pass_at_1_change",
        "pass_at_k_change",
        "distinct_1",
        "embedding_spread",
        "environment_outcome_change",
    ),
    "safety": ("verifier_precision", "verifier_recall", "truncation_rate", "contamination_rate"),
}
"""The measures of each dimension that lie between -1 and 1, most of them shares, and so fit on one axis."""


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
        _style(axes, "share or distance" if dimension == "growth" else "share", "round" if place > 1 else "")
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


def _part_anchor_sets(axes: "Axes", sets: Sequence[tuple[int, int]]) -> None:
    """An upright line before each place whose anchor set is another than that of the place before."""
    for (_, before), (place, after) in pairwise(sets):
        if before != after:
            axes.axvline(place - 0.5, color=_GREY, linestyle="--", linewidth=1)
            axes.text(place - 0.45, 0.02, "new anchor items", fontsize=7, color=_GREY)


def _errors(rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    return [
        [row["accuracy"] - row["low"] for row in rows],
        [row["high"] - row["accuracy"] for row in rows],
    ]


def failures_caught(runs: Mapping[str, Sequence[tuple[Sequence[float], int | None]]]) -> bytes:
    """A panel for each failure: true accuracy over rounds, run by run, and where it was caught.

    Args:
        runs: of each failure the true accuracies, first of the weights that the run started from, then of
            each round's candidate, and the round in which it was caught (None: it was not).
    """
    from matplotlib.figure import Figure

    rows = -(-len(runs) // _METRICS_IN_A_ROW)
    figure = Figure(figsize=(9, 0.6 + 1.9 * rows), dpi=_DPI, layout="constrained")
    longest = max(len(truth) for of_failure in runs.values() for truth, _ in of_failure)
    for place, (name, of_failure) in enumerate(runs.items()):
        axes = figure.add_subplot(rows, _METRICS_IN_A_ROW, place + 1)
        _style(axes, "true accuracy" if place % _METRICS_IN_A_ROW == 0 else "", "rounds done")
        axes.set_title(name, fontsize=9, loc="left")
        for truth, caught in of_failure:
            axes.plot(range(len(truth)), truth, color=_GREY, linewidth=1.2)
            if caught is not None and caught + 1 < len(truth):
                axes.plot(caught + 1, truth[caught + 1], "o", color=_RED, markersize=5)
        axes.set_xlim(-0.2, max(longest - 0.8, 1))
        axes.set_ylim(0, 1.02)
    return _figure_png(figure)


def _axes(y: str, x: str) -> "Axes":
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 2.8), dpi=_DPI, layout="constrained").add_subplot()
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
