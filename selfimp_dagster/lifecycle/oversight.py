"""People in the loop: what a campaign asks them, what they decided, and what follows from it.

Interventions are in the log of the campaign (oversight_log.py), only ever appended to. Every entry holds
the hash of the one before it, so an entry that is altered, removed or moved breaks the chain.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from selfimp_dagster.campaign import Approval, Matter
from selfimp_dagster.errors import SelfimpError, Unreachable
from selfimp_dagster.lifecycle import oversight_log
from selfimp_dagster.lifecycle.evaluation.report import ASSET, EvalReport, read_report
from selfimp_dagster.lifecycle.spending import BudgetSwitch
from selfimp_dagster.progress import Bar, Progress
from selfimp_dagster.records import canonical_json, content_hash, frame
from selfimp_dagster.round_key import CAMPAIGN_PATTERN, RoundKey
from selfimp_dagster.store import ArtifactStore, write_error

Asked = Matter | Literal["halt"]
"""What a person can be asked: what the campaign says, and going on after a round that steering halted."""

Action = Literal["approve", "refuse", "pause", "resume", "kill"]
State = Literal["running", "paused", "killed"]
Status = Literal["promoted", "rejected", "waiting", "refused"]

FIRST = "0" * 64
"""What the first entry of a log has in the place of the hash of the entry before it."""

_START = "incumbent_policy"
_ATTEMPTS = 10  # to append where others append
_BETWEEN_REQUESTS = 10.0  # seconds between two looks at a log in a bucket
_PAST = {
    "approve": "approved",
    "refuse": "refused",
    "pause": "paused",
    "resume": "resumed",
    "kill": "killed",
}


_MATTERS: dict[Asked, str] = {
    "promotion": "the promotion of",
    "recipe": "the recipe of",
    "alarm": "going on after the alarm of",
    "halt": "going on after the halt of",
}

_STOPPING = ("alarm", "halt")
"""The matters on which a refusal ends the campaign."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Evidence(_Frozen):
    """What an answer was given on.

    `version` is the data version of the evaluation report, for a recipe the hash of the recipe: what has
    another version is another matter, and is asked anew. `sentence` is what it said.
    """

    matter: Asked
    version: str
    sentence: str


class Entry(_Frozen):
    """One intervention of a person.

    `at` is in UTC, `hash` that of all other fields, `previous` that of the entry before.
    """

    campaign: str
    sequence: int
    at: str
    action: Action
    round: str | None
    who: str
    reason: str
    evidence: Evidence | None
    previous: str
    hash: str

    @property
    def sentence(self) -> str:
        """The intervention in words."""
        subject = f"{_MATTERS[self.evidence.matter]} {self.round}" if self.evidence else self.campaign
        return f"{self.who} {_PAST[self.action]} {subject} on {self.at}: {self.reason}"


@dataclass(frozen=True)
class Standing:
    """What a log comes to: whether the campaign may run, who said otherwise, and the answers to rounds."""

    state: State = "running"
    halted_by: Entry | None = None
    answers: Mapping[tuple[str, Asked, str], Entry] = field(default_factory=dict)

    def answer(self, round_: str, matter: Asked, version: str) -> Entry | None:
        """What was answered on just this matter in just this version."""
        return self.answers.get((round_, matter, version))


@dataclass(frozen=True)
class Question:
    """What a round asks of a person, and the answer if there is one."""

    round: str
    evidence: Evidence
    answer: Entry | None

    @property
    def stops(self) -> bool:
        """Whether it was refused, and that ends the campaign."""
        refused = self.answer is not None and self.answer.action == "refuse"
        return refused and self.evidence.matter in _STOPPING

    @property
    def command(self) -> str:
        """What answers it on the command line."""
        return f"selfimp approve {self.round} --who NAME --reason TEXT"

    @property
    def sentence(self) -> str:
        """What is waited for and what answers it, or the answer."""
        if self.answer is not None:
            return self.answer.sentence
        return (
            f"Waits for a person to approve or refuse {_MATTERS[self.evidence.matter]} {self.round} "
            f"({self.evidence.sentence.rstrip('.')}): `{self.command}`, or refuse in place of approve."
        )


@dataclass(frozen=True)
class Outcome:
    """What came of a finished round after people had their say.

    `alarms` are those that still stop, `approved` says who let the campaign go on after a halt, `question` is
    what the round asks now; if nothing, what it asked last.
    """

    status: Status
    alarms: tuple[str, ...]
    question: Question | None
    approved: str | None = None

    @property
    def promoted(self) -> bool:
        """Whether the candidate is in force."""
        return self.status == "promoted"

    @property
    def obstacle(self) -> str | None:
        """Why no next round may start from this one, not even by hand; none if one may."""
        if self.question is None:
            return None
        if self.question.answer is None:
            return self.question.sentence
        return f"Stopped: {self.question.sentence}" if self.question.stops else None


def standing_after(entries: Sequence[Entry]) -> Standing:
    """What these interventions come to."""
    state: State = "running"
    halted_by: Entry | None = None
    answers: dict[tuple[str, Asked, str], Entry] = {}
    for entry in entries:
        if entry.action == "resume":
            state, halted_by = "running", None
        elif entry.action == "pause":
            state, halted_by = "paused", entry
        elif entry.action == "kill":
            state, halted_by = "killed", entry
        elif entry.round is not None and entry.evidence is not None:
            answers[(entry.round, entry.evidence.matter, entry.evidence.version)] = entry
    return Standing(state, halted_by, answers)


def outcome(report: EvalReport, version: str, approval: Approval, standing: Standing) -> Outcome:
    """What came of a round: its verdict, as far as nobody has to approve it or somebody did.

    Args:
        report: the evaluation report of the round.
        version: the report's data version.
        approval: what the round was started with.
        standing: of the campaign.
    """
    questions = [
        Question(report.round, evidence, standing.answer(report.round, evidence.matter, version))
        for evidence in _evidence(report, version, approval)
    ]
    approved = {
        question.evidence.matter: question.sentence
        for question in questions
        if question.answer is not None and question.answer.action == "approve"
    }
    open_or_stopping = (question for question in questions if question.answer is None or question.stops)
    return Outcome(
        status=status_of(report.round, report.verdict.promoted, version, approval, standing),
        alarms=() if "alarm" in approved else report.verdict.alarms,
        question=next(open_or_stopping, questions[-1] if questions else None),
        approved=approved.get("halt"),
    )


def _evidence(report: EvalReport, version: str, approval: Approval) -> Iterator[Evidence]:
    """What a person has to decide after a round, in the order in which it is asked."""
    verdict, halt = report.verdict, report.summary.halt
    if verdict.promoted and "promotion" in approval.before:
        yield Evidence(matter="promotion", version=version, sentence=" ".join(verdict.reasons))
    if verdict.alarms and "alarm" in approval.before:
        yield Evidence(matter="alarm", version=version, sentence=" ".join(verdict.alarms))
    if halt is not None:
        yield Evidence(matter="halt", version=version, sentence=halt)


def status_of(round_: str, promoted: bool, version: str, approval: Approval, standing: Standing) -> Status:
    """What came of a candidate: the verdict on it, unless a person had to approve it and did not."""
    if not promoted:
        return "rejected"
    if "promotion" not in approval.before:
        return "promoted"
    answer = standing.answer(round_, "promotion", version)
    if answer is None:
        return "waiting"
    return "promoted" if answer.action == "approve" else "refused"


def read_outcome(store: ArtifactStore, key: RoundKey, standing: Standing | None = None) -> Outcome:
    """What came of a round that has an evaluation report; the log is read unless its standing is given.

    Raises:
        SelfimpError: an artifact or the log was altered.
    """
    return outcome_of(store, read_report(store, key), standing or read_standing(store, key.campaign))


def outcome_of(store: ArtifactStore, report: EvalReport, standing: Standing) -> Outcome:
    """What came of the round with this report."""
    key = RoundKey.parse(report.round)
    version = store.open(key, ASSET, verify=False).data_version
    return outcome(report, version, _read_start(store, key).approval, standing)


def recipe_question(store: ArtifactStore, key: RoundKey, standing: Standing | None = None) -> Question | None:
    """What a round asks about its recipe; nothing if an earlier round of its line used it."""
    start = _read_start(store, key)
    if "recipe" not in start.approval.before:
        return None
    version = content_hash(start.recipe)
    if any(_used(store, RoundKey.parse(ancestor)) == version for ancestor in start.ancestors):
        return None
    evidence = Evidence(
        matter="recipe",
        version=version,
        sentence=f"Recipe {version[:16]} was used by no earlier round of its line.",
    )
    known = standing or read_standing(store, key.campaign)
    return Question(str(key), evidence, known.answer(str(key), "recipe", version))


def read_question(store: ArtifactStore, key: RoundKey, standing: Standing | None = None) -> Question | None:
    """What a round asks of a person now; if nothing, what it asked last."""
    if not store.has(key, _START):
        return None
    halted = store.has(key, ASSET) and store.open(key, ASSET, verify=False).facts.get("halt") is not None
    if not halted and not _read_start(store, key).approval.before:
        return None
    known = standing or read_standing(store, key.campaign)
    about_recipe = recipe_question(store, key, known)
    if store.has(key, ASSET) and (about_recipe is None or about_recipe.answer is not None):
        return read_outcome(store, key, known).question or about_recipe
    return about_recipe


def open_questions(store: ArtifactStore, campaign: str) -> list[Question]:
    """What the rounds of a campaign wait for, in the order of the rounds."""
    standing = read_standing(store, campaign)
    asked = (read_question(store, key, standing) for key in store.rounds(campaign))
    return [question for question in asked if question is not None and question.answer is None]


STANDINGS = pl.Schema(
    {"campaign": pl.String(), "state": pl.String(), "because": pl.String(), "waits": pl.String()}
)
INTERVENTIONS = pl.Schema(
    {
        "campaign": pl.String(),
        "entry": pl.Int64(),
        "at": pl.String(),
        "who": pl.String(),
        "action": pl.String(),
        "round": pl.String(),
        "reason": pl.String(),
        "hash": pl.String(),
    }
)


def oversight_tables(store: ArtifactStore) -> tuple[pl.DataFrame, pl.DataFrame]:
    """How each campaign of the store stands (STANDINGS), and the INTERVENTIONS, the newest first.

    Where a log or an artifact was altered, the standing is not known and says why.
    """
    standings: list[dict[str, Any]] = []
    interventions: list[dict[str, Any]] = []
    campaigns = {key.campaign for key in store.rounds()}
    campaigns |= set(oversight_log.campaigns(store))
    for campaign in sorted(campaigns):
        row: dict[str, Any] = {"campaign": campaign, "state": "not known"}
        try:
            entries = read_log(store, campaign)
            waits = " ".join(question.sentence for question in open_questions(store, campaign))
        except SelfimpError as error:
            standings.append({**row, "because": str(error), "waits": None})
            continue
        standing = standing_after(entries)
        because = standing.halted_by.sentence if standing.halted_by else None
        standings.append({**row, "state": standing.state, "because": because, "waits": waits or None})
        told = ("campaign", "at", "who", "action", "round", "reason", "hash")
        interventions += [
            {"entry": entry.sequence, **{name: getattr(entry, name) for name in told}} for entry in entries
        ]
    newest_first = frame(interventions, INTERVENTIONS).sort("at", "entry", descending=True)
    return frame(standings, STANDINGS), newest_first


class _Start(BaseModel):
    """What the log is held against: how a round was started, as its `incumbent_policy` says."""

    approval: Approval = Approval()
    recipe: dict[str, Any]
    ancestors: tuple[str, ...]


def _read_start(store: ArtifactStore, key: RoundKey) -> _Start:
    policy = store.open(key, _START).json("policy")
    return _Start.model_validate({**policy["campaign"], "ancestors": policy["ancestors"]})


def _used(store: ArtifactStore, key: RoundKey) -> str | None:
    """The hash of the recipe that led to a round's report; none if the round was started anew since."""
    report = store.open(key, ASSET, verify=False).manifest
    if report.parents[_START] != store.open(key, _START, verify=False).data_version:
        return None
    return content_hash(_read_start(store, key).recipe)


def admit(store: ArtifactStore, key: RoundKey, stage: str) -> None:
    """Nothing: the stage may begin.

    Raises:
        SelfimpError: the campaign is killed; it is paused and the round would be a new one; or the round
            has a recipe that nobody approved.
    """
    standing = read_standing(store, key.campaign)
    first = stage == _START
    if standing.state == "killed" or (standing.state == "paused" and first):
        raise _halted(key.campaign, standing)
    if not first and store.has(key, _START):
        question = recipe_question(store, key, standing)
        if question is not None and (question.answer is None or question.answer.action == "refuse"):
            raise unapproved(question)


def unapproved(question: Question) -> SelfimpError:
    """The error of whoever would go on past an open or refused question."""
    fix = "change the recipe, or what else was refused, and start the round anew"
    return SelfimpError(
        question.sentence,
        where=question.round,
        fix=f"`{question.command}`" if question.answer is None else fix,
    )


def halt_sentence(campaign: str, standing: Standing) -> str:
    """Why a paused or killed campaign does not run, and what lets it."""
    assert standing.halted_by is not None
    return (
        f"{standing.state.capitalize()}: {standing.halted_by.sentence.rstrip('.')}. It goes on after "
        f"`selfimp resume {campaign} --who NAME --reason TEXT`."
    )


def _halted(campaign: str, standing: Standing) -> SelfimpError:
    assert standing.halted_by is not None
    return SelfimpError(
        standing.halted_by.sentence,
        where=f"campaign {campaign}",
        fix=f"`selfimp resume {campaign} --who NAME --reason TEXT` lets it go on; nothing complete was lost",
    )


class KillSwitch:
    """Asked by every long loop as it advances; looks at the log at most once in `every` seconds.

    Without `every` that is 1 s, or 10 s if the log is in a bucket. While the bucket cannot be reached, work
    goes on.
    """

    def __init__(self, store: ArtifactStore, campaign: str, every: float | None = None) -> None:
        self._store, self._campaign = store, campaign
        self._every = every if every is not None else 1.0 if store.mirror is None else _BETWEEN_REQUESTS
        self._looked = float("-inf")
        self._seen: object = None

    def look(self) -> None:
        """Nothing, as long as nobody kills the campaign.

        Raises:
            SelfimpError: somebody did, with who and why; or the log was altered.
        """
        now = time.monotonic()
        if now - self._looked < self._every:
            return
        self._looked = now
        try:
            found = oversight_log.signature(self._store, self._campaign)
            if found == self._seen:
                return
            standing = read_standing(self._store, self._campaign)
        except Unreachable:
            return
        if standing.state == "killed":
            raise _halted(self._campaign, standing)
        self._seen = found


class _OverseenBar:
    def __init__(self, bar: Bar, switch: KillSwitch, budget: BudgetSwitch | None) -> None:
        self._bar, self._switch, self._budget = bar, switch, budget

    def advance(self, amount: float = 1, *, tokens: int = 0) -> None:
        if amount:  # a mere sign of life would only blur the rate that is shown
            self._bar.advance(amount)
        self._switch.look()
        if self._budget is not None:
            self._budget.look(tokens)


class OverseenProgress:
    """Shows progress as another one does, and ends the stage on a kill or when the budget is spent."""

    def __init__(self, shown: Progress, switch: KillSwitch, budget: BudgetSwitch | None = None) -> None:
        self._shown, self._switch, self._budget = shown, switch, budget

    @contextmanager
    def stage(self, label: str, total: float, unit: str) -> Iterator[Bar]:
        with self._shown.stage(label, total, unit) as bar:
            yield _OverseenBar(bar, self._switch, self._budget)


def read_log(store: ArtifactStore, campaign: str) -> tuple[Entry, ...]:
    """All interventions on a campaign, from the first, with the chain verified.

    Raises:
        SelfimpError: an entry was altered, removed or moved, naming the first that does not fit.
    """
    content = oversight_log.content(store, campaign)
    return parse_log(content, campaign, oversight_log.place(store, campaign))[0]


def read_standing(store: ArtifactStore, campaign: str) -> Standing:
    """What the log of a campaign comes to.

    Raises:
        SelfimpError: the log was altered.
    """
    return standing_after(read_log(store, campaign))


def parse_log(content: bytes, campaign: str, where: str) -> tuple[tuple[Entry, ...], int]:
    """The entries of the log of a campaign, and how many bytes they take.

    A last line without an end is an entry if it is a whole one. If it is a part of one, its writer died
    before it could tell anybody that the intervention was recorded: it counts for nothing.

    Raises:
        SelfimpError: an entry was altered, removed or moved.
    """
    *lines, rest = content.split(b"\n")
    entries: list[Entry] = []
    for line in lines:
        entries.append(_entry(line, entries, campaign, where))
    if rest and not _is_unfinished(rest):
        entries.append(_entry(rest, entries, campaign, where))
        rest = b""
    return tuple(entries), len(content) - len(rest)


def _entry(line: bytes, before: Sequence[Entry], campaign: str, where: str) -> Entry:
    number = len(before)
    try:
        entry = Entry.model_validate_json(line)
    except ValidationError:
        raise _broken("the line is no entry: it was altered", number, where) from None
    content = entry.model_dump(exclude={"hash"})
    if entry.hash != content_hash(content) or line != _line(entry):
        raise _broken("its hash does not fit what it says: it was altered", number, where)
    if entry.campaign != campaign:
        raise _broken(f"it is from the log of the campaign {entry.campaign}", number, where)
    if entry.sequence != number:
        raise _broken(
            f"entry {entry.sequence} is in its place: entries were removed, added or moved", number, where
        )
    if entry.previous != (before[-1].hash if before else FIRST):
        raise _broken(
            "it does not follow the entry before it: entries were removed or replaced", number, where
        )
    return entry


def _broken(what: str, number: int, where: str) -> SelfimpError:
    return SelfimpError(
        what,
        where=f"{where}: entry {number}",
        fix="put the file back from a backup, and compare the hashes of its entries with those that the "
        "asset timeline in the UI and the webhook's receiver have; nothing starts until its chain holds",
    )


def _is_unfinished(rest: bytes) -> bool:
    """Whether the bytes break off before the object that they begin ends."""
    try:
        json.JSONDecoder().raw_decode(rest.decode("utf-8", errors="replace"))
    except json.JSONDecodeError:
        return True
    return False


def _line(entry: Entry) -> bytes:
    return canonical_json(entry.model_dump()).encode()


def record(
    store: ArtifactStore,
    campaigns: Path,
    action: Action,
    campaign: str,
    *,
    round_: RoundKey | None = None,
    who: str,
    reason: str,
) -> Entry:
    """Puts an intervention of a person into the log of a campaign.

    Args:
        store: where the log is.
        campaigns: the folder of the campaign files.
        action: what was decided; `approve` and `refuse` answer what `round_` waits for.
        campaign: name of the campaign.
        round_: a round of the campaign; none for the other actions.
        who: the person.
        reason: why, in the person's words.

    Raises:
        SelfimpError: there is no such campaign or round, it waits for nothing, somebody has answered it
            before, or name or reason is empty.
    """
    for name, text in (("who", who), ("reason", reason)):
        _require_text(name, text)
    require_campaign(store, campaigns, campaign)
    answers = action in ("approve", "refuse")
    if answers and round_ is None:
        raise SelfimpError(
            f"no round is named to {action}", where="round", fix="name one, for example arithmetic/0000"
        )
    if round_ is not None and (not answers or round_.campaign != campaign):
        raise SelfimpError(
            f"{round_} cannot be named to {action} the campaign {campaign}",
            where="round",
            fix="name a round of the same campaign to approve or refuse, and none otherwise",
        )
    where = oversight_log.place(store, campaign)
    for _ in range(_ATTEMPTS):
        try:
            with oversight_log.exclusive(store, campaign):
                content = oversight_log.content(store, campaign)
                entries, whole = parse_log(content, campaign, where)
                standing = standing_after(entries)
                evidence = None
                if round_ is not None:
                    evidence = _asked(store, round_, standing)
                else:
                    _require_change(campaign, standing, action)
                said = {
                    "campaign": campaign,
                    "sequence": len(entries),
                    "at": datetime.now(UTC).isoformat(timespec="seconds"),
                    "action": action,
                    "round": str(round_) if round_ else None,
                    "who": who.strip(),
                    "reason": reason.strip(),
                    "evidence": evidence.model_dump() if evidence else None,
                    "previous": entries[-1].hash if entries else FIRST,
                }
                entry = Entry.model_validate({**said, "hash": content_hash(said)})
                if oversight_log.append(
                    store, campaign, entry.sequence, _line(entry), before=content, whole=whole
                ):
                    return entry
        except OSError as error:
            raise write_error(error, store.folder / campaign) from error
    raise SelfimpError(
        f"others wrote at each of {_ATTEMPTS} attempts", where=where, fix="give the command again"
    )


def require_campaign(store: ArtifactStore, campaigns: Path, campaign: str) -> None:
    """Nothing: there is such a campaign, at least its file (whatever it says) or its rounds.

    Raises:
        SelfimpError: there is none.
    """
    if re.fullmatch(CAMPAIGN_PATTERN, campaign) and (
        (campaigns / f"{campaign}.yaml").is_file() or next(store.rounds(campaign), None) is not None
    ):
        return
    raise SelfimpError(
        f"there is no campaign {campaign!r}",
        where="campaign",
        fix=f"name a campaign file in {campaigns}, without its .yaml",
    )


def _require_text(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        text = ""
    if not text.strip():
        raise SelfimpError(
            "it says nothing", where=name, fix="write it down: the log is for those who ask later"
        )


def _asked(store: ArtifactStore, key: RoundKey, standing: Standing) -> Evidence:
    """What a round waits for.

    Raises:
        SelfimpError: it waits for nothing, or no longer.
    """
    if not store.has(key, _START):
        raise SelfimpError(
            "there is no such round", where=str(key), fix="`selfimp status` lists the rounds that there are"
        )
    question = read_question(store, key, standing)
    fix = f"`selfimp oversight {key.campaign}` shows what waits and what was answered"
    if question is None:
        raise SelfimpError("it waits for nobody", where=str(key), fix=fix)
    if question.answer is not None:
        raise SelfimpError(f"it is answered: {question.answer.sentence}", where=str(key), fix=fix)
    return question.evidence


def _require_change(campaign: str, standing: Standing, action: Action) -> None:
    fix = f"`selfimp oversight {campaign}` shows how it stands"
    if action == "resume":
        if standing.state == "running":
            raise SelfimpError("it is neither paused nor killed", where=f"campaign {campaign}", fix=fix)
    elif standing.state == "killed" or (standing.state == "paused" and action == "pause"):
        assert standing.halted_by is not None
        raise SelfimpError(
            f"it is {standing.state} already: {standing.halted_by.sentence}",
            where=f"campaign {campaign}",
            fix=fix,
        )
