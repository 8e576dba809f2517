"""The figures of a report: what is in data.py as charts of charts.py, with their words."""

from collections.abc import Callable

from markupsafe import Markup

from selfimp_dagster.lifecycle.evaluation.report import Score
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.report import charts
from selfimp_dagster.report.charts import Node, Point, Series
from selfimp_dagster.report.data import (
    CampaignReport,
    CorpusFacts,
    DimensionFacts,
    Lengths,
    Measured,
    RoundReport,
    SelectionFacts,
    SkillRow,
    TrainingFacts,
)

TREE_ROW = 36
"""The height of a row of the table beside the tree, in pixels; the style sheet has the same."""

_START = "base"
_MARKS = {
    "promoted": "promoted",
    "rejected": "rejected",
    "refused": "rejected",
    "waiting": "open",
    "open": "open",
}
_COST_STYLES = ("s1", "s2", "s3", "s4", "s5")


def value(score: Score) -> str:
    """An accuracy with its interval and items, in words."""
    return f"{score.accuracy:.3f} (95 % interval {score.low:.3f} to {score.high:.3f}, n = {score.n})"


def suite_over_rounds(report: CampaignReport, suite: str) -> Markup:
    """Accuracy on one suite: the policy in force along the newest line, and every candidate."""

    def score(r: RoundReport, arm: str) -> Score | None:
        return r.finished.score(suite, arm) if r.finished else None

    return _over_rounds(report, f"{suite} accuracy over rounds", score)


def skill_over_rounds(report: CampaignReport, skill: str) -> Markup:
    """Accuracy on one skill's anchor items, as `suite_over_rounds`."""

    def score(r: RoundReport, arm: str) -> Score | None:
        skills = r.finished.skills if r.finished else ()
        return next((s for s in skills if (s.suite, s.skill, s.arm) == ("anchor", skill, arm)), None)

    return _over_rounds(report, f"anchor accuracy on {skill} over rounds", score)


DRAWN = {
    "accuracy": ("leakage_gap", "memorisation_gap", "pass_at_1", "pass_at_k", "environment_outcome"),
    "stability": ("worst_skill_change", "worst_guard_change", "rewording_consistency", "length_ratio"),
    "growth": ("gain", "pass_at_k_change", "distinct_solutions", "token_entropy", "tokens_per_kept_sample"),
    "safety": ("verifier_precision", "verifier_recall", "truncation_rate", "contamination_rate"),
}
"""The measures of each dimension that are drawn over rounds; a table has the others."""


def measure_over_rounds(report: CampaignReport, measure: str) -> Markup | None:
    """A measure of the candidates along the newest line, or of the incumbents if it is of them alone.

    None if no round of the line has it.
    """
    line = [r for r in report.finished if r.key in report.line]
    points: list[Point | None] = []
    for r in line:
        facts = r.dimensions
        found = None
        if isinstance(facts, DimensionFacts):
            found = facts.find(measure, "candidate") or facts.find(measure, "incumbent")
        points.append(None if found is None else _measured_point(r, found))
    ends = [end for p in points if p for end in (p.value, p.low, p.high) if end is not None]
    if not ends:
        return None
    top = charts.round_up(max(map(abs, ends)))
    return charts.over_rounds(
        f"{measure.replace('_', ' ')} over rounds",
        _first_and_last([p.note for p in points if p]),
        list(map(_label, line)),
        points,
        points,
        top=top,
        bottom=-top if min(ends) < 0 else 0.0,
    )


def _measured_point(r: RoundReport, found: Measured) -> Point:
    note = f"{r.key}, {found.arm}: {measured(found)}. {found.note}"
    return Point(found.value, found.low, found.high, "plain", note)


def measured(row: Measured) -> str:
    """A measure with its interval, if it has one."""
    interval = "" if row.low is None or row.high is None else f" ({row.low:.3g} to {row.high:.3g})"
    return f"{row.value:.3g}{interval}"


def _over_rounds(
    report: CampaignReport, title: str, score: Callable[[RoundReport, str], Score | None]
) -> Markup:
    rounds = report.finished
    first = next((r for r in rounds if r.key in report.line[:1]), None)
    base = score(first, "incumbent") if first else None
    in_force = [_point(base, "base", "base model")] + [
        _point(score(r, r.in_force), "plain", f"in force after {r.key}") if r.key in report.line else None
        for r in rounds
    ]
    candidates = [None] + [
        _point(score(r, "candidate"), _MARKS[r.status], f"{r.key}, candidate {r.status}") for r in rounds
    ]
    told = _first_and_last([point.note for point in (*in_force[:1], *candidates) if point is not None])
    return charts.over_rounds(title, told, [_START, *map(_label, rounds)], in_force, candidates)


def _point(score: Score | None, mark: str, who: str) -> Point | None:
    if score is None:
        return None
    return Point(score.accuracy, score.low, score.high, mark, f"{who}: {value(score)}")


def rounds_tree(report: CampaignReport) -> Markup:
    """Which weights each round grew from, one row for the base model and one for each round."""
    places = {str(r.key): place for place, r in enumerate(report.rounds, start=1)}
    nodes = [Node(None, "base", "base model")]
    for r in report.rounds:
        weights = r.policy.weights_round if r.policy else None
        mark, told = _MARKS[r.status], "not finished" if r.status == "open" else r.status
        nodes.append(
            Node(places.get(weights or "", 0), mark, f"{r.key}: {told}, from {weights or 'base model'}")
        )
    told = _first_and_last([node.note for node in nodes[1:]])
    return charts.tree("Tree of rounds", told, nodes, TREE_ROW)


def pass_rates(report: CampaignReport, skill: str) -> Markup:
    """Of one skill's train tasks, the share that the incumbent solved never, sometimes, always."""
    rounds = _with_corpus(report)
    found = [next((s for s in c.rewards if s.skill == skill), None) for _, c in rounds]
    tasks = [s.never + s.sometimes + s.always if s else 0 for s in found]
    series = [
        Series(
            name,
            style,
            [getattr(s, kind) / n if s and n else None for s, n in zip(found, tasks, strict=True)],
        )
        for kind, name, style in (
            ("always", "solved by every answer", "right"),
            ("sometimes", "solved by some answers", "partly"),
            ("never", "solved by no answer", "wrong"),
        )
    ]
    told = _first_and_last(
        [
            f"{r.key}: mean reward {s.pass_rate:.3f} of {s.responses} answers"
            for (r, _), s in zip(rounds, found, strict=True)
            if s
        ]
    )
    labels = [_label(r) for r, _ in rounds]
    return charts.columns(f"Train tasks of {skill} that were solved", told, labels, series, top=1.0)


def length_drift(report: CampaignReport) -> Markup:
    """Percentiles of the lengths of the incumbent's answers over rounds."""
    rounds = _with_corpus(report)
    notes = [f"{r.key}: {_lengths_in_words(c.lengths)}" for r, c in rounds]
    return charts.quantile_bands(
        "Length of answers over rounds, in tokens",
        _first_and_last(notes),
        [_label(r) for r, _ in rounds],
        [c.lengths.quantiles for _, c in rounds],
        notes,
    )


def length_histogram(key: str, lengths: Lengths) -> Markup:
    """How long a round's answers are, right ones and wrong ones."""
    starts = [1 + place * lengths.width for place in range(len(lengths.right))]
    labels = [str(s) if lengths.width == 1 else f"{s}-{s + lengths.width - 1}" for s in starts]
    return charts.histogram(
        f"Length of the answers of {key}",
        _lengths_in_words(lengths),
        labels,
        [Series("right", "right", lengths.right), Series("not right", "wrong", lengths.wrong)],
        "tokens of an answer",
    )


def _lengths_in_words(lengths: Lengths) -> str:
    low, _, middle, _, high = lengths.quantiles
    return (
        f"half of the answers have at most {middle:.0f} tokens, nine of ten between {low:.0f} and "
        f"{high:.0f}; {lengths.cut_off:.1%} were cut off"
    )


def cost_over_rounds(report: CampaignReport, measure: str) -> Markup:
    """Seconds or tokens of every finished round, by stage."""
    rounds = report.finished
    costs = [r.finished.costs if r.finished else {} for r in rounds]
    series = [
        Series(stage, style, [getattr(c[stage], measure) if stage in c else None for c in costs])
        for stage, style in zip(STAGES[1:], _COST_STYLES, strict=True)
    ]
    told = _first_and_last(
        [
            f"{r.key}: {sum(getattr(cost, measure) for cost in c.values()):,.0f}"
            for r, c in zip(rounds, costs, strict=True)
        ]
    )
    return charts.columns(
        f"{measure} of the rounds by stage", told, list(map(_label, rounds)), series, unit=f" {measure}"
    )


def selection_funnel(key: str, selection: SelectionFacts) -> Markup:
    steps = [(step.name, step.reached, step.kept) for step in selection.steps]
    told = "; ".join(f"{name}: {kept:,} of {reached:,} stayed" for name, reached, kept in steps)
    return charts.funnel(f"Selection of {key}", told, steps)


def loss_curve(key: str, training: TrainingFacts) -> Markup:
    each = "each step" if training.steps_per_point == 1 else f"means of {training.steps_per_point} steps"
    told = (
        f"from {training.first_loss:.3f} at the first step to {training.final_loss:.3f} at the last; {each}"
    )
    return charts.curve(f"Training loss of {key}, in nats per token", told, training.curve, "step")


def arms(row: SkillRow) -> Markup:
    """Both arms on one skill, on a scale from 0 to 1."""
    both = [
        Point(score.accuracy, score.low, score.high, "plain", f"{score.arm}: {value(score)}")
        for score in (row.incumbent, row.candidate)
    ]
    return charts.pair(f"{row.skill} in {row.suite}", *both)


def _first_and_last(notes: list[str]) -> str:
    """What a chart shows, in words: where it begins and where it ends."""
    return "; ... ".join([notes[0], notes[-1]] if len(notes) > 1 else notes)


def _with_corpus(report: CampaignReport) -> list[tuple[RoundReport, CorpusFacts]]:
    return [(r, r.corpus) for r in report.rounds if isinstance(r.corpus, CorpusFacts)]


def _label(r: RoundReport) -> str:
    return f"{r.key.number:04d}"
