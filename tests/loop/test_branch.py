"""Branches with another recipe: begun from the command line and from the launchpad, kept by their line."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from events import materialization, observations
from home import GENTLE, RUINOUS, Home, selfimp
from typer.testing import CliRunner

from selfimp_dagster.cli import app
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.comparison import compare
from selfimp_dagster.lifecycle.ledger import read_ledger, read_line
from selfimp_dagster.lifecycle.next_round import next_round
from selfimp_dagster.lifecycle.policy import Policy, child_rounds, read_policy
from selfimp_dagster.records import SAMPLES, TASKS, TRAINING_CURVE
from selfimp_dagster.round_key import RoundKey

_FIRST, _SECOND, _BRANCH = (RoundKey("tiny", number) for number in range(3))
_SET = ("--set", f"optimization.learning_rate={RUINOUS}", "--set", "acquisition.samples_per_task=2")
_CHANGES = {"optimization": {"learning_rate": RUINOUS}, "acquisition": {"samples_per_task": 2}}


@pytest.fixture(scope="module")
def branched(tmp_path_factory: pytest.TempPathFactory, two_rounds: Home) -> Home:
    """Two rounds, and beside the second a ruinous one from the command line: to read, not to change."""
    home = two_rounds.copy_to(tmp_path_factory.mktemp("branched") / "installation")
    ran = selfimp(home.environment, "run", "tiny", "--parent", str(_FIRST), *_SET)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return home


@pytest.fixture
def home_to_change(branched: Home, tmp_path: Path) -> Home:
    return branched.copy_to(tmp_path / "copy")


def _begin(home: Home, key: str, **config: Any) -> Policy:
    """Starts a round as the launchpad does, and no more of it."""
    with home.instance() as instance:
        asked = {"ops": {"incumbent_policy": {"config": config}}}
        assert home.materialize(instance, key, "incumbent_policy", config=asked).success
    return read_policy(home.store, RoundKey.parse(key))[0]


def test_a_branch_follows_its_own_recipe_and_the_campaign_in_all_else(branched: Home) -> None:
    policy, artifact = read_policy(branched.store, _BRANCH)
    beside, _ = read_policy(branched.store, _SECOND)
    assert (policy.parent, policy.weights_round) == (str(_FIRST), str(_FIRST))
    assert policy.recipe_changes == artifact.facts["recipe_changes"] == _CHANGES
    assert policy.campaign == beside.campaign.with_recipe(_CHANGES, where="here")
    samples = branched.store.open(_BRANCH, "generated_corpus").table("samples", SAMPLES)
    drawn = samples.filter(pl.col("round") == str(_BRANCH)).group_by("task_id").len()
    assert drawn["len"].unique().to_list() == [2]
    curves = {
        key: branched.store.open(key, "checkpoint").table("training_curve", TRAINING_CURVE)
        for key in (_SECOND, _BRANCH)
    }
    assert curves[_SECOND]["learning_rate"].max() == pytest.approx(GENTLE, rel=0.1)
    assert curves[_BRANCH]["learning_rate"].max() == pytest.approx(RUINOUS, rel=0.1)


def test_branches_answer_the_same_anchor_and_guard_items(branched: Home) -> None:
    items = [branched.store.open(key, "eval_report").table("items", TASKS) for key in (_SECOND, _BRANCH)]
    for pool in ("anchor", "guard"):
        ids = [set(table.filter(pl.col("pool") == pool)["task_id"]) for table in items]
        assert ids[0] == ids[1] != set()


def test_the_ledger_tells_branch_changes_and_champion(branched: Home) -> None:
    ledger = read_ledger(branched.store)
    assert ledger["parent"].to_list() == [None, str(_FIRST), str(_FIRST)]
    assert [json.loads(changes) for changes in ledger["recipe_changes"]] == [{}, {}, _CHANGES]
    assert ledger["promoted"].to_list()[::2] == [True, False]
    in_force = [row["round"] for row in ledger.iter_rows(named=True) if row["champion"]]
    assert in_force == [str(_SECOND) if ledger["promoted"][1] else str(_FIRST)]
    assert ledger.equals(pl.read_parquet(branched.store.folder / "ledger.parquet"))
    line = read_line(branched.store, _BRANCH)
    assert line["round"].to_list() == [str(_FIRST), str(_BRANCH)]
    assert line["champion"].to_list() == [True, False]


def test_the_ledgers_page_shows_tree_changes_and_sentences(branched: Home) -> None:
    with branched.instance() as instance:
        metadata = materialization(instance, "round_ledger", None).metadata
    for name in ("round_tree", "accuracy_over_rounds", "cost_over_rounds"):
        assert metadata[name].value.startswith("![")
    rows = {record.data["round"]: record.data for record in metadata["rounds"].records}
    assert rows[str(_BRANCH)]["parent"] == str(_FIRST)
    assert rows[str(_BRANCH)]["changed in the recipe"] == (
        f"acquisition.samples_per_task=2, optimization.learning_rate={RUINOUS}"
    )
    assert rows[str(_BRANCH)]["status"] == "rejected"
    told = {record.data["round"]: record.data for record in metadata["verdicts"].records}
    assert told[str(_BRANCH)]["directives"] == "None."
    assert told[str(_BRANCH)]["verdict"].startswith("Rejected: ")


def test_every_stage_of_a_branch_links_to_its_parent_and_the_parent_to_all_its_children(
    branched: Home,
) -> None:
    parent = "?view=partitions&partition=tiny%2F0000"
    children = {
        f"child_round_{number}": f"/assets/incumbent_policy?view=partitions&partition=tiny%2F{number}"
        for number in ("0001", "0002")
    }
    assert child_rounds(branched.store, _FIRST) == [_SECOND, _BRANCH]
    stages = ("incumbent_policy", "generated_corpus", "selected_subset", "checkpoint", "refined_outputs")
    with branched.instance() as instance:
        for stage in (*stages, "eval_report"):
            metadata = materialization(instance, stage, str(_BRANCH)).metadata
            assert metadata["parent_round"].value == f"/assets/eval_report{parent}"
            assert metadata["parent_checkpoint"].value == f"/assets/checkpoint{parent}"
            assert metadata["weights"].value == f"/assets/checkpoint{parent}"
            others = {name for name in metadata if name.startswith("stage_")}
            assert others == {f"stage_{other}" for other in (*stages, "eval_report") if other != stage}
        for stage in ("checkpoint", "eval_report"):
            assert children in observations(instance, stage, str(_FIRST))


def test_the_next_round_goes_on_with_the_branch_and_keeps_its_changes(home_to_change: Home) -> None:
    following = next_round(home_to_change.store, home_to_change.campaigns, "tiny")
    assert str(following.key) == "tiny/0003"
    policy = _begin(home_to_change, "tiny/0003")
    assert policy.parent == str(_BRANCH)
    assert policy.recipe_changes == _CHANGES
    assert policy.campaign.recipe.optimization.parameters["learning_rate"] == RUINOUS


def test_the_old_line_goes_on_with_the_old_recipe_when_it_is_named(home_to_change: Home) -> None:
    policy = _begin(home_to_change, "tiny/0003", parent=str(_SECOND))
    assert policy.recipe_changes == {}
    assert policy.campaign == read_policy(home_to_change.store, _SECOND)[0].campaign


def test_a_branch_of_a_branch_adds_to_its_changes(home_to_change: Home) -> None:
    policy = _begin(home_to_change, "tiny/0003", recipe={"optimization": {"epochs": 1}})
    assert policy.recipe_changes == {
        "optimization": {"learning_rate": RUINOUS, "epochs": 1},
        "acquisition": {"samples_per_task": 2},
    }
    with home_to_change.instance() as instance:
        told = materialization(instance, "incumbent_policy", "tiny/0003").metadata["recipe_changes"].value
    assert told == (
        f"acquisition.samples_per_task=2, optimization.epochs=1, optimization.learning_rate={RUINOUS}"
    )


def test_changes_stay_when_the_campaign_file_is_edited(home_to_change: Home) -> None:
    home_to_change.write_campaign(recipe={"optimization": {"epochs": 2}})
    parameters = _begin(home_to_change, "tiny/0003").campaign.recipe.optimization.parameters
    assert (parameters["learning_rate"], parameters["epochs"]) == (RUINOUS, 2)


def test_a_round_that_was_interrupted_goes_on_with_the_recipe_it_was_begun_with(
    home_to_change: Home,
) -> None:
    _begin(home_to_change, "tiny/0003", parent=str(_SECOND), recipe={"optimization": {"epochs": 1}})
    before = home_to_change.store.open(RoundKey("tiny", 3), "incumbent_policy").data_version
    home_to_change.run("tiny/0003")
    policy, artifact = read_policy(home_to_change.store, RoundKey("tiny", 3))
    assert policy.recipe_changes == {"optimization": {"epochs": 1}}
    assert artifact.data_version == before
    with home_to_change.instance() as instance:
        events = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey("incumbent_policy"), asset_partitions=["tiny/0003"]),
            limit=5,
        ).records
    assert len(events) == 1, "it was not begun again"


def test_a_round_that_is_asked_for_with_another_recipe_starts_anew(home_to_change: Home) -> None:
    with pytest.raises(SelfimpError, match="training needs 5000"):
        home_to_change.run(str(_BRANCH), parent=str(_FIRST), recipe={"minimum_rows": 5000})
    assert read_policy(home_to_change.store, _BRANCH)[0].recipe_changes == {"minimum_rows": 5000}


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("optimization", "not a field and its value"),
        ("=1", "not a field and its value"),
        ("optimization.=1", "not a field and its value"),
        ("optimization.epochs={", "'{' is not a value of YAML"),
    ],
)
def test_a_setting_that_is_none_is_one_clear_message(branched: Home, setting: str, what: str) -> None:
    error = CliRunner(env=branched.environment).invoke(app, ["run", "tiny", "--set", setting]).exception
    assert isinstance(error, SelfimpError)
    assert (error.where, error.what) == (f"--set {setting}", what)


def test_a_wrong_change_is_one_clear_message_before_anything_runs(branched: Home) -> None:
    ran = selfimp(branched.environment, "run", "tiny", "--set", "optimization.learning_rat=1")
    assert ran.returncode == 1
    assert "tiny/0003 incumbent_policy: recipe: optimization: learning_rat: Extra inputs" in ran.stdout
    assert "Traceback" not in ran.stdout + ran.stderr
    with pytest.raises(SelfimpError, match=r"recipe\.pools: Extra inputs are not permitted"):
        branched.run("tiny/0003", recipe={"pools": {"anchor": 5}})
    assert not branched.store.has(RoundKey("tiny", 3), "incumbent_policy")
    with branched.instance() as instance:
        assert "tiny/0003" not in instance.get_dynamic_partitions("rounds")


def test_a_wrong_change_in_the_launchpad_is_a_readable_failure(home_to_change: Home) -> None:
    with home_to_change.instance() as instance:
        asked = {"ops": {"incumbent_policy": {"config": {"recipe": {"optimization": {"speed": 1}}}}}}
        ran = home_to_change.materialize(instance, "tiny/0003", "incumbent_policy", config=asked)
    (failed,) = (event for event in ran.all_events if event.is_step_failure)
    assert "optimization: speed: Extra inputs are not permitted" in str(
        failed.step_failure_data.user_failure_data.description
    )


def test_branches_are_compared_recipe_first(branched: Home) -> None:
    found = compare(branched.store, _SECOND, _BRANCH)
    assert found.lineage_sentence == f"{_SECOND} and {_BRANCH} part after {_FIRST}."
    assert found.recipe_sentence == (
        f"{_BRANCH} followed another recipe than {_SECOND}: acquisition.samples_per_task 2 instead of 4, "
        f"optimization.learning_rate {RUINOUS} instead of {GENTLE}."
    )
    assert {difference.field for difference in found.made} <= {"seed", "policy_hash", "weights_round"}
    told = selfimp(branched.environment, "compare", str(_SECOND), str(_BRANCH))
    shown = " ".join(told.stdout.split())
    assert shown.startswith(found.lineage_sentence)
    assert found.sentence in shown
    assert "recipe.optimization.learning_rate" in shown


def test_a_policy_from_before_branches_could_change_the_recipe_is_still_read(two_rounds: Home) -> None:
    policy, artifact = read_policy(two_rounds.store, _FIRST)
    written = artifact.json("policy")
    del written["recipe_changes"]
    assert Policy.model_validate(written) == policy
