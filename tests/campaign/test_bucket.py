"""Artifacts in a bucket: seen whole by every machine or by none, whatever ends in the middle."""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from storage import Storage

from selfimp_dagster import bucket as bucket_module
from selfimp_dagster.bucket import Bucket
from selfimp_dagster.errors import SelfimpError, Unreachable
from selfimp_dagster.lifecycle import oversight_log
from selfimp_dagster.lifecycle.oversight import KillSwitch, read_log, read_standing, record
from selfimp_dagster.lineage.inventory import take_inventory
from selfimp_dagster.records import REWARDS, frame
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.settings import Settings, parse_store, settings
from selfimp_dagster.store import MANIFEST, Artifact, ArtifactStore, Draft

_KEY = RoundKey("tiny", 0)
_ASSET = "generated_corpus"
_CONFIG = {"value": 1.0}

Machine = Callable[[], ArtifactStore]
"""What opens the store on a machine: each time as a new process would."""


@pytest.fixture
def url(storage: Storage) -> str:
    return storage.bucket()


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "WAITS", (0.01, 0.02))
    monkeypatch.setattr(bucket_module, "WAITS_OF_UPLOADS", (0.01, 0.02, 0.03))


def _machine(folder: Path, url: str) -> Machine:
    where = Settings(home=folder, campaigns=folder / "campaigns", bucket=url)
    return lambda: ArtifactStore.at(where)


@pytest.fixture
def here(tmp_path: Path, url: str) -> Machine:
    return _machine(tmp_path / "here", url)


@pytest.fixture
def there(tmp_path: Path, url: str) -> Machine:
    """Another machine, with an empty cache."""
    return _machine(tmp_path / "there", url)


def _draft(store: ArtifactStore, value: float, size: int = 0) -> Draft:
    draft = store.draft(_KEY, _ASSET, parents={}, config={"value": value})
    (draft.folder / ".parts").mkdir(exist_ok=True)
    (draft.folder / ".parts" / "batch").write_text("drawn")
    row = {
        "sample_id": "s",
        "reward": "answer",
        "kind": "V",
        "value": value,
        "confidence": 1.0,
        "evidence": "",
    }
    draft.write_table("rewards", frame([row], REWARDS), REWARDS)
    draft.write_json("notes", {"value": value})
    (draft.folder / "model").mkdir(exist_ok=True)
    (draft.folder / "model" / "weights.safetensors").write_bytes(bytes([int(value)]) * size)
    return draft


def _commit(store: ArtifactStore, value: float, size: int = 0) -> Artifact:
    return _draft(store, value, size).commit(facts={"rows": 1}, measurements={"seconds": 0.5})


def _value(store: ArtifactStore) -> float:
    """The value that the artifact says, of all its files."""
    artifact = store.open(_KEY, _ASSET)
    value = float(artifact.table("rewards", REWARDS)["value"].item())
    assert artifact.json("notes") == {"value": value}
    assert set((artifact.folder / "model" / "weights.safetensors").read_bytes()) <= {int(value)}
    return value


def _object(artifact: Artifact, name: str) -> str:
    return f"{_KEY}/{_ASSET}/{artifact.manifest.folder}/{name}"


def test_what_one_machine_wrote_another_with_an_empty_cache_has(here: Machine, there: Machine) -> None:
    _commit(here(), 1.0, size=1000)
    store = there()
    assert list(store.rounds()) == list(store.rounds("tiny")) == [_KEY]
    assert store.has(_KEY, _ASSET)
    assert not store.has(_KEY, "checkpoint")
    assert _value(store) == 1.0


def test_only_what_is_asked_for_is_fetched(here: Machine, there: Machine) -> None:
    _commit(here(), 1.0, size=1000)
    artifact = there().open(_KEY, _ASSET, verify=False)
    assert not artifact.folder.exists()
    assert artifact.table("rewards", REWARDS).height == 1
    assert [path.name for path in artifact.folder.iterdir()] == ["rewards.parquet"]
    assert take_inventory(there()).gaps[0].what.startswith("not finished")
    assert not (artifact.folder / "model").exists(), "an inventory has no use for weights"


def test_the_bucket_is_laid_out_as_a_local_store(
    storage: Storage, url: str, here: Machine, tmp_path: Path
) -> None:
    _commit(here(), 1.0, size=1000)
    local = ArtifactStore(tmp_path / "local")
    _commit(local, 1.0, size=1000)
    files = {str(path.relative_to(local.folder)) for path in local.folder.rglob("*") if path.is_file()}
    assert set(storage.objects(url)) == files


def test_a_store_sees_what_was_there_when_it_was_opened(here: Machine, there: Machine) -> None:
    assert not there().has(_KEY, _ASSET)
    _commit(here(), 1.0)
    assert _value(there()) == 1.0
    _commit(here(), 2.0)
    assert _value(there()) == 2.0
    assert _value(here()) == 2.0


def test_what_was_deleted_in_the_bucket_is_gone_everywhere(
    storage: Storage, url: str, here: Machine, there: Machine
) -> None:
    _commit(here(), 1.0)
    assert there().has(_KEY, _ASSET)
    storage.overwrite(url, f"{_KEY}/{_ASSET}/{MANIFEST}", None)
    for machine in (here, there):
        assert not machine().has(_KEY, _ASSET)
        assert list(machine().rounds()) == []


def test_storage_that_vanishes_in_the_middle_of_an_upload_leaves_nothing_to_see(
    storage: Storage, url: str, here: Machine, there: Machine
) -> None:
    draft = _draft(here(), 1.0, size=300_000)
    storage.vanish(after=100_000)
    with pytest.raises(Unreachable, match="after 4 attempts") as caught:
        draft.commit(facts={"rows": 1}, measurements={"seconds": 0.5})
    assert storage.is_away
    assert "run the same again" in caught.value.fix
    assert caught.value.where.startswith(url)
    assert (draft.folder / ".parts" / "batch").read_text() == "drawn", (
        "what was drawn need not be drawn again"
    )
    with pytest.raises(Unreachable):
        there().has(_KEY, _ASSET)
    storage.come_back()
    assert not there().has(_KEY, _ASSET)
    assert _draft(here(), 1.0, size=300_000).folder == draft.folder
    _commit(here(), 1.0, size=300_000)
    assert _value(there()) == 1.0
    assert _value(here()) == 1.0


@pytest.mark.parametrize("after", [1, 2_000, 20_000, 150_000])
def test_storage_that_comes_back_in_time_costs_a_warning(
    storage: Storage,
    here: Machine,
    there: Machine,
    after: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(bucket_module.time, "sleep", lambda seconds: storage.come_back())
    draft = _draft(here(), 1.0, size=300_000)
    storage.vanish(after)
    draft.commit(facts={"rows": 1}, measurements={"seconds": 0.5})
    assert any("attempt 1 of" in record.getMessage() for record in caplog.records)
    assert _value(there()) == 1.0


def test_an_upload_that_was_ended_goes_on_with_what_is_missing(
    storage: Storage, url: str, here: Machine, there: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded: list[str] = []
    upload = Bucket.upload

    def noted(self: Bucket, path: Path, name: str, *rest: Any) -> None:
        if len(uploaded) == 2:
            storage.vanish()
        upload(self, path, name, *rest)
        uploaded.append(path.name)

    monkeypatch.setattr(Bucket, "upload", noted)
    with pytest.raises(Unreachable):
        _commit(here(), 1.0, size=1000)
    first = list(uploaded)
    storage.come_back()
    uploaded.extend(["", ""])  # it stays this time
    _commit(here(), 1.0, size=1000)
    assert len(first) == 2
    assert sorted([*first, *uploaded[4:]]) == ["notes.json", "rewards.parquet", "weights.safetensors"]
    assert _value(there()) == 1.0


def test_busy_storage_is_asked_again(storage: Storage, here: Machine, there: Machine) -> None:
    _commit(here(), 1.0)
    storage.be_busy(2)
    assert _value(there()) == 1.0
    storage.be_busy(100)
    with pytest.raises(Unreachable, match="SlowDown"):
        there().has(_KEY, _ASSET)


_KILLED_BEFORE_THE_MANIFEST = """
import os, signal, sys
sys.path[:0] = sys.argv[4:]
from pathlib import Path
from selfimp_dagster.bucket import Bucket
from test_bucket import _commit, _machine

Bucket.put = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
_commit(_machine(Path(sys.argv[1]), sys.argv[2])(), float(sys.argv[3]))
"""


@pytest.mark.parametrize("before", [None, 1.0], ids=["nothing before", "another before"])
def test_killed_between_upload_and_manifest_the_artifact_is_the_one_before(
    storage: Storage, url: str, here: Machine, there: Machine, tmp_path: Path, before: float | None
) -> None:
    if before is not None:
        _commit(here(), before)
    tests = Path(__file__).parent
    died = subprocess.run(
        [
            sys.executable,
            "-c",
            _KILLED_BEFORE_THE_MANIFEST,
            str(tmp_path / "here"),
            url,
            "2.0",
            str(tests),
            str(tests.parent),
        ],
        timeout=120,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    assert sum(name.endswith("rewards.parquet") for name in storage.objects(url)) == (
        1 if before is None else 2
    )
    for machine in (there, here):
        assert machine().has(_KEY, _ASSET) is (before is not None)
        if before is not None:
            assert _value(machine()) == before
    _commit(here(), 2.0)
    assert _value(there()) == _value(here()) == 2.0


def test_a_damaged_object_is_refused_and_made_again(
    storage: Storage, url: str, here: Machine, there: Machine
) -> None:
    artifact = _commit(here(), 1.0, size=1000)
    name = _object(artifact, "rewards.parquet")
    content = bytearray(storage.objects(url)[name])
    content[len(content) // 2] ^= 1
    storage.overwrite(url, name, bytes(content))
    for read in (
        lambda: there().open(_KEY, _ASSET),
        lambda: there().open(_KEY, _ASSET, verify=False).table("rewards", REWARDS),
    ):
        with pytest.raises(SelfimpError, match=r"is not what was written \(hash mismatch\)") as caught:
            read()
        assert caught.value.what.startswith(f"{url}/{name}")
        assert f"materialize {_ASSET} of {_KEY} again" in caught.value.fix
    assert not (there().open(_KEY, _ASSET, verify=False).folder / "rewards.parquet").exists()
    assert [gap.what for gap in take_inventory(there()).damage] == [caught.value.what]
    assert _value(here()) == 1.0, "the copy of the machine that made it is whole"
    _commit(here(), 1.0, size=1000)
    assert _value(there()) == 1.0
    assert take_inventory(there()).damage == ()


def test_a_lost_object_is_named(storage: Storage, url: str, here: Machine, there: Machine) -> None:
    name = _object(_commit(here(), 1.0), "notes.json")
    storage.overwrite(url, name, None)
    with pytest.raises(SelfimpError, match=r"notes\.json is gone"):
        there().open(_KEY, _ASSET)
    assert [gap.what for gap in take_inventory(there()).damage] == [f"{url}/{name} is gone"]


def test_a_damaged_copy_is_fetched_again(here: Machine, there: Machine) -> None:
    _commit(here(), 1.0)
    assert _value(there()) == 1.0
    copy = there().open(_KEY, _ASSET).file("rewards.parquet")
    copy.write_bytes(copy.read_bytes()[:-1])
    assert _value(there()) == 1.0


def test_the_cache_may_be_deleted(here: Machine) -> None:
    _commit(here(), 1.0, size=1000)
    shutil.rmtree(here().folder)
    assert _value(here()) == 1.0


def test_two_writers_leave_one_whole_artifact_at_every_moment(
    here: Machine, there: Machine, tmp_path: Path, url: str
) -> None:
    reader = _machine(tmp_path / "reader", url)
    _commit(here(), 1.0, size=2000)
    ended = threading.Event()

    def write(machine: Machine, value: float) -> None:
        for _ in range(4):
            _commit(machine(), value, size=2000)

    def read() -> set[float]:
        seen = set()
        while not ended.is_set():
            seen.add(_value(reader()))
        return seen

    with ThreadPoolExecutor(3) as pool:
        reading = pool.submit(read)
        try:
            for writing in [pool.submit(write, here, 1.0), pool.submit(write, there, 2.0)]:
                writing.result()
        finally:
            ended.set()
        assert reading.result() <= {1.0, 2.0}
    assert _value(here()) == _value(there()) == _value(reader())


def _decide(machine: Machine, campaigns: Path, action: Any, who: str) -> None:
    record(machine(), campaigns, action, "tiny", who=who, reason="because")


def test_interventions_of_two_machines_at_once_are_all_in_one_chain(
    here: Machine, there: Machine, tmp_path: Path, url: str
) -> None:
    (tmp_path / "tiny.yaml").touch()
    recorded = count()

    def decide(machine: Machine, who: str) -> None:
        done = 0
        while done < 4:
            for action in ("pause", "resume"):
                try:
                    _decide(machine, tmp_path, action, who)
                except SelfimpError as error:
                    if "already" not in error.what and "neither" not in error.what:
                        raise  # it is not that the other was first
                else:
                    done += 1
                    next(recorded)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(decide, (here, there), ("Ada", "Bob")))
    entries = read_log(_machine(tmp_path / "reader", url)(), "tiny")
    assert len(entries) == next(recorded)
    assert {entry.who for entry in entries} == {"Ada", "Bob"}
    assert [entry.action for entry in entries] == ["pause", "resume"] * (len(entries) // 2) + ["pause"] * (
        len(entries) % 2
    )


def test_an_intervention_whose_answer_was_lost_is_recorded_once(
    storage: Storage, here: Machine, there: Machine, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").touch()
    create = Bucket.create

    def losing(self: Bucket, name: str, content: bytes) -> bool:
        storage.lose_answers(1)
        return create(self, name, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "create", losing)
        _decide(here, tmp_path, "kill", "Ada")
    (entry,) = read_log(there(), "tiny")
    assert (entry.action, entry.who) == ("kill", "Ada")


def test_an_entry_that_was_altered_breaks_the_chain(
    storage: Storage, url: str, here: Machine, there: Machine, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").touch()
    _decide(here, tmp_path, "pause", "Ada")
    name = "tiny/oversight/000000.json"
    storage.overwrite(url, name, storage.objects(url)[name].replace(b"Ada", b"Bob"))
    for machine in (here, there):
        with pytest.raises(SelfimpError, match="it was altered") as caught:
            read_log(machine(), "tiny")
        assert caught.value.where == f"{url}/tiny/oversight: entry 0"


def test_a_kill_on_another_machine_ends_work_here_and_lost_storage_does_not(
    storage: Storage, here: Machine, there: Machine, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").touch()
    switch = KillSwitch(here(), "tiny", every=0)
    switch.look()
    storage.vanish()
    switch.look()
    storage.come_back()
    _decide(there, tmp_path, "kill", "Ada")
    with pytest.raises(SelfimpError, match="Ada killed tiny"):
        switch.look()
    assert read_standing(here(), "tiny").state == "killed"
    assert oversight_log.campaigns(here()) == ["tiny"]


def test_a_note_is_written_once(here: Machine, there: Machine) -> None:
    name = "tiny/evolution/0001.json"
    assert here().note(name) is None
    assert here().add_note(name, b"{}")
    assert not there().add_note(name, b"[]")
    assert here().note(name) == there().note(name) == b"{}"


def test_a_local_store_is_moved_by_copying_its_files(
    storage: Storage, url: str, there: Machine, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").touch()
    local = ArtifactStore(tmp_path / "artifacts")
    _commit(local, 1.0, size=1000)
    for action in ("pause", "resume"):
        _decide(lambda: local, tmp_path, action, "Ada")
    log, entries = oversight_log.log_path(local, "tiny"), local.folder / "tiny" / "oversight"
    entries.mkdir()
    split = ["split", "-l", "1", "-d", "-a", "6", "--additional-suffix=.json", str(log), f"{entries}/"]
    subprocess.run(split, check=True)
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    for path in local.folder.rglob("*"):
        if path.is_file():
            storage.client().upload_file(str(path), bucket, f"{prefix}/{path.relative_to(local.folder)}")
    assert list(there().rounds()) == [_KEY]
    assert _value(there()) == 1.0
    assert read_log(there(), "tiny") == read_log(local, "tiny")


def test_a_missing_bucket_is_said_in_words(storage: Storage, tmp_path: Path) -> None:
    store = _machine(tmp_path, "s3://no-such-bucket")()
    with pytest.raises(SelfimpError, match="the storage refuses") as caught:
        list(store.rounds())
    assert "create the bucket no-such-bucket" in caught.value.fix


def test_missing_credentials_are_said_in_words(
    storage: Storage, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(SelfimpError, match="Unable to locate credentials") as caught:
        _machine(tmp_path, url)().has(_KEY, _ASSET)
    assert "AWS_ACCESS_KEY_ID" in caught.value.fix


def test_without_the_library_it_is_named(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("selfimp_dagster.mirror", "selfimp_dagster.bucket"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(SelfimpError, match="the library for buckets is not installed") as caught:
        _machine(tmp_path, url)()
    assert "selfimp-dagster[s3]" in caught.value.fix


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("s3://team", ("team", "")),
        ("s3://team/", ("team", "")),
        ("s3://team/a/b_c/", ("team", "a/b_c")),
    ],
)
def test_where_the_store_is(url: str, found: tuple[str, str]) -> None:
    assert parse_store(url) == found


@pytest.mark.parametrize(
    "url", ["team", "s3://", "s3://a", "s3://key:secret@team", "gs://team", "s3://team/../x", "s3://team//x"]
)
def test_another_url_is_refused(url: str) -> None:
    with pytest.raises(SelfimpError, match="it is not s3://bucket"):
        parse_store(url)


def test_the_store_is_local_unless_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SELFIMP_HOME", str(tmp_path))
    monkeypatch.delenv("SELFIMP_STORE", raising=False)
    assert settings().store == tmp_path / "artifacts"
    assert ArtifactStore.at(settings()).mirror is None
    monkeypatch.setenv("SELFIMP_STORE", "s3://team/a")
    assert settings().store == tmp_path / "buckets" / "team" / "a"
