"""Charts as inline SVG: pure functions of numbers and words.

Colours are classes that the page's style sheet gives a colour to, in light and in dark; what a colour
tells, a shape, a pattern or a word tells too. Every chart has a title and a description for those who
do not see it, and a tooltip on every mark. All text is escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10

from markupsafe import Markup, escape

_HEIGHT = 190
_NARROW, _WIDE = 300, 900  # a chart of few places, which stands beside others, and of many
_ROOMY = 12  # pixels from place to place that a chart grows for
_CROWDED = 7  # pixels from place to place below which the band alone shows intervals
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 24
_LABEL_WIDTH = 44


@dataclass(frozen=True)
class Point:
    """One measurement with its interval; `mark` is its shape: base, promoted, rejected or plain."""

    value: float
    low: float | None
    high: float | None
    mark: str
    note: str


@dataclass(frozen=True)
class Series:
    """One value in each place, null where there is none. `style` is the class that colours it."""

    name: str
    style: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Node:
    """One row of a tree. `parent` is the place of the row that it grew from; none for a root.

    `mark` as that of a Point, or `open` for what is not finished; `heir` says that its own children go on in
    its lane.
    """

    parent: int | None
    mark: str
    note: str


def over_rounds(
    title: str,
    description: str,
    labels: Sequence[str],
    in_force: Sequence[Point | None],
    candidates: Sequence[Point | None],
    top: float = 1.0,
    bottom: float = 0.0,
) -> Markup:
    """What is in force after each round as a line in the band of its intervals; candidates as marks.

    A twig leads to a rejected candidate from what was in force in the place before it.
    """
    plot = _Plot(labels, bottom, top)
    line = [(plot.x(place), point) for place, point in enumerate(in_force) if point is not None]
    body = [plot.frame()]
    band = [(x, p.low, p.high) for x, p in line if p.low is not None and p.high is not None]
    if len(band) > 1:
        edge = [(x, plot.y(high)) for x, _, high in band] + [(x, plot.y(low)) for x, low, _ in reversed(band)]
        body.append(f'<polygon class="band" points="{_points(edge)}"/>')
    if len(line) > 1:
        body.append(f'<polyline class="line" points="{_points((x, plot.y(p.value)) for x, p in line)}"/>')
    for place, candidate in enumerate(candidates):
        start = in_force[place - 1] if place else None
        if candidate is not None and candidate.mark == "rejected" and start is not None:
            body.append(
                f'<line class="twig" x1="{_n(plot.x(place - 1))}" y1="{_n(plot.y(start.value))}" '
                f'x2="{_n(plot.x(place))}" y2="{_n(plot.y(candidate.value))}"/>'
            )
    for places in (in_force, candidates):
        for place, point in enumerate(places):
            if point is not None and (places is candidates or point.mark != "plain"):
                body.append(_mark(plot, plot.x(place), point))
    return _svg(plot.width, _HEIGHT, title, description, body)


def quantile_bands(
    title: str,
    description: str,
    labels: Sequence[str],
    quantiles: Sequence[Sequence[float] | None],
    notes: Sequence[str],
) -> Markup:
    """The 5th, 25th, 50th, 75th and 95th percentile over rounds: two bands and a line."""
    most = max((q[-1] for q in quantiles if q), default=1.0)
    plot = _Plot(labels, 0, round_up(most))
    found = [(plot.x(place), q) for place, q in enumerate(quantiles) if q]
    body = [plot.frame()]
    if len(found) > 1:
        for low, high, style in ((0, 4, "band faint"), (1, 3, "band")):
            edge = [(x, plot.y(q[high])) for x, q in found] + [
                (x, plot.y(q[low])) for x, q in reversed(found)
            ]
            body.append(f'<polygon class="{style}" points="{_points(edge)}"/>')
        body.append(f'<polyline class="line" points="{_points((x, plot.y(q[2])) for x, q in found)}"/>')
    for (x, q), note in zip(found, [n for n, q in zip(notes, quantiles, strict=True) if q], strict=True):
        ends = "" if len(found) > 1 else _whisker(plot, x, q[0], q[4])
        body.append(
            f'<g class="plain"><title>{escape(note)}</title>{ends}'
            f'<circle cx="{_n(x)}" cy="{_n(plot.y(q[2]))}" r="3"/></g>'
        )
    return _svg(plot.width, _HEIGHT, title, description, body)


def columns(
    title: str,
    description: str,
    labels: Sequence[str],
    series: Sequence[Series],
    top: float | None = None,
    unit: str = "",
) -> Markup:
    """Columns that are stacked in the order of the series."""
    plot = _Plot(labels, 0, top if top is not None else round_up(_tallest(series, len(labels))))
    width = min(34.0, plot.step * 0.7)
    body = [plot.frame(), *_stacks(plot, series, width, unit)]
    return _svg(plot.width, _HEIGHT, title, description, body)


def histogram(
    title: str, description: str, labels: Sequence[str], series: Sequence[Series], axis: str
) -> Markup:
    """Stacked bars side by side; `axis` says what their places are."""
    plot = _Plot(labels, 0, round_up(_tallest(series, len(labels))), below=12)
    body = [plot.frame(), _text(plot.width / 2, _HEIGHT - 3, axis, "middle")]
    body += _stacks(plot, series, plot.step * 0.86)
    return _svg(plot.width, _HEIGHT, title, description, body)


def _tallest(series: Sequence[Series], places: int) -> float:
    return max((sum(s.values[place] or 0 for s in series) for place in range(places)), default=1.0)


def _stacks(plot: "_Plot", series: Sequence[Series], width: float, unit: str = "") -> Iterator[str]:
    """One column in each place, with a tooltip that tells all its parts."""
    for place, label in enumerate(plot.labels):
        parts = [(s.name, s.style, s.values[place] or 0) for s in series]
        told = ", ".join(f"{_number(value)}{unit} {name}" for name, _, value in parts if value)
        yield f"<g><title>{escape(f'{label}: {told or 0}')}</title>"
        base = 0.0
        for _, style, value in parts:
            if value:
                low, high = plot.y(base), plot.y(base + value)
                left = plot.x(place) - width / 2
                yield (
                    f'<path class="{style}" d="M{_n(left)} {_n(high)}h{_n(width)}V{_n(low)}h{_n(-width)}z"/>'
                )
            base += value
        yield "</g>"


def curve(title: str, description: str, points: Sequence[tuple[float, float]], axis: str) -> Markup:
    """A line over a numeric axis that starts at zero."""
    last = points[-1][0]
    plot = _Plot(["", ""], 0, round_up(max(y for _, y in points)), below=12, edge=0)
    left, right = plot.x(0), plot.x(1)
    places = [(left + (right - left) * x / last, plot.y(y)) for x, y in points]
    body = [
        plot.frame(),
        _text(left, plot.floor + 15, "0", "start"),
        _text(right, plot.floor + 15, f"{last:,.0f}", "end"),
        _text(plot.width / 2, _HEIGHT - 3, axis, "middle"),
        f'<polyline class="line thin" points="{_points(places)}"/>',
    ]
    return _svg(plot.width, _HEIGHT, title, description, body)


def funnel(title: str, description: str, steps: Sequence[tuple[str, int, int]]) -> Markup:
    """How many rows reached each step and how many stayed: (name, reached, kept)."""
    row, width = 31, _NARROW
    most = max((reached for _, reached, _ in steps), default=1)
    scale = (width - 98) / max(most, 1)
    body = []
    for place, (name, reached, kept) in enumerate(steps):
        y = place * row
        told = escape(f"{name}: {kept:,} of {reached:,} rows stayed")
        body.append(
            f"<g><title>{told}</title>"
            f'<rect class="dropped" x="0" y="{y + 15}" width="{_n(reached * scale)}" height="14" rx="2"/>'
            f'<rect class="kept" x="0" y="{y + 15}" width="{_n(kept * scale)}" height="14" rx="2"/>'
            f"{_text(0, y + 11, name, 'start', 'name')}"
            f"{_text(reached * scale + 8, y + 26, f'{kept:,} of {reached:,}', 'start')}</g>"
        )
    return _svg(width, row * len(steps), title, description, body)


def pair(title: str, incumbent: Point, candidate: Point) -> Markup:
    """Two measurements on one scale from 0 to 1: the incumbent above, the candidate below, with intervals."""
    width, height, edge = 180, 30, 6

    def x(value: float) -> float:
        return edge + value * (width - 2 * edge)

    ticks = [
        ("".join(f"M{_n(x(tick))} 2v{height - 4}" for tick in places), style)
        for places, style in (((0, 1), "axis"), ((0.25, 0.5, 0.75), "grid"))
    ]
    body = [f'<path class="{style}" d="{path}"/>' for path, style in ticks]
    for point, y, style in ((incumbent, 9, "base"), (candidate, 21, "candidate")):
        assert point.low is not None
        assert point.high is not None
        shape = (
            f'<rect x="{_n(x(point.value) - 3.5)}" y="{y - 3.5}" width="7" height="7"/>'
            if style == "base"
            else f'<circle cx="{_n(x(point.value))}" cy="{y}" r="4"/>'
        )
        body.append(
            f'<g class="{style}"><title>{escape(point.note)}</title><line class="whisker" '
            f'x1="{_n(x(point.low))}" y1="{y}" x2="{_n(x(point.high))}" y2="{y}"/>{shape}</g>'
        )
    return _svg(width, height, title, "", body, style="pair")


def tree(title: str, description: str, nodes: Sequence[Node], row: int) -> Markup:
    """A tree with one node in each row, for beside a table whose rows are that high.

    One child of a node goes on in its lane, all others stand beside it.
    """
    heirs = _heirs(nodes)
    lanes = _lanes(nodes, heirs)
    gap = max(8.0, min(20.0, 240 / (max(lanes, default=0) + 1)))
    width = round(gap * (max(lanes, default=0) + 1) + 12)

    def x(place: int) -> float:
        return 12 + gap * lanes[place]

    def y(place: int) -> float:
        return row * (place + 0.5)

    body = []
    for place, node in enumerate(nodes):
        if node.parent is None:
            continue
        style = "stem" if node.mark == "promoted" else "twig"
        if lanes[place] == lanes[node.parent]:
            path = f"M{_n(x(place))} {_n(y(node.parent))}V{_n(y(place))}"
        else:
            over = _leaves(heirs, node.parent, place)
            bend = y(over) - row / 2
            path = (
                f"M{_n(x(node.parent))} {_n(y(node.parent))}V{_n(bend - row / 4)}"
                f"C{_n(x(node.parent))} {_n(bend)} {_n(x(place))} {_n(bend)} {_n(x(place))} {_n(y(over))}"
                f"V{_n(y(place))}"
            )
        body.append(f'<path class="{style}" d="{path}"/>')
    for place, node in enumerate(nodes):
        shape = _shape(node.mark, x(place), y(place), 5)
        body.append(f'<g class="{node.mark}"><title>{escape(node.note)}</title>{shape}</g>')
    return _svg(width, row * len(nodes), title, description, body, style="tree")


def _heirs(nodes: Sequence[Node]) -> dict[int, int]:
    """Of each node that has one, the child that goes on in its lane: one that has children itself, then one
    that was promoted, then the first."""
    children: dict[int, list[int]] = {}
    for place, node in enumerate(nodes):
        if node.parent is not None:
            children.setdefault(node.parent, []).append(place)
    heirs = {
        parent: max(found, key=lambda child: (child in children, nodes[child].mark == "promoted", -child))
        for parent, found in children.items()
    }
    return {parent: heir for parent, heir in heirs.items() if nodes[heir].mark != "rejected"}


def _leaves(heirs: Mapping[int, int], parent: int, child: int) -> int:
    """The row in which the line to a child beside the lane leaves it: before the heir, or at the child."""
    return parent + 1 if heirs.get(parent, child) < child else child


def _lanes(nodes: Sequence[Node], heirs: Mapping[int, int]) -> list[int]:
    """The lane of each node, 0 for the stem: a chain of heirs has the lowest lane right of its parent's in
    which no line of another chain runs beside it."""
    ends = list(range(len(nodes)))  # the row down to which a node's lane is drawn for its children
    for place, node in enumerate(nodes):
        if node.parent is not None and _leaves(heirs, node.parent, place) == place:
            ends[node.parent] = place
    lanes = [-1] * len(nodes)
    taken: list[tuple[int, int, int]] = []  # lane, first and last row
    for place, node in enumerate(nodes):
        if lanes[place] >= 0:
            continue
        chain = [place]
        while chain[-1] in heirs:
            chain.append(heirs[chain[-1]])
        start = place if node.parent is None else _leaves(heirs, node.parent, place)
        end = max(ends[member] for member in chain)
        lane = 0 if node.parent is None else lanes[node.parent] + 1
        while any(used == lane and first <= end and start <= last for used, first, last in taken):
            lane += 1
        taken.append((lane, start, end))
        for member in chain:
            lanes[member] = lane
    return lanes


class _Plot:
    """A plot of places from left to right and values from `bottom` to `top`."""

    def __init__(
        self, labels: Sequence[str], bottom: float, top: float, below: float = 0, edge: float = 0.5
    ) -> None:
        self.labels, self._bottom, self._top = labels, bottom, top
        self.width = max(_NARROW, min(_ROOMY * len(labels), _WIDE))
        self.floor = _HEIGHT - _BOTTOM - below
        inner = self.width - _LEFT - _RIGHT
        self.step = inner / max(len(labels) - 1 + 2 * edge, 1)
        self._first = _LEFT + edge * self.step

    def x(self, place: int) -> float:
        return self._first + place * self.step

    def y(self, value: float) -> float:
        share = (value - self._bottom) / ((self._top - self._bottom) or 1)
        return self.floor - min(max(share, 0), 1) * (self.floor - _TOP)

    def frame(self) -> str:
        """Grid, axis and labels, as many as there is room for."""
        ticks = [self._bottom + (self._top - self._bottom) * part / 4 for part in range(5)]
        across = self.width - _LEFT - _RIGHT
        grid = "".join(f"M{_LEFT} {_n(self.y(tick))}h{across}" for tick in ticks[1:])
        parts = [
            f'<path class="grid" d="{grid}"/><path class="axis" d="M{_LEFT} {_n(self.floor)}h{across}"/>',
            *(_text(_LEFT - 6, self.y(tick) + 3.5, _number(tick), "end") for tick in ticks),
        ]
        every = max(1, -(-_LABEL_WIDTH // max(self.step, 1)))
        parts += [
            _text(self.x(place), self.floor + 15, label, "middle")
            for place, label in enumerate(self.labels)
            if label and place % every == 0
        ]
        return "".join(parts)


def _mark(plot: _Plot, x: float, point: Point) -> str:
    whisker = ""
    if point.low is not None and point.high is not None and plot.step > _CROWDED:
        whisker = _whisker(plot, x, point.low, point.high)
    size = max(2.0, min(4.5, plot.step * 0.6))
    return (
        f'<g class="{point.mark}"><title>{escape(point.note)}</title>'
        f"{whisker}{_shape(point.mark, x, plot.y(point.value), size)}</g>"
    )


def _whisker(plot: _Plot, x: float, low: float, high: float) -> str:
    top, bottom, cap = plot.y(high), plot.y(low), min(4.0, plot.step / 4)
    return (
        f'<path class="whisker" d="M{_n(x - cap)} {_n(top)}h{_n(2 * cap)}M{_n(x)} {_n(top)}V{_n(bottom)}'
        f'M{_n(x - cap)} {_n(bottom)}h{_n(2 * cap)}"/>'
    )


def _shape(mark: str, x: float, y: float, size: float) -> str:
    """A square for the base, a disc for promoted, a cross for rejected, a ring for what is open."""
    if mark == "base":
        return f'<rect x="{_n(x - size)}" y="{_n(y - size)}" width="{_n(2 * size)}" height="{_n(2 * size)}"/>'
    if mark == "rejected":
        s = size * 0.9
        return (
            f'<path class="cross" d="M{_n(x - s)} {_n(y - s)}l{_n(2 * s)} {_n(2 * s)}'
            f'M{_n(x - s)} {_n(y + s)}l{_n(2 * s)} {_n(-2 * s)}"/>'
        )
    return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(size)}"/>'


def _svg(
    width: float, height: float, title: str, description: str, body: Sequence[str], style: str = "chart"
) -> Markup:
    told = f"<desc>{escape(description)}</desc>" if description else ""
    wide = " wide" if width > _NARROW else ""
    return Markup(
        f'<svg class="{style}{wide}" role="img" viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}" '
        f'height="{_n(height)}"><title>{escape(title)}</title>'
        f"{told}{''.join(body)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text{named} x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _points(points: Sequence[tuple[float, float]] | Iterator[tuple[float, float]]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _n(value: float) -> str:
    """A coordinate, as short as it may be."""
    return f"{value:.1f}".removesuffix(".0")


def _number(value: float) -> str:
    """A value at an axis or in a tooltip."""
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if abs(value) >= 10 or value == 0 else f"{value:.3g}"


def round_up(value: float) -> float:
    """A value at or above this one whose quarters are easy to read."""
    if value <= 0:
        return 1.0
    size = 10.0 ** floor(log10(value))
    steps = (size * step for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 5, 6, 8, 10))
    return next((step for step in steps if step >= value), value)
