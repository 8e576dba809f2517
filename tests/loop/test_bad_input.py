"""What goes wrong says what, where and what to do, and doing that helps."""

from pathlib import Path

import dagster as dg
import pytest
from events import check_results
from home import Home, file_skill

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.report import read_report
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.round_key import RoundKey

_KEY = RoundKey("tiny", 0)


def _said(result: dg.ExecuteInProcessResult) -> tuple[str, str]:
    """The first step that failed, and what it said to the person in the UI."""
    assert not result.success
    event = next(event for event in result.all_events if event.is_step_failure)
    failure = event.step_failure_data.user_failure_data
    assert failure is not None, event.step_failure_data.error_display_string
    assert set(failure.metadata) == {"what", "where", "fix"}
    return str(event.step_key), str(failure.description)


def _refusal(home: Home, key: str = "tiny/0000") -> SelfimpError:
    with pytest.raises(SelfimpError) as caught:
        home.run(key)
    return caught.value


@pytest.mark.parametrize("key", ["tiny", "tiny/1", "tiny/../0000", "../../0000", "tiny/\u0660000"])
def test_a_partition_that_is_no_round_is_a_readable_failure(home: Home, key: str) -> None:
    with home.instance() as instance:
        step, said = _said(home.materialize(instance, key))
    assert step == "incumbent_policy"
    assert f"{key!r} is not a round" in said
    assert "write <campaign>/<four digits>" in said
    assert not home.store.folder.exists()


def test_a_round_of_no_campaign_is_a_readable_failure(home: Home) -> None:
    with home.instance() as instance:
        step, said = _said(home.materialize(instance, "nowhere/0000"))
    assert step == "incumbent_policy"
    assert "nowhere.yaml: cannot read the campaign: No such file or directory" in said


def test_a_round_whose_parent_is_not_finished_names_it(home: Home) -> None:
    with home.instance() as instance:
        step, said = _said(home.materialize(instance, "tiny/0003"))
    assert step == "incumbent_policy"
    assert "its parent round tiny/0002 has no evaluation report yet" in said
    assert "finish round tiny/0002 first" in said


@pytest.mark.parametrize(
    ("parent", "reason"),
    [
        ("tiny/0002", "tiny/0002 cannot be the parent of tiny/0002"),
        ("other/0000", "other/0000 cannot be the parent of tiny/0002"),
        ("round one", "'round one' is not a round"),
    ],
)
def test_a_branch_from_what_is_no_earlier_round_is_refused(finished: Home, parent: str, reason: str) -> None:
    config = {"ops": {"incumbent_policy": {"config": {"parent": parent}}}}
    with finished.instance() as instance:
        _, said = _said(finished.materialize(instance, "tiny/0002", "incumbent_policy", config=config))
    assert reason in said


def test_a_stage_without_the_one_before_it_names_it(home: Home) -> None:
    with home.instance() as instance:
        assert home.materialize(instance, str(_KEY), "incumbent_policy").success
        _, said = _said(home.materialize(instance, str(_KEY), "selected_subset"))
    assert "there is no such artifact in the store" in said
    assert "materialize generated_corpus of tiny/0000 first" in said


def test_an_altered_checkpoint_is_refused_and_making_it_again_mends_it(finished: Home) -> None:
    checkpoint = finished.store.open(_KEY, "checkpoint")
    weights = checkpoint.folder / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with finished.instance() as instance:
        _, said = _said(finished.materialize(instance, "tiny/0002", "incumbent_policy", "generated_corpus"))
        assert "the file model/model.safetensors is not what was written (hash mismatch)" in said
        assert "materialize checkpoint of tiny/0000 again" in said
        assert finished.materialize(instance, "tiny/0000", "checkpoint").success
        assert finished.store.open(_KEY, "checkpoint").data_version == checkpoint.data_version
        assert finished.materialize(instance, "tiny/0002", "incumbent_policy", "generated_corpus").success


def test_an_empty_selection_stops_the_round_and_mending_the_campaign_lets_it_finish(home: Home) -> None:
    never = [f'{{"question": "learn {number}", "answer": "8"}}\n' for number in range(100, 1000)]
    home.write_campaign(skills={"learning": file_skill("never.jsonl")})
    (home.campaigns / "never.jsonl").write_text("".join(never))
    error = _refusal(home)
    assert error.where == "tiny/0000 selected_subset: check enough_rows"
    assert "the selection kept 0 rows, training needs 8" in error.what
    with home.instance() as instance:
        assert check_results(instance, "selected_subset", str(_KEY))["enough_rows"] is False
    assert not home.store.has(_KEY, "checkpoint")

    home.write_campaign()
    home.run(str(_KEY))
    policy, _ = read_policy(home.store, _KEY)
    assert policy.campaign.skills["learning"].path == "learn.jsonl"
    assert read_report(home.store, _KEY).verdict.promoted
    with home.instance() as instance:
        assert check_results(instance, "selected_subset", str(_KEY))["enough_rows"] is True


def test_a_model_folder_that_is_none_says_what_is_missing(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    home.write_campaign(model=str(folder))
    error = _refusal(home)
    assert error.where == str(folder)
    assert error.what.startswith(
        "this is not a complete model; missing: config.json; *.safetensors; a tokenizer"
    )


def test_pickled_weights_are_refused(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in home.model.iterdir():
        name = "pytorch_model.bin" if file.suffix == ".safetensors" else file.name
        (folder / name).write_bytes(file.read_bytes())
    home.write_campaign(model=str(folder))
    assert "pickled weights, *.bin and *.pt, are refused" in _refusal(home).what


def test_a_model_that_does_not_exist_is_refused(home: Home, tmp_path: Path) -> None:
    home.write_campaign(model=str(tmp_path / "nowhere"))
    error = _refusal(home)
    assert "neither an embedded model, nor an existing folder, nor a hub model" in error.what


def test_a_round_beside_another_of_its_campaign_is_refused(home: Home) -> None:
    with home.instance() as instance:
        run = instance.create_run_for_job(
            home.definitions.resolve_job_def("round_job"),
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": str(_KEY)},
        )
    error = _refusal(home)
    assert error.what == f"a round is in flight already, in run {run.run_id[:8]}"
    assert error.where == "campaign tiny"
