"""An artifact is there whole or not at all, and is what it was when it was written."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.records import REWARDS, frame
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import FORMAT, MANIFEST, Artifact, ArtifactStore, Draft

_KEY = RoundKey("tiny", 0)
_ASSET = "generated_corpus"
_FILE_SYSTEM_CALLS = (
    (os, "replace"),
    (shutil, "rmtree"),
    (Path, "write_text"),
    (Path, "write_bytes"),
    (Path, "unlink"),
)


class _Killed(BaseException):
    """The process ends here: nothing after it runs, as after a SIGKILL."""


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def _rewards(value: float) -> pl.DataFrame:
    row = {
        "sample_id": "s",
        "reward": "answer",
        "kind": "V",
        "value": value,
        "confidence": 1.0,
        "evidence": "",
    }
    return frame([row], REWARDS)


def _draft(store: ArtifactStore, value: float, **inputs: Any) -> Draft:
    draft = store.draft(_KEY, _ASSET, parents={}, config={"value": value, **inputs})
    (draft.folder / ".parts").mkdir(exist_ok=True)
    (draft.folder / ".parts" / "batch").write_text("left over")
    draft.write_table("rewards", _rewards(value), REWARDS)
    draft.write_json("notes", {"value": value})
    return draft


def _commit(store: ArtifactStore, value: float, **inputs: Any) -> Artifact:
    return _draft(store, value, **inputs).commit(facts={"rows": 1}, measurements={"seconds": 0.5})


def _value(store: ArtifactStore) -> float:
    """The value that the artifact in the store says, of both its files."""
    artifact = store.open(_KEY, _ASSET)
    said: float = artifact.json("notes")["value"]
    assert artifact.table("rewards", REWARDS)["value"].to_list() == [said]
    return said


def _refusal(store: ArtifactStore) -> SelfimpError:
    with pytest.raises(SelfimpError) as caught:
        store.open(_KEY, _ASSET)
    assert caught.value.where == f"{_KEY} {_ASSET}"
    assert f"materialize {_ASSET} of {_KEY}" in caught.value.fix
    return caught.value


def _root(store: ArtifactStore) -> Path:
    return store.folder / "tiny" / "0000" / _ASSET


def test_what_was_committed_can_be_read(store: ArtifactStore) -> None:
    made = _commit(store, 1.0)
    read = store.open(_KEY, _ASSET)
    assert read.manifest == made.manifest
    assert read.facts == {"rows": 1}
    assert read.measurements == {"seconds": 0.5}
    assert set(read.manifest.files) == {"rewards.parquet", "notes.json"}
    assert _value(store) == 1.0
    assert list(store.rounds("tiny")) == [_KEY]


def test_a_draft_is_no_artifact(store: ArtifactStore) -> None:
    _draft(store, 1.0)
    assert not store.has(_KEY, _ASSET)
    assert "there is no such artifact" in _refusal(store).what


def test_an_artifact_without_its_manifest_does_not_exist(store: ArtifactStore) -> None:
    _commit(store, 1.0)
    (_root(store) / MANIFEST).unlink()
    assert not store.has(_KEY, _ASSET)
    assert "there is no such artifact" in _refusal(store).what


def test_the_manifest_is_written_after_everything_it_names(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[str] = []
    replace = os.replace

    def watch(source: Path, target: Path) -> None:
        replaced.append(Path(target).name)
        replace(source, target)

    draft = _draft(store, 1.0)
    monkeypatch.setattr(os, "replace", watch)
    artifact = draft.commit(facts={}, measurements={})
    assert replaced == [artifact.manifest.folder, MANIFEST]


def test_an_altered_file_is_a_hash_mismatch(store: ArtifactStore) -> None:
    file = _commit(store, 1.0).folder / "rewards.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert _refusal(store).what == "the file rewards.parquet is not what was written (hash mismatch)"
    assert store.open(_KEY, _ASSET, verify=False).facts == {"rows": 1}


def test_a_missing_file_is_named(store: ArtifactStore) -> None:
    (_commit(store, 1.0).folder / "notes.json").unlink()
    assert _refusal(store).what == "the file notes.json is gone"


def test_an_artifact_of_an_older_format_is_refused(store: ArtifactStore) -> None:
    _commit(store, 1.0)
    path = _root(store) / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT - 1}))
    assert _refusal(store).what == f"the artifact has format {FORMAT - 1}, this version reads {FORMAT}"


def test_an_older_format_with_other_fields_is_refused_as_such(store: ArtifactStore) -> None:
    _commit(store, 1.0)
    (_root(store) / MANIFEST).write_text(json.dumps({"format": FORMAT - 1, "path": "x"}))
    assert _refusal(store).what == f"the artifact has format {FORMAT - 1}, this version reads {FORMAT}"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'], ids=["empty", "torn", "list", "fields"])
def test_a_broken_manifest_is_refused(store: ArtifactStore, text: str) -> None:
    _commit(store, 1.0)
    (_root(store) / MANIFEST).write_text(text)
    with pytest.raises(SelfimpError, match="unreadable manifest") as caught:
        store.open(_KEY, _ASSET)
    assert caught.value.where == str(_root(store) / MANIFEST)


def test_the_same_content_is_the_same_version_whatever_it_cost(store: ArtifactStore) -> None:
    first = _commit(store, 1.0)
    again = _draft(store, 1.0).commit(facts={"rows": 1}, measurements={"seconds": 99.0})
    assert again.data_version == first.data_version
    assert again.folder == first.folder
    assert _value(store) == 1.0
    assert store.open(_KEY, _ASSET).measurements == {"seconds": 99.0}


def test_committing_again_mends_an_altered_artifact(store: ArtifactStore) -> None:
    (_commit(store, 1.0).folder / "notes.json").write_text("{}")
    _commit(store, 1.0)
    assert _value(store) == 1.0


def test_new_content_leaves_the_old_folder_to_those_who_built_on_it(store: ArtifactStore) -> None:
    old = _commit(store, 1.0)
    new = _commit(store, 2.0)
    assert new.data_version != old.data_version
    assert _value(store) == 2.0
    assert old.table("rewards", REWARDS)["value"].to_list() == [1.0]


def test_a_draft_is_found_again_by_the_same_inputs_only(store: ArtifactStore) -> None:
    draft = store.draft(_KEY, _ASSET, parents={"a": "1"}, config={"b": 1})
    assert store.draft(_KEY, _ASSET, parents={"a": "1"}, config={"b": 1}).folder == draft.folder
    assert store.draft(_KEY, _ASSET, parents={"a": "2"}, config={"b": 1}).folder != draft.folder
    assert store.draft(_KEY, _ASSET, parents={"a": "1"}, config={"b": 2}).folder != draft.folder
    assert store.draft(_KEY, "checkpoint", parents={"a": "1"}, config={"b": 1}).folder != draft.folder
    assert store.draft(_KEY.next, _ASSET, parents={"a": "1"}, config={"b": 1}).folder != draft.folder


def _kill_at(patch: pytest.MonkeyPatch, call: int, error: BaseException, after: bool = False) -> list[str]:
    """Lets the `call`-th file-system call from now on raise, before or after it did its work."""
    calls: list[str] = []

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            calls.append(name)
            if len(calls) != call:
                return original(*arguments, **named)
            if after:
                original(*arguments, **named)
            raise error

        return run

    for owner, name in _FILE_SYSTEM_CALLS:
        patch.setattr(owner, name, wrapped(name, getattr(owner, name)))
    return calls


def _calls_of_commit(store: ArtifactStore, value: float, **inputs: Any) -> int:
    """How many file-system calls a commit makes in this store."""
    draft = _draft(store, value, **inputs)
    with pytest.MonkeyPatch.context() as patch:
        calls = _kill_at(patch, 0, _Killed())
        draft.commit(facts={"rows": 1}, measurements={"seconds": 0.5})
    return len(calls)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("value", [1.0, 2.0], ids=["same content", "new content"])
def test_a_commit_killed_at_any_call_leaves_the_old_or_the_new_artifact_and_can_be_repeated(
    tmp_path: Path, value: float, after: bool
) -> None:
    rehearsal = ArtifactStore(tmp_path / "rehearsal")
    _commit(rehearsal, 1.0)
    calls = _calls_of_commit(rehearsal, value, attempt=2)
    assert calls >= 4
    for call in range(1, calls + 1):
        store = ArtifactStore(tmp_path / f"killed at {call}")
        _commit(store, 1.0)
        draft = _draft(store, value, attempt=2)
        with pytest.MonkeyPatch.context() as patch:
            _kill_at(patch, call, _Killed(), after)
            with pytest.raises(_Killed):
                draft.commit(facts={"rows": 1}, measurements={"seconds": 0.5})
        assert _value(store) in (1.0, value), f"unreadable after a kill at call {call}"
        _commit(store, value, attempt=2)
        assert _value(store) == value, f"not repeatable after a kill at call {call}"


def test_a_first_commit_killed_at_any_call_leaves_nothing_half_done(tmp_path: Path) -> None:
    calls = _calls_of_commit(ArtifactStore(tmp_path / "rehearsal"), 1.0)
    for call in range(1, calls + 1):
        store = ArtifactStore(tmp_path / f"killed at {call}")
        draft = _draft(store, 1.0)
        with pytest.MonkeyPatch.context() as patch:
            _kill_at(patch, call, _Killed())
            with pytest.raises(_Killed):
                draft.commit(facts={"rows": 1}, measurements={"seconds": 0.5})
        assert not store.has(_KEY, _ASSET)
        _commit(store, 1.0)
        assert _value(store) == 1.0


def test_a_full_disk_is_said_in_words_and_leaves_the_old_artifact(tmp_path: Path) -> None:
    rehearsal = ArtifactStore(tmp_path / "rehearsal")
    _commit(rehearsal, 1.0)
    for call in range(1, _calls_of_commit(rehearsal, 2.0) + 1):
        store = ArtifactStore(tmp_path / f"full at {call}")
        _commit(store, 1.0)
        draft = _draft(store, 2.0)
        with pytest.MonkeyPatch.context() as patch:
            _kill_at(patch, call, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            with pytest.raises(SelfimpError, match="No space left on device") as caught:
                draft.commit(facts={"rows": 1}, measurements={"seconds": 0.5})
        assert "free some disk space" in caught.value.fix
        assert _value(store) == 1.0
        _commit(store, 2.0)
        assert _value(store) == 2.0


def test_a_full_disk_while_a_table_is_written_leaves_no_half_of_it(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = store.draft(_KEY, _ASSET, parents={}, config={})
    _kill_at(monkeypatch, 1, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(SelfimpError, match=r"rewards\.parquet: could not write: No space left on device"):
        draft.write_table("rewards", _rewards(1.0), REWARDS)
    assert list(draft.folder.iterdir()) == []


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    blocked = tmp_path / "artifacts"
    blocked.write_text("a file, not a folder")
    with pytest.raises(SelfimpError, match="could not write: Not a directory"):
        ArtifactStore(blocked).draft(_KEY, _ASSET, parents={}, config={})


def test_rounds_are_listed_in_order_and_by_campaign(store: ArtifactStore) -> None:
    for text in ("tiny/0010", "tiny/0002", "other/0000", "tiny/0000"):
        store.draft(RoundKey.parse(text), _ASSET, parents={}, config={})
    assert [str(key) for key in store.rounds("tiny")] == ["tiny/0000", "tiny/0002", "tiny/0010"]
    assert [str(key) for key in store.rounds()] == ["other/0000", "tiny/0000", "tiny/0002", "tiny/0010"]
    assert list(store.rounds("tin")) == []
