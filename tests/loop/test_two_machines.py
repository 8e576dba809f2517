"""Two machines, each with a home of its own and an empty cache, and the artifacts in one bucket."""

import json
from pathlib import Path

import pytest
from home import Home
from storage import Storage
from typer.testing import CliRunner

from selfimp_dagster import bucket as bucket_module
from selfimp_dagster.bucket import Bucket
from selfimp_dagster.cli import app
from selfimp_dagster.doctor import examine
from selfimp_dagster.errors import SelfimpError, Unreachable
from selfimp_dagster.lifecycle.ledger import STAGES, read_ledger
from selfimp_dagster.lifecycle.oversight import record
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.lineage.inventory import take_inventory
from selfimp_dagster.lineage.reproduce import reproduce
from selfimp_dagster.progress import LogProgress
from selfimp_dagster.records import TRAINING
from selfimp_dagster.round_key import RoundKey

_FIRST, _SECOND = RoundKey("tiny", 0), RoundKey("tiny", 1)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "WAITS", (0.01,))
    monkeypatch.setattr(bucket_module, "WAITS_OF_UPLOADS", (0.01,))


def _machine(folder: Path, model: Path, bucket: str) -> Home:
    made = Home(folder, model, bucket)
    made.write_campaign()
    return made


@pytest.fixture(scope="module")
def first_round(s3_server: Storage, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    """A machine that has run a round although the storage vanished in its middle."""
    here = _machine(tmp_path_factory.mktemp("machines") / "here", tiny_model, s3_server.bucket())
    put = Bucket.put

    def vanishing(self: Bucket, name: str, content: bytes) -> str:
        if "/selected_subset/" in name:
            s3_server.vanish()
        return put(self, name, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket_module, "WAITS", (0.01,))
        patch.setattr(bucket_module, "WAITS_OF_UPLOADS", (0.01,))
        patch.setattr(Bucket, "put", vanishing)
        with pytest.raises(SelfimpError, match="the storage cannot be reached") as caught:
            here.run(str(_FIRST))
    assert "run the same again" in caught.value.fix
    s3_server.come_back()
    assert [stage for stage in STAGES if here.store.has(_FIRST, stage)] == list(STAGES[:2])
    drawn = here.store.manifest(_FIRST, "generated_corpus")
    here.run(str(_FIRST))
    assert here.store.manifest(_FIRST, "generated_corpus") == drawn, "what was whole is not made again"
    return here


@pytest.fixture
def there(first_round: Home, tmp_path: Path) -> Home:
    """Another machine, with an empty cache."""
    assert first_round.bucket is not None
    return _machine(tmp_path / "there", first_round.model, first_round.bucket)


def _say(home: Home, *arguments: str) -> str:
    """What a command prints on a machine."""
    result = CliRunner().invoke(app, arguments, env={**home.environment, "COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_another_machine_sees_the_round_and_runs_the_next(
    storage: Storage, first_round: Home, there: Home
) -> None:
    here = first_round
    sample = str(here.store.open(_FIRST, "checkpoint").table("training", TRAINING)["sample_id"][0])
    counts = "SELECT in_round, count(*) AS n FROM samples GROUP BY ALL"
    for command in (("status", "tiny"), ("sql", counts, "--json"), ("trace", sample, "--json")):
        assert _say(there, *command) == _say(here, *command)
    assert json.loads(_say(there, "sql", counts, "--json")) == [{"in_round": "tiny/0000", "n": 192}]
    pages = [Path(_say(home, "report", "tiny").strip()).read_bytes() for home in (here, there)]
    assert pages[0] == pages[1]
    assert not list(there.store.folder.rglob("*.safetensors")), "only a step that needs weights fetches them"
    there.run(str(_SECOND))
    policy, start = read_policy(here.store, _SECOND)
    assert policy.parent == str(_FIRST)
    checkpoint = here.store.open(_FIRST, "checkpoint")
    assert start.manifest.parents[f"{_FIRST}/checkpoint"] == checkpoint.data_version
    assert list(here.store.rounds()) == list(there.store.rounds()) == [_FIRST, _SECOND]
    assert read_ledger(here.store).equals(read_ledger(there.store))
    assert "tiny/0001" in _say(here, "status", "tiny")
    assert _say(here, "status", "tiny") == _say(there, "status", "tiny")
    assert take_inventory(here.store).gaps == take_inventory(there.store).gaps == ()
    found = {finding.subject: finding for finding in examine(there.settings)}
    assert found["bucket"].works
    assert found["store"].detail == "2 rounds, nothing missing"

    record(here.store, here.campaigns, "pause", "tiny", who="Ada", reason="to look")
    assert "to look" in _say(there, "oversight", "tiny")
    with pytest.raises(SelfimpError, match="Ada paused tiny"):
        there.run("tiny/0002")
    record(there.store, there.campaigns, "resume", "tiny", who="Bob", reason="seen")


def test_a_round_is_reproduced_on_another_machine(storage: Storage, there: Home, tmp_path: Path) -> None:
    again = reproduce(
        there.store,
        _FIRST,
        campaigns=there.campaigns,
        models=there.settings.models,
        scratch=tmp_path / "scratch",
        progress=LogProgress(lambda line: None),
    )
    assert again.identical, again.sentence


def test_without_storage_a_command_says_so(storage: Storage, there: Home) -> None:
    storage.vanish()
    for read in (lambda: list(there.store.rounds()), lambda: take_inventory(there.store)):
        with pytest.raises(Unreachable, match="after 2 attempts"):
            read()
    found = {finding.subject: finding for finding in examine(there.settings)}
    assert not found["bucket"].works
    assert not found["store"].works
    result = CliRunner().invoke(app, ["status"], env=there.environment)
    assert isinstance(result.exception, Unreachable)
