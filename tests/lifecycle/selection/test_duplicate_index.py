"""The index of duplicates on small lines of rounds in a real store."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.selection import HeldRows, StoredRows
from selfimp_dagster.lifecycle.selection.duplicate_index import FOLDER, Run, RunFile, write_run
from selfimp_dagster.lifecycle.selection.sketches import ContentKeys, NearKeys, found_with
from selfimp_dagster.lifecycle.selection.stage import SUBSET
from selfimp_dagster.progress import LogProgress
from selfimp_dagster.records import frame
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

KIND = NearKeys.at(0.9, 3)
QUIET = LogProgress(lambda line: None)


def write_subset(store: ArtifactStore, key: RoundKey, texts: list[str]) -> None:
    rows = [
        {
            "sample_id": f"{key.number:04}{place:04}",
            "task_id": "task",
            "round": str(key),
            "skill": "tales",
            "prompt": "Tell a tale.",
            "messages": [],
            "response": text,
        }
        for place, text in enumerate(texts)
    ]
    draft = store.draft(key, "selected_subset", parents={}, config={})
    draft.write_table("subset", frame(rows, SUBSET), SUBSET)
    draft.commit(facts={}, measurements={})


def tale(*numbers: int) -> str:
    return " ".join(f"{chr(97 + number % 26)}{chr(97 + number // 26)}" for number in numbers)


@pytest.fixture
def line(tmp_path: Path) -> tuple[ArtifactStore, list[RoundKey]]:
    """35 rounds of three tales each; the first of each round is the same in all of them."""
    store, keys = ArtifactStore(tmp_path), [RoundKey("tales", number) for number in range(35)]
    for key in keys:
        write_subset(store, key, [tale(*range(40)), tale(*range(key.number, 60)), tale(key.number)])
    return store, keys


def query(*texts: str) -> pl.DataFrame:
    return pl.DataFrame({"prompt": "Tell a tale.", "response": texts})


def found(rows: StoredRows | HeldRows, asked: pl.DataFrame) -> list[tuple[int, str]]:
    shared = rows.sharing(KIND, KIND.keys(asked))
    return (
        shared.join(rows.at(shared["place"]), on="place")
        .sort("row", "place")
        .select("row", "sample_id")
        .rows()
    )


def test_a_line_of_rounds_is_looked_up_as_all_its_rows_in_memory_are(line):
    store, keys = line
    asked = query(tale(*range(40)), tale(3), tale(*range(20, 60)), "nothing of the kind")
    stored = StoredRows(store, keys, QUIET)
    assert found(stored, asked) == found(HeldRows(stored.rows), asked)
    assert {row for row, _ in found(stored, asked)} == {0, 1, 2}


def test_a_round_hashes_what_its_parent_kept_and_nothing_else(line, monkeypatch):
    store, keys = line
    hashed: list[int] = []
    original = NearKeys.keys
    monkeypatch.setattr(
        NearKeys, "keys", lambda self, rows: hashed.append(rows.height) or original(self, rows)
    )
    asked = original(KIND, query(tale(3)))
    KIND.name  # noqa: B018 - its probe is hashed once
    hashed.clear()
    for count in range(1, 36):
        StoredRows(store, keys[:count], QUIET).sharing(KIND, asked)
    assert hashed == [3] * 35
    branch = [*keys[:20], RoundKey("tales", 40)]
    write_subset(store, branch[-1], [tale(3)])
    StoredRows(store, branch, QUIET).sharing(KIND, asked)
    assert hashed == [3] * 35 + [1]


def test_a_round_that_was_made_again_is_looked_up_as_it_is_now(line):
    store, keys = line
    asked = query(tale(500, 501, 502, 503))
    assert found(StoredRows(store, keys, QUIET), asked) == []
    write_subset(store, keys[4], ["another", tale(500, 501, 502, 503)])
    assert found(StoredRows(store, keys, QUIET), asked) == [(0, "00040001")]


@pytest.mark.parametrize("damage", ["cut", "head", "block", "gone"])
def test_a_damaged_index_is_made_again_and_says_so(line, damage):
    store, keys = line
    asked = query(*(tale(number) for number in range(35)))
    before = found(StoredRows(store, keys, QUIET), asked)
    for path in (store.folder / FOLDER).iterdir():
        content = bytearray(path.read_bytes())
        if damage == "cut":
            path.write_bytes(content[:-9])
        elif damage == "gone":
            path.unlink()
        else:
            content[33 if damage == "head" else -5] ^= 1
            path.write_bytes(content)
    said: list[str] = []
    assert found(StoredRows(store, keys, LogProgress(said.append)), asked) == before
    assert "index of duplicates" in said[0]
    assert ("damaged" if damage != "gone" else "not there") in said[0]
    said.clear()
    assert found(StoredRows(store, keys, LogProgress(said.append)), asked) == before
    assert said == []


def test_a_row_that_was_altered_is_an_error_and_no_duplicate(line):
    store, keys = line
    asked = query(tale(3))
    assert len(found(StoredRows(store, keys, QUIET), asked)) == 1
    table = store.open(keys[3], "selected_subset").folder / "subset.parquet"
    pl.read_parquet(table).with_columns(response=pl.lit("x")).write_parquet(table)
    with pytest.raises(SelfimpError, match="hash mismatch"):
        found(StoredRows(store, keys, QUIET), asked)


def test_merged_files_find_what_memory_finds(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("selfimp_dagster.lifecycle.selection.duplicate_index._MERGED_AT_A_TIME", 1000)
    random = np.random.default_rng(0)
    runs = [
        Run.of(
            random.integers(1 << 64, size=(900, 2), dtype=np.uint64) & ~np.uint64(0x3FF << 50), np.arange(900)
        )
        for _ in range(5)
    ]
    common = Run.of(np.full((1300, 1), 7, np.uint64), np.arange(1300))  # one key over several blocks
    everything = [*runs, common, Run.of(np.empty((0, 2), np.uint64), np.arange(0))]
    path = tmp_path / "merged.run"
    halves = [write_run(tmp_path / "half.run", everything[:3]), *everything[3:]]
    write_run(path, halves)
    asked = np.concatenate(
        [runs[0].keys[:50], runs[4].keys[-50:], [np.uint64(7)], random.integers(9, size=5, dtype=np.uint64)]
    )
    expected = Run(
        np.concatenate([run.keys for run in everything]), np.concatenate([run.places for run in everything])
    )
    order = np.argsort(expected.keys)
    in_memory = Run(expected.keys[order], expected.places[order]).find(asked)
    on_disk = RunFile.open(path).find(asked)
    assert sorted(zip(*map(np.ndarray.tolist, on_disk), strict=True)) == sorted(
        zip(*map(np.ndarray.tolist, in_memory), strict=True)
    )
    assert len(on_disk[0]) > 1300


def test_a_disk_that_does_not_keep_what_is_written_is_an_error(line, monkeypatch):
    store, keys = line
    asked = KIND.keys(query(tale(3)))

    def rot(path: Path, runs: object) -> RunFile:
        write_run(path, runs)
        path.write_bytes(path.read_bytes()[:-5] + b"wrong")
        return RunFile.open(path)

    monkeypatch.setattr("selfimp_dagster.lifecycle.selection.duplicate_index.write_run", rot)
    with pytest.raises(SelfimpError, match="damaged again"):
        StoredRows(store, keys[:1], QUIET).sharing(KIND, asked)


def test_keys_of_content_ignore_white_space_alone():
    keys = ContentKeys().keys(
        pl.DataFrame({"prompt": ["a b", " a\n b", "a B"], "response": ["1", "1", "1"]})
    )[:, 0]
    assert keys[0] == keys[1] != keys[2]


def test_the_signatures_of_similar_texts_agree_as_often_as_they_are_similar():
    """Of many pairs at one similarity the share that has a key in common is what the formula says."""
    random, kind = np.random.default_rng(0), NearKeys(ngram=1, bands=16)
    vocabulary = [tale(number) for number in range(26 * 26)]
    pairs = [random.permutation(676)[:90] for _ in range(1500)]
    one = query(*(" ".join(vocabulary[n] for n in ids[:75]) for ids in pairs))
    other = query(*(" ".join(vocabulary[n] for n in ids[15:]) for ids in pairs))
    similarity = (60 + 3) / (90 + 3)  # the prompt has three words
    share = (kind.keys(one) == kind.keys(other)).any(axis=1).mean()
    expected = found_with(16, similarity)
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 1500) ** 0.5)
