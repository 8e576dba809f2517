"""The report of a campaign: one HTML file that needs no network, no script and no installation to be read."""

from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from selfimp_dagster import __version__
from selfimp_dagster.campaign import Campaign
from selfimp_dagster.lifecycle import oversight_log
from selfimp_dagster.lifecycle.evaluation.report import Score
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.records import content_hash
from selfimp_dagster.report import figures, words
from selfimp_dagster.report.data import IN_BRIEF, IN_FULL, NEWEST, CampaignReport, Flips, Missing, gather
from selfimp_dagster.store import MANIFEST, ArtifactStore, write_error, write_file

if TYPE_CHECKING:
    from jinja2 import Environment

SUFFIX = ".html"
FOLDER = "reports"
_HEAD = 4096  # bytes of a page that hold its state


def reports_folder(store: ArtifactStore) -> Path:
    """Where reports are unless they are asked for elsewhere."""
    return store.folder / FOLDER


def report_path(store: ArtifactStore, campaign: str) -> Path:
    return reports_folder(store) / f"{campaign}{SUFFIX}"


def write_report(store: ArtifactStore, campaign: str, out: Path | None = None) -> Path:
    """Writes the report of a campaign, whole or not at all, and returns its path.

    The same artifacts give the same file. What cannot be read is named in the page with the reason.

    Raises:
        SelfimpError: the store has no round of the campaign, or the file cannot be written.
    """
    path = out or report_path(store, campaign)
    page = render(gather(store, campaign), _state(store, campaign))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, path.parent) from error
    write_file(path, page.encode())
    return path


def refresh_reports(store: ArtifactStore) -> tuple[dict[str, Path], dict[str, str]]:
    """Writes the report of every campaign with artifacts that changed since it was written.

    Returns the reports by campaign, and by campaign why one could not be written. Nothing is raised: a page
    for people must not end a run that made something.
    """
    written: dict[str, Path] = {}
    failed: dict[str, str] = {}
    for campaign in sorted({key.campaign for key in store.rounds()}):
        path = report_path(store, campaign)
        try:
            if not _is_current(path, _state(store, campaign)):
                write_report(store, campaign)
            written[campaign] = path
        except Exception as error:
            failed[campaign] = f"{type(error).__name__}: {error}"
    return written, failed


def _is_current(path: Path, state: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as page:
        return f'content="{state}"'.encode() in page.read(_HEAD)


def render(report: CampaignReport, state: str = "") -> str:
    """The page. Whatever a model or a task file says is text in it, never markup."""
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            figures=figures,
            words=words,
            stages=STAGES,
            state=state,
            version=__version__,
            in_full=IN_FULL,
            in_brief=IN_BRIEF,
            newest_rounds=NEWEST,
        )
    )


def _state(store: ArtifactStore, campaign: str) -> str:
    """A hash of all that the report is made from: every manifest, the log of interventions, the program."""
    manifests = [
        sha256(path.read_bytes()).hexdigest()
        for key in store.rounds(campaign)
        for stage in STAGES
        if (path := store.folder / campaign / f"{key.number:04d}" / stage / MANIFEST).is_file()
    ]
    log = oversight_log.content(store, campaign)
    interventions = sha256(log).hexdigest() if log else None
    return content_hash([__version__, manifests, interventions])[:16]


@lru_cache(maxsize=1)
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("selfimp_dagster.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.tests["missing"] = lambda part: isinstance(part, Missing)
    made.filters |= {
        "share": lambda value: f"{value:.3f}",
        "signed": lambda value: f"{value:+.3f}",
        "figure": lambda value: f"{value:.3g}",
        "count": lambda value: f"{value:,.0f}",
        "seconds": lambda value: f"{value:,.1f}",
        "percent": lambda value: f"{100 * value:.1f}\u00a0%",
        "duration": _duration,
        "counted": lambda number, noun: f"{number:,} {noun}{'' if number == 1 else 's'}",
        "interval": _interval,
        "anchor": lambda key: f"round-{key.number:04d}",
        "spaced": lambda name: name.replace("_", " "),
        "by_measure": lambda rows: [(m, list(of)) for m, of in groupby(rows, attrgetter("measure"))],
        "yaml": _yaml,
        "commands": lambda report: list(_commands(report)),
    }
    return made


def _interval(score: Score) -> str:
    return f"{score.low:.3f} to {score.high:.3f}"


def _duration(seconds: float) -> str:
    """Seconds in the two largest units that they fill."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours:,}\u00a0h {minutes}\u00a0min"
    return f"{minutes}\u00a0min {rest}\u00a0s" if minutes else f"{rest}\u00a0s"


def _yaml(campaign: Campaign) -> str:
    return yaml.safe_dump(campaign.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def _commands(report: CampaignReport) -> Iterator[tuple[str, str]]:
    """What to type to go on from the report, and what for."""
    name, finished = report.name, report.finished
    yield f"selfimp run {name}", "runs the next round"
    yield f"selfimp status {name}", "all numbers of all rounds in the terminal"
    if len(finished) > 1:
        first, last = finished[0].key, finished[-1].key
        yield f"selfimp compare {first} {last}", "the candidates of two rounds on the same items"
    if finished:
        yield f"selfimp reproduce {finished[-1].key}", "the round again from its record, compared with it"
    shown = next((id_ for r in reversed(finished) for id_ in _ids(r.evaluation)), None)
    if shown:
        yield f"selfimp trace {shown}", "where one item or sample of this page came from, and what came of it"
    yield f"selfimp report {name}", "this page again, from what the store holds then"


def _ids(evaluation: object) -> Iterator[str]:
    flips = getattr(evaluation, "flips", None)
    if isinstance(flips, Flips):
        yield from (flip.id for flip in (*flips.now_right, *flips.now_wrong))
