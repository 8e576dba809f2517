"""The log of interventions holds or says where it does not, and a round's outcome follows from it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimp_dagster.campaign import Approval
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.promotion import Verdict
from selfimp_dagster.lifecycle.evaluation.report import EvalReport, Score, SkillScore
from selfimp_dagster.lifecycle.evaluation.summary import RoundSummary
from selfimp_dagster.lifecycle.history import FinishedRound
from selfimp_dagster.lifecycle.oversight import (
    FIRST,
    Entry,
    Evidence,
    KillSwitch,
    OverseenProgress,
    Standing,
    outcome,
    parse_log,
    read_log,
    read_standing,
    record,
    standing_after,
)
from selfimp_dagster.lifecycle.oversight_log import log_path
from selfimp_dagster.progress import Bar
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

_ACTIONS = ("pause", "kill", "resume", "pause", "resume")


def _steer(folder: Path, action: str, who: str = "Ann", reason: str = "because") -> Entry:
    return record(
        ArtifactStore(folder / "store"), folder / "campaigns", action, "tiny", who=who, reason=reason
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty store beside one campaign file."""
    (tmp_path / "campaigns").mkdir()
    (tmp_path / "campaigns" / "tiny.yaml").write_text("name: tiny\n")
    return tmp_path


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A log of five interventions, as it is on the disk."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "campaigns").mkdir()
    (folder / "campaigns" / "tiny.yaml").write_text("name: tiny\n")
    for number, action in enumerate(_ACTIONS):
        _steer(folder, action, who=f"Ann Ö. {number}", reason='it "leaks"\nvery much ☂')
    return log_path(ArtifactStore(folder / "store"), "tiny").read_bytes()


def _parse(content: bytes) -> tuple[Entry, ...]:
    return parse_log(content, "tiny", where="log")[0]


def test_a_log_is_read_back_as_it_was_written(written: bytes) -> None:
    entries = _parse(written)
    assert [entry.action for entry in entries] == list(_ACTIONS)
    assert [entry.sequence for entry in entries] == [0, 1, 2, 3, 4]
    assert [entry.previous for entry in entries] == [FIRST, *(entry.hash for entry in entries[:-1])]
    assert entries[1].who == "Ann Ö. 1"
    assert entries[1].reason == 'it "leaks"\nvery much ☂'
    assert written.count(b"\n") == 5, "one entry a line"


def test_every_altered_byte_is_found(written: bytes) -> None:
    for place in range(len(written)):
        for flip in (1, 32):
            altered = bytearray(written)
            altered[place] ^= flip
            with pytest.raises(SelfimpError, match="log: entry"):
                _parse(bytes(altered))


@given(place=st.integers(min_value=0), byte=st.integers(0, 255))
def test_no_byte_can_be_replaced_by_any_other(written: bytes, place: int, byte: int) -> None:
    altered = bytearray(written)
    place %= len(altered)
    if altered[place] == byte:
        return
    altered[place] = byte
    with pytest.raises(SelfimpError, match="log: entry"):
        _parse(bytes(altered))


@given(lines=st.lists(st.integers(0, 4), max_size=8))
def test_entries_that_are_dropped_swapped_or_doubled_are_found(written: bytes, lines: list[int]) -> None:
    """All that nobody can see is that the newest entries are gone: that is what the last hash is kept for."""
    original = written.splitlines(keepends=True)
    content = b"".join(original[line] for line in lines)
    if lines == list(range(len(lines))):
        assert len(_parse(content)) == len(lines)
    else:
        with pytest.raises(SelfimpError, match=r"removed|replaced"):
            _parse(content)


def test_a_chain_that_was_forged_from_some_entry_on_has_another_last_hash(
    written: bytes, folder: Path
) -> None:
    path = log_path(ArtifactStore(folder / "store"), "tiny")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(written.splitlines(keepends=True)[:2]))
    for action in _ACTIONS[2:]:
        _steer(folder, action, reason="forged")
    forged = path.read_bytes()
    assert len(_parse(forged)) == 5, "a chain proves nothing against whoever writes all of it anew"
    assert _parse(forged)[-1].hash != _parse(written)[-1].hash


def test_the_log_of_another_campaign_is_found_out(written: bytes) -> None:
    with pytest.raises(SelfimpError, match="from the log of the campaign tiny"):
        parse_log(written, "other", where="log")


def test_what_a_writer_that_died_left_counts_for_nothing_and_is_no_alteration(written: bytes) -> None:
    ends = [place for place, byte in enumerate(written) if byte == ord("\n")]
    for length in range(len(written)):
        whole = sum(end <= length for end in ends)  # a last line that lacks only its end is whole
        entries, used = parse_log(written[:length], "tiny", where="log")
        assert len(entries) == whole
        assert used <= length


@pytest.mark.parametrize("left", [1, 200, -1], ids=["a byte", "a part", "all but its end"])
def test_the_next_intervention_is_written_behind_the_whole_ones(
    written: bytes, folder: Path, left: int
) -> None:
    first, second = written.splitlines(keepends=True)[:2]
    path = log_path(ArtifactStore(folder / "store"), "tiny")
    path.parent.mkdir(parents=True)
    path.write_bytes(first + second[:left])
    _steer(folder, "resume")
    actions = [entry.action for entry in read_log(ArtifactStore(folder / "store"), "tiny")]
    assert actions == (["pause", "kill", "resume"] if left == -1 else ["pause", "resume"])


_DIES_WITHIN_A_WRITE = """
import os, signal, sys
from pathlib import Path
from selfimp_dagster.lifecycle import oversight, oversight_log
from selfimp_dagster.store import ArtifactStore

write = os.write
def die(descriptor, data):
    write(descriptor, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

store, campaigns = ArtifactStore(Path(sys.argv[1]) / "store"), Path(sys.argv[1]) / "campaigns"
oversight.record(store, campaigns, "pause", "tiny", who="Ann", reason="first")
oversight_log.os.write = die
oversight.record(store, campaigns, "kill", "tiny", who="Ann", reason="second")
"""

_DECIDES_WITHOUT_END = """
import sys
from pathlib import Path
from selfimp_dagster.lifecycle.oversight import record
from selfimp_dagster.store import ArtifactStore

store, campaigns = ArtifactStore(Path(sys.argv[1]) / "store"), Path(sys.argv[1]) / "campaigns"
while True:
    for action in ("pause", "resume"):
        print(record(store, campaigns, action, "tiny", who="Ann", reason="x" * 5000).sequence, flush=True)
"""


def test_killed_within_a_write_the_log_holds_and_goes_on(folder: Path) -> None:
    died = subprocess.run([sys.executable, "-c", _DIES_WITHIN_A_WRITE, str(folder)], timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    store = ArtifactStore(folder / "store")
    assert not log_path(store, "tiny").read_bytes().endswith(b"\n")
    assert [entry.reason for entry in read_log(store, "tiny")] == ["first"]
    assert _steer(folder, "kill", reason="again").sequence == 1
    assert [entry.reason for entry in read_log(store, "tiny")] == ["first", "again"]


def test_killed_at_any_time_no_intervention_that_was_acknowledged_is_lost(folder: Path) -> None:
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", _DECIDES_WITHOUT_END, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(20)]
        process.kill()
        told += [int(line) for line in process.stdout.read().split("\n")[:-1]]
        process.wait()
        entries = read_log(ArtifactStore(folder / "store"), "tiny")
        assert len(entries) in (told[-1] + 1, told[-1] + 2), "at most one was written and not told"
        assert all(later.previous == earlier.hash for earlier, later in pairwise(entries))
        if standing_after(entries).state == "paused":
            _steer(folder, "resume")


def test_of_interventions_at_the_same_time_one_counts(folder: Path) -> None:
    def attempt(number: int) -> str:
        try:
            return _steer(folder, "pause", who=f"person {number}").who
        except SelfimpError as error:
            return error.what

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(attempt, range(8)))
    (entry,) = read_log(ArtifactStore(folder / "store"), "tiny")
    assert told.count(entry.who) == 1
    assert sum(f"it is paused already: {entry.who} paused tiny" in what for what in told) == 7


def test_standing_follows_the_newest_intervention(written: bytes) -> None:
    entries = _parse(written)
    states = [standing_after(entries[:length]).state for length in range(6)]
    assert states == ["running", "paused", "killed", "running", "paused", "running"]
    assert standing_after(entries[:2]).halted_by == entries[1]


@pytest.mark.parametrize(
    ("before", "action", "problem"),
    [
        ([], "resume", "neither paused nor killed"),
        (["pause"], "pause", "it is paused already: Ann paused tiny on "),
        (["kill"], "pause", "it is killed already: Ann killed tiny on "),
        (["pause", "kill"], "kill", "it is killed already"),
    ],
)
def test_what_changes_nothing_is_refused(folder: Path, before: list[str], action: str, problem: str) -> None:
    for earlier in before:
        _steer(folder, earlier)
    with pytest.raises(SelfimpError, match=problem):
        _steer(folder, action)
    assert len(read_log(ArtifactStore(folder / "store"), "tiny")) == len(before)


@pytest.mark.parametrize(("who", "reason"), [("", "x"), ("  ", "x"), ("Ann", "\n"), ("Ann", "\udcff")])
def test_an_intervention_without_a_name_or_a_reason_is_refused(folder: Path, who: str, reason: str) -> None:
    with pytest.raises(SelfimpError, match="it says nothing"):
        _steer(folder, "pause", who, reason)


@pytest.mark.parametrize("campaign", ["nowhere", "../campaigns", "*", "", "tiny/0000"])
def test_an_intervention_on_no_campaign_is_refused_and_leaves_nothing(folder: Path, campaign: str) -> None:
    store = ArtifactStore(folder / "store")
    with pytest.raises(SelfimpError, match="there is no campaign"):
        record(store, folder / "campaigns", "pause", campaign, who="Ann", reason="x")
    assert not store.folder.exists()


@pytest.mark.parametrize(
    ("action", "round_", "problem"),
    [
        ("approve", None, "no round is named to approve"),
        ("approve", RoundKey("other", 0), "other/0000 cannot be named"),
        ("pause", RoundKey("tiny", 0), "tiny/0000 cannot be named"),
        ("approve", RoundKey("tiny", 7), "there is no such round"),
    ],
)
def test_an_intervention_on_the_wrong_round_is_refused(
    folder: Path, action: str, round_: RoundKey | None, problem: str
) -> None:
    with pytest.raises(SelfimpError, match=problem):
        record(
            ArtifactStore(folder / "store"),
            folder / "campaigns",
            action,
            "tiny",
            round_=round_,
            who="Ann",
            reason="x",
        )


def test_a_log_that_cannot_be_written_says_so(folder: Path) -> None:
    _steer(folder, "pause")
    path = log_path(ArtifactStore(folder / "store"), "tiny")
    path.unlink()
    path.mkdir()
    with pytest.raises(SelfimpError, match="could not write"):
        _steer(folder, "resume")


def test_the_switch_looks_at_the_log_once_in_a_while_and_sees_a_kill(folder: Path) -> None:
    store = ArtifactStore(folder / "store")
    patient, eager = KillSwitch(store, "tiny", every=1000), KillSwitch(store, "tiny", every=0)
    for switch in (patient, eager):
        switch.look()
    _steer(folder, "pause")
    eager.look()
    _steer(folder, "kill", reason="it leaks")
    patient.look()
    with pytest.raises(SelfimpError, match=r"Ann killed tiny on .*: it leaks"):
        eager.look()
    _steer(folder, "resume")
    eager.look()


class _Recorder:
    """A bar, and the progress that opens it."""

    def __init__(self) -> None:
        self.amounts: list[float] = []

    def advance(self, amount: float = 1) -> None:
        self.amounts.append(amount)

    @contextmanager
    def stage(self, label: str, total: float, unit: str) -> Iterator[Bar]:
        yield self


def test_a_stage_is_shown_as_it_is_and_ends_when_somebody_kills_the_campaign(folder: Path) -> None:
    shown = _Recorder()
    progress = OverseenProgress(shown, KillSwitch(ArtifactStore(folder / "store"), "tiny", every=0))
    with progress.stage("sampling", 8, "samples") as bar:
        bar.advance(4)
        bar.advance(0)
        _steer(folder, "kill")
        with pytest.raises(SelfimpError, match="Ann killed tiny"):
            bar.advance(0)
    assert shown.amounts == [4], "a sign of life is no progress"


def _report(promoted: bool, alarms: tuple[str, ...]) -> EvalReport:
    scores = [
        Score(suite="anchor", arm=arm, accuracy=accuracy, low=0, high=1, n=60)
        for arm, accuracy in (("incumbent", 0.25), ("candidate", 0.75))
    ]
    return EvalReport(
        round="tiny/0000",
        fingerprint="f",
        harness={},
        scores=tuple(scores),
        skills=tuple(SkillScore(**score.model_dump(), skill="learning") for score in scores),
        verdict=Verdict(
            promoted=promoted,
            test="exact McNemar",
            p_value=0.01,
            alpha=0.05,
            wins=9,
            losses=1,
            ties=50,
            n=60,
            gain=0.5,
            gain_low=0.3,
            gain_high=0.7,
            reasons=("Promoted." if promoted else "Rejected.",),
            guards=(),
            alarms=alarms,
        ),
        summary=RoundSummary(
            round="tiny/0000",
            parent=None,
            promoted=promoted,
            accuracy={"anchor": 0.75 if promoted else 0.25},
            per_skill={"learning": 0.75 if promoted else 0.25},
            alarms=alarms,
            tokens=1,
            seconds=1,
        ),
        costs={},
    )


@given(
    kind=st.sampled_from(["promoted", "rejected", "alarmed"]),
    before=st.sets(st.sampled_from(["promotion", "recipe", "alarm"])),
    interventions=st.lists(
        st.tuples(
            st.sampled_from(["promotion", "recipe", "alarm"]),
            st.sampled_from(["this report", "another report"]),
            st.sampled_from(["approve", "refuse"]),
        ),
        max_size=4,
        unique_by=lambda intervention: intervention[:2],
    ),
)
def test_the_outcome_is_the_verdict_unless_a_person_must_approve_just_that(
    kind: str, before: set[str], interventions: list[tuple[str, str, str]]
) -> None:
    report = _report(kind == "promoted", ("leak",) if kind == "alarmed" else ())
    entries = [
        Entry(
            campaign="tiny",
            sequence=number,
            at="2026-11-22T00:00:00+00:00",
            action=action,
            round="tiny/0000",
            who="Ann",
            reason="because",
            evidence=Evidence(matter=matter, version=version, sentence="s"),
            previous=FIRST,
            hash=FIRST,
        )
        for number, (matter, version, action) in enumerate(interventions)
    ]
    found = outcome(report, "this report", Approval(before=tuple(before)), standing_after(entries))
    said = {matter: action for matter, version, action in interventions if version == "this report"}
    asked = {"promoted": "promotion", "alarmed": "alarm"}.get(kind)
    gated = asked in before
    answer = said.get(str(asked))

    assert found.promoted == (kind == "promoted" and (not gated or answer == "approve"))
    expected = {"approve": "promoted", "refuse": "refused", None: "waiting"}[answer] if gated else "promoted"
    assert found.status == (expected if kind == "promoted" else "rejected")
    assert bool(found.alarms) == (kind == "alarmed" and not (gated and answer == "approve"))
    stopped = gated and (answer is None or (kind == "alarmed" and answer == "refuse"))
    assert (found.obstacle is not None) == stopped
    summary = FinishedRound(report, found).summary
    assert summary.promoted == found.promoted
    assert summary.accuracy["anchor"] == summary.per_skill["learning"] == (0.75 if found.promoted else 0.25)
    assert summary.alarms == found.alarms


def test_a_campaign_without_a_log_runs(folder: Path) -> None:
    assert read_standing(ArtifactStore(folder / "store"), "tiny") == Standing()
    assert os.listdir(folder) == ["campaigns"]
