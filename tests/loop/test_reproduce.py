"""A recorded round run again: identical, or told where it first differs."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from home import Home, file_skill, write_tasks
from test_cli import selfimp

from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle import policy as policies
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.lifecycle.oversight import record
from selfimp_dagster.lifecycle.oversight_log import log_path
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.lineage.differences import ROW_IDS
from selfimp_dagster.lineage.reproduce import Outcome, Reproduction, reproduce
from selfimp_dagster.models.hashing import file_sha256
from selfimp_dagster.progress import LogProgress
from selfimp_dagster.records import EVALUATIONS, SAMPLES, TASKS, TRAINING, content_hash
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import MANIFEST, ArtifactStore

_FIRST, _SECOND, _THIRD = (RoundKey("tiny", number) for number in range(3))

_DIES_AFTER_ITS_FIRST_BATCH = """
import os, signal, sys
from selfimp_dagster import cli
from selfimp_dagster.lifecycle import sampling

write = sampling.DurableSampler._write

def die(self, rows):
    write(self, rows)
    os.kill(os.getpid(), signal.SIGKILL)

sampling.DurableSampler._write = die
sys.argv = ["selfimp", "run", "tiny"]
cli.main()
"""


def run_again(home: Home, key: RoundKey, scratch: Path) -> Reproduction:
    return reproduce(
        home.store,
        key,
        campaigns=home.campaigns,
        models=home.settings.models,
        scratch=scratch,
        progress=LogProgress(lambda line: None),
    )


def states(found: Reproduction) -> dict[str, str]:
    return {outcome.asset: outcome.state for outcome in found.outcomes}


def outcome(found: Reproduction, asset: str) -> Outcome:
    return next(outcome for outcome in found.outcomes if outcome.asset == asset)


def assert_identical(found: Reproduction) -> None:
    assert states(found) == dict.fromkeys(STAGES, "identical"), found.sentence
    assert found.identical
    assert found.sentence == f"{found.round} is reproduced: 6 of 6 artifacts are identical."
    assert (found.conditions, found.conditions_recorded) == ((), True)


def everything(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file below a folder with its hash and the time of its last change."""
    return {
        str(path.relative_to(folder)): (file_sha256(path), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def make_again(home: Home, key: RoundKey, asset: str, edit: Callable[[Path], None], **facts: Any) -> None:
    """Replaces a recorded artifact by an edited one, whole and with its manifest."""
    artifact = home.store.open(key, asset)
    draft = home.store.draft(key, asset, parents=artifact.manifest.parents, config=artifact.manifest.config)
    shutil.copytree(artifact.folder, draft.folder, dirs_exist_ok=True)
    edit(draft.folder)
    draft.commit(facts={**artifact.facts, **facts}, measurements=artifact.measurements)


@pytest.fixture(scope="module")
def building_on(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    """Two rounds whose second replays rows of the first and counts what it cost: to read, not to change."""
    made = Home(tmp_path_factory.mktemp("building-on") / "installation", tiny_model)
    made.write_campaign(
        recipe={"optimization": {"replay": 0.5}},
        continuation={"budget": {"tokens": 10**9, "seconds": 10**6}},
    )
    made.run(str(_FIRST), str(_SECOND))
    return made


def test_a_first_round_is_reproduced_and_the_store_is_left_as_it_was(
    two_rounds: Home, tmp_path: Path
) -> None:
    before = everything(two_rounds.folder)
    assert_identical(run_again(two_rounds, _FIRST, tmp_path))
    assert everything(two_rounds.folder) == before


def test_a_round_is_reproduced_with_replay_reuse_and_budget(building_on: Home, tmp_path: Path) -> None:
    before = everything(building_on.folder)
    policy, _ = read_policy(building_on.store, _SECOND)
    assert policy.parent == policy.weights_round == str(_FIRST)
    assert policy.seconds_left < 10**6
    assert policy.tokens_left < 10**9
    training = building_on.store.open(_SECOND, "checkpoint").table("training", TRAINING)
    assert str(_FIRST) in set(training["origin_round"])
    assert building_on.store.open(_SECOND, "eval_report").table("evaluations", EVALUATIONS)["reused"].any()
    assert_identical(run_again(building_on, _SECOND, tmp_path))
    assert everything(building_on.folder) == before


def test_a_branch_is_reproduced_with_its_recipe_and_parameters_though_the_campaign_file_has_changed(
    finished: Home, tmp_path: Path
) -> None:
    given = {
        "incumbent_policy": {"parent": str(_FIRST), "recipe": {"optimization": {"batch_size": 4}}},
        "generated_corpus": {"tasks": 40, "samples_per_task": 3, "temperature": 0.8},
        "checkpoint": {"epochs": 2.0},
        "refined_outputs": {"tasks": 5},
    }
    with finished.instance() as instance:
        config = {"ops": {asset: {"config": values} for asset, values in given.items()}}
        assert finished.materialize(instance, str(_THIRD), config=config).success
    policy, _ = read_policy(finished.store, _THIRD)
    assert (policy.parent, policy.recipe_changes) == (str(_FIRST), {"optimization": {"batch_size": 4}})
    corpus = finished.store.open(_THIRD, "generated_corpus")
    assert {row["round"] for row in corpus.table("samples", SAMPLES).iter_rows(named=True)} >= {str(_THIRD)}
    assert corpus.manifest.config["tasks"] == 40
    assert corpus.manifest.config["acquisition"]["sampling"]["temperature"] == 0.8
    assert finished.store.open(_THIRD, "refined_outputs").table("tasks", TASKS).height == 5
    finished.write_campaign(recipe={"optimization": {"epochs": 1}}, pools={"train": 12}, seed=99)
    assert_identical(run_again(finished, _THIRD, tmp_path / "scratch"))


def test_a_round_behind_an_approved_promotion_is_reproduced(home: Home, tmp_path: Path) -> None:
    home.write_campaign(approval={"before": ["promotion"]})
    home.run(str(_FIRST))
    record(home.store, home.campaigns, "approve", "tiny", round_=_FIRST, who="Ada", reason="it learnt")
    home.run(str(_SECOND))
    record(home.store, home.campaigns, "pause", "tiny", who="Ada", reason="to look at it again")
    assert read_policy(home.store, _SECOND)[0].weights_round == str(_FIRST)
    before = everything(home.folder)
    assert_identical(run_again(home, _SECOND, tmp_path / "scratch"))
    assert everything(home.folder) == before
    log = log_path(home.store, "tiny")
    log.write_text(log.read_text().replace("it learnt", "it learned"))
    with pytest.raises(SelfimpError, match="it was altered"):
        run_again(home, _SECOND, tmp_path / "again")


def test_relative_paths_lead_where_they_did_and_another_base_model_is_told(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(home.model, "models/base")
    write_tasks(home.folder / "tasks")
    home.write_campaign(
        model="models/base",
        skills={"learning": file_skill("../tasks/learn.jsonl")},
        guard={"keeping": file_skill("../tasks/keep.jsonl")},
        recipe={"optimization": {"epochs": 1}},
    )
    for word in ("learn", "keep"):
        (home.campaigns / f"{word}.jsonl").unlink()
    home.run(str(_FIRST))
    assert_identical(run_again(home, _FIRST, tmp_path / "scratch"))
    with Path("models/base/tokenizer_config.json").open("a") as file:
        file.write(" ")
    found = outcome(run_again(home, _FIRST, tmp_path / "again"), "incumbent_policy")
    assert [d.place for d in found.differences] == ["policy_hash", "policy_hash"]


def test_a_round_that_was_killed_while_sampling_is_reproduced_without_a_break(
    home: Home, tmp_path: Path
) -> None:
    home.write_campaign(
        pools={"train": 150}, recipe={"acquisition": {"samples_per_task": 5}, "optimization": {"epochs": 1}}
    )
    killed = subprocess.run(
        [sys.executable, "-c", _DIES_AFTER_ITS_FIRST_BATCH],
        env={**os.environ, **home.environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    (part,) = (home.store.folder / str(_FIRST) / "generated_corpus").glob(".draft-*/.parts/*.parquet")
    assert 0 < pl.read_parquet(part).height < 150 * 5
    home.run(str(_FIRST))
    assert_identical(run_again(home, _FIRST, tmp_path / "scratch"))


def _seed(folder: Path) -> None:
    path = folder / "policy.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 7}))


def _response(folder: Path) -> None:
    path = folder / "samples.parquet"
    table = pl.read_parquet(path)
    table.with_columns(
        response=pl.when(pl.int_range(pl.len()) == 5).then(pl.lit("other")).otherwise("response")
    ).write_parquet(path)


def _row(folder: Path) -> None:
    path = folder / "subset.parquet"
    pl.read_parquet(path)[1:].write_parquet(path)


def _weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][3] += 0.125
    save_file(tensors, path, {"format": "pt"})


def _agreement(folder: Path) -> None:
    path = folder / "refinements.parquet"
    pl.read_parquet(path).with_columns(agreement=pl.lit(2.0)).write_parquet(path)


def _score(folder: Path) -> None:
    path = folder / "report.json"
    report = json.loads(path.read_text())
    report["scores"][0]["accuracy"] = 0.123
    path.write_text(json.dumps(report))


@pytest.mark.parametrize(
    ("asset", "edit", "file", "place"),
    [
        ("incumbent_policy", _seed, "policy.json", "seed"),
        ("generated_corpus", _response, "samples.parquet", "column response"),
        ("selected_subset", _row, "subset.parquet", "row sample_id="),
        ("checkpoint", _weights, "model/model.safetensors", "tensor model.norm.weight, value 3"),
        ("refined_outputs", _agreement, "refinements.parquet", "column agreement"),
        ("eval_report", _score, "report.json", "scores.0.accuracy"),
    ],
)
def test_what_is_not_as_recorded_is_found_where_it_is(
    finished: Home, tmp_path: Path, asset: str, edit: Callable[[Path], None], file: str, place: str
) -> None:
    make_again(finished, _SECOND, asset, edit)
    found = run_again(finished, _SECOND, tmp_path / "scratch")
    assert states(found) == {**dict.fromkeys(STAGES, "identical"), asset: "differs"}
    (difference,) = outcome(found, asset).differences
    assert difference.file == file
    assert place in difference.place
    assert outcome(found, asset).follows_from == ()
    assert not found.identical
    assert f"it first differs in {asset}, {file}, " in found.sentence
    assert "5 of 6 artifacts are identical." in found.sentence


def test_a_fact_that_is_not_as_recorded_is_found(finished: Home, tmp_path: Path) -> None:
    make_again(finished, _SECOND, "selected_subset", lambda folder: None, kept=-1)
    (difference,) = outcome(run_again(finished, _SECOND, tmp_path), "selected_subset").differences
    assert (difference.file, difference.place, difference.recorded) == ("facts", "kept", "-1")


def test_everything_behind_another_seed_follows_from_it(
    two_rounds: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "derive_seed", lambda *parts: 1)
    found = run_again(two_rounds, _SECOND, tmp_path)
    assert states(found) == dict.fromkeys(STAGES, "differs")
    assert {o.asset: o.follows_from for o in found.outcomes} == {
        "incumbent_policy": (),
        "generated_corpus": ("incumbent_policy",),
        "selected_subset": ("incumbent_policy", "generated_corpus"),
        "checkpoint": ("incumbent_policy", "generated_corpus", "selected_subset"),
        # Of the corpus it reads the tasks, which are drawn by the seed of the campaign: they are the same.
        "refined_outputs": ("incumbent_policy", "checkpoint"),
        "eval_report": ("incumbent_policy", "checkpoint"),
    }


def test_what_was_made_from_the_same_files_does_not_follow(
    two_rounds: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only log-probabilities move: what reads tasks and weights alone differs by itself or not at all.

    The entropy of the samples is one of the dimensions of the report, which keeps those
    of the answers to the items that it watches.
    """
    from dataclasses import replace

    generate = TransformersEngine.generate

    def shifted(self: TransformersEngine, *arguments: Any, **named: Any) -> Iterator[Any]:
        for batch in generate(self, *arguments, **named):
            yield [replace(c, sum_logprob=c.sum_logprob - 2**-20) for c in batch]

    monkeypatch.setattr(TransformersEngine, "generate", shifted)
    found = run_again(two_rounds, _FIRST, tmp_path)
    assert {o.asset: o.follows_from for o in found.outcomes if o.state == "differs"} == {
        "generated_corpus": (),
        "refined_outputs": (),
        "eval_report": (),
    }
    (difference,) = outcome(found, "generated_corpus").differences
    assert difference.place.endswith("column sum_logprob")
    assert "in sum_logprob, by at most 9.5e-07" in difference.extent
    assert [d.file for d in outcome(found, "eval_report").differences] == [
        "watched.parquet",
        "dimensions.parquet",
    ]


def test_a_stage_that_cannot_be_made_again_ends_the_second_run(
    two_rounds: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise SelfimpError("no room", where="here", fix="make some")

    monkeypatch.setattr("selfimp_dagster.lineage.reproduce.train_checkpoint", refuse)
    found = run_again(two_rounds, _FIRST, tmp_path)
    assert list(states(found).values()) == [*["identical"] * 3, *["not made"] * 3]
    assert found.sentence == (
        "tiny/0000 is not reproduced: checkpoint could not be made again (here: no room). "
        "3 of 6 artifacts are identical."
    )


def test_of_a_round_half_written_what_there_is_is_reproduced(finished: Home, tmp_path: Path) -> None:
    for asset in ("selected_subset", "refined_outputs", "eval_report"):
        shutil.rmtree(finished.store.folder / str(_SECOND) / asset)
    found = run_again(finished, _SECOND, tmp_path / "scratch")
    assert found.identical
    assert found.sentence == (
        "tiny/0001 is reproduced: 3 of 3 artifacts are identical. "
        "The round has no selected_subset, refined_outputs, eval_report."
    )
    assert not ArtifactStore(tmp_path / "scratch" / "artifacts").has(_SECOND, "refined_outputs")


def test_a_checkpoint_whose_weights_were_deleted_is_compared_by_its_hashes(
    finished: Home, tmp_path: Path
) -> None:
    shutil.rmtree(finished.store.open(_SECOND, "checkpoint").folder / "model")
    found = run_again(finished, _SECOND, tmp_path / "scratch")
    assert found.identical
    assert "recorded files are gone, model/" in outcome(found, "checkpoint").note


def test_a_stage_recorded_from_an_input_that_was_made_again_is_said_to_be_stale(
    finished: Home, tmp_path: Path
) -> None:
    """As after one stage was made again in the UI with another parameter, and those behind it were not."""
    with finished.instance() as instance:
        config = {"ops": {"checkpoint": {"config": {"learning_rate": 1e-5}}}}
        assert finished.materialize(instance, str(_SECOND), "checkpoint", config=config).success
    found = run_again(finished, _SECOND, tmp_path / "scratch")
    assert list(states(found).values()) == [*["identical"] * 4, *["differs"] * 2]
    for asset in ("refined_outputs", "eval_report"):
        assert outcome(found, asset).note == "recorded from another checkpoint than the store has now"


def test_a_record_from_before_machines_were_recorded_is_read_and_reproduced(
    finished: Home, tmp_path: Path
) -> None:
    for stage in STAGES:
        path = finished.store.folder / str(_FIRST) / stage / MANIFEST
        manifest = json.loads(path.read_text())
        del manifest["config"], manifest["environment"]
        path.write_text(json.dumps(manifest))
    found = run_again(finished, _FIRST, tmp_path / "scratch")
    assert found.identical
    assert not found.conditions_recorded


def test_parameters_that_an_old_record_does_not_hold_are_said_to_be_lacking(
    finished: Home, tmp_path: Path
) -> None:
    with finished.instance() as instance:
        config = {"ops": {"checkpoint": {"config": {"epochs": 1.0}}}}
        assert finished.materialize(instance, str(_SECOND), "checkpoint", config=config).success
    for asset in ("refined_outputs", "eval_report"):
        shutil.rmtree(finished.store.folder / str(_SECOND) / asset)
    path = finished.store.folder / str(_SECOND) / "checkpoint" / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["config"]
    path.write_text(json.dumps(manifest))
    found = outcome(run_again(finished, _SECOND, tmp_path / "scratch"), "checkpoint")
    assert found.state == "differs"
    assert found.note == "it was made with parameters that are not the campaign's and not recorded"


def test_every_table_has_ids_that_name_one_row_each(two_rounds: Home) -> None:
    for stage in STAGES:
        artifact = two_rounds.store.open(_SECOND, stage)
        for name in artifact.manifest.files:
            if name.endswith(".parquet"):
                ids = ROW_IDS[Path(name).stem]
                assert not pl.read_parquet(artifact.folder / name).select(ids).is_duplicated().any(), name


def test_what_an_artifact_was_made_on_and_with_is_in_its_manifest(two_rounds: Home) -> None:
    for stage in STAGES:
        manifest = two_rounds.store.open(_SECOND, stage).manifest
        assert content_hash(manifest.config) == manifest.config_hash
        assert manifest.environment.keys() >= {"code", "python", "cpu", "torch", "polars", "reasoning-gym"}
    assert manifest.environment.keys() >= {"threads", "kernels"}


def test_conditions_that_changed_are_listed_once(finished: Home, tmp_path: Path) -> None:
    for stage in STAGES:
        path = finished.store.folder / str(_FIRST) / stage / MANIFEST
        manifest = json.loads(path.read_text())
        manifest["environment"] |= {"torch": "1.0", "abacus": "2"}
        path.write_text(json.dumps(manifest))
    found = run_again(finished, _FIRST, tmp_path / "scratch")
    assert [(c.place, c.recorded) for c in found.conditions] == [("torch", "1.0")]
    assert found.identical


def _altered_record(home: Home) -> None:
    with (home.store.open(_SECOND, "selected_subset").folder / "subset.parquet").open("ab") as file:
        file.write(b" ")


def _altered_parent(home: Home) -> None:
    with (home.store.open(_FIRST, "eval_report").folder / "report.json").open("a") as file:
        file.write(" ")


def _parent_gone(home: Home) -> None:
    shutil.rmtree(home.store.folder / str(_FIRST))


def _parent_made_again(home: Home) -> None:
    make_again(home, _FIRST, "eval_report", _score)


def _tasks_changed(home: Home) -> None:
    with (home.campaigns / "learn.jsonl").open("a") as file:
        file.write('{"question": "learn 1000", "answer": "7"}\n')


def _tasks_gone(home: Home) -> None:
    (home.campaigns / "keep.jsonl").unlink()


@pytest.mark.parametrize(
    ("damage", "where", "what"),
    [
        (_altered_record, "tiny/0001 selected_subset", "the file subset.parquet is not what was written"),
        (
            _altered_parent,
            "tiny/0000 eval_report",
            "report.json is not what was written (hash mismatch), and tiny",
        ),
        (
            _parent_gone,
            "tiny/0000 incumbent_policy",
            "no such artifact in the store, and tiny/0001 is built on it",
        ),
        (_parent_made_again, "tiny/0000 eval_report", "it was made again since tiny/0001 started from it"),
        (
            _tasks_changed,
            "tiny/0001 incumbent_policy: task_files",
            "the task file learn.jsonl is another one now",
        ),
        (_tasks_gone, "tiny/0001 incumbent_policy: task_files", "the task file keep.jsonl is gone"),
    ],
)
def test_what_a_round_cannot_be_run_again_from_is_one_clear_message(
    finished: Home, tmp_path: Path, damage: Callable[[Home], None], where: str, what: str
) -> None:
    damage(finished)
    with pytest.raises(SelfimpError) as caught:
        run_again(finished, _SECOND, tmp_path / "scratch")
    assert caught.value.where == where
    assert what in caught.value.what
    assert not (tmp_path / "scratch").exists()


def test_a_round_that_does_not_exist_is_one_clear_message(two_rounds: Home) -> None:
    result = selfimp(two_rounds.environment, "reproduce", "tiny/0007")
    assert (result.returncode, result.stderr) == (1, "")
    assert "tiny/0007: the store does not say what this round started from" in result.stdout


def test_the_command_shows_each_artifact_and_keeps_the_second_run(finished: Home, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    result = selfimp(finished.environment, "reproduce", str(_SECOND), "--keep", str(kept))
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert all(any(line.split() == [stage, "identical"] for line in lines) for stage in STAGES)
    assert lines[-1] == "tiny/0001 is reproduced: 6 of 6 artifacts are identical."
    again = ArtifactStore(kept / "artifacts")
    assert [str(key) for key in again.rounds()] == [str(_FIRST), str(_SECOND)]
    for stage in STAGES:
        assert again.open(_SECOND, stage).data_version == finished.store.open(_SECOND, stage).data_version, (
            stage
        )
    twice = selfimp(finished.environment, "reproduce", str(_SECOND), "--keep", str(kept))
    assert twice.returncode == 1
    assert f"--keep {kept}: it exists already" in twice.stdout


def test_the_command_fails_where_something_differs(finished: Home) -> None:
    make_again(finished, _SECOND, "checkpoint", _weights)
    result = selfimp(finished.environment, "reproduce", str(_SECOND))
    assert result.returncode == 1
    assert result.stderr == ""
    assert "tensor model.norm.weight, value 3" in result.stdout
    assert "tiny/0001 is not reproduced: it first differs in checkpoint" in " ".join(result.stdout.split())
