"""Twins of anchor items in a real round, and rows that could not be used."""

import json

import polars as pl
import pytest
from events import check_results, materialization
from home import Home, file_skill

from selfimp_dagster.lifecycle.evaluation.items import items_until
from selfimp_dagster.lifecycle.evaluation.report import read_dimensions
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.lineage.views import connect
from selfimp_dagster.records import EVALUATIONS, SAMPLES, TASKS, TWINS
from selfimp_dagster.round_key import RoundKey

_FIRST = RoundKey("tiny", 0)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, tiny_model: object) -> Home:
    """A finished round in which some items are about persons, who can be renamed."""
    home = Home(tmp_path_factory.mktemp("twins") / "installation", tiny_model)  # type: ignore[arg-type]
    home.write_campaign(
        skills={"persons": {**file_skill("persons.jsonl"), "weight": 0.5}}, evaluation={"twins": 10}
    )
    rows = [{"question": f"learn Emily {number}", "answer": "7"} for number in range(300)]
    broken = [{"question": "learn Emily"}, {"answer": "7"}]
    (home.campaigns / "persons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *broken]))
    home.run(str(_FIRST))
    return home


def test_both_arms_are_asked_the_same_twins_beside_the_items(asked: Home) -> None:
    report = asked.store.open(_FIRST, "eval_report")
    twins, answers = report.table("twins", TWINS), report.table("evaluations", EVALUATIONS)
    assert twins.group_by("arm", "transformation", "skill").len().sort("arm").rows() == [
        ("candidate", "renamed", "persons", 10),
        ("incumbent", "renamed", "persons", 10),
    ]
    assert twins["twin_id"].n_unique() == 10
    assert set(twins["answer"]) == {"7"}
    anchor = answers.filter(pl.col("suite") == "anchor")
    same = twins.join(
        anchor,
        left_on=["item_id", "arm", "item_response", "item_score"],
        right_on=["item_id", "arm", "response", "score"],
    )
    assert same.height == 20
    assert set(twins["twin_id"]).isdisjoint(answers["item_id"]), "they are no items of the test"
    assert report.facts["twins"] == {"renamed": 10}


def test_twins_are_evaluation_items_to_decontamination_and_never_sampled_for_training(asked: Home) -> None:
    policy, _ = read_policy(asked.store, _FIRST)
    twins = asked.store.open(_FIRST, "eval_report").table("twins", TWINS)
    until = items_until(policy.campaign, 0, asked.campaigns)
    assert set(twins["prompt"]) == set(until.filter(pl.col("pool") == "twin")["prompt"])
    for asset in ("generated_corpus", "refined_outputs"):
        artifact = asked.store.open(_FIRST, asset)
        assert set(twins["prompt"]).isdisjoint(artifact.table("tasks", TASKS)["prompt"])
        assert set(twins["twin_id"]).isdisjoint(artifact.table("samples", SAMPLES)["task_id"])


def test_the_gap_is_measured_and_shown(asked: Home) -> None:
    twins = asked.store.open(_FIRST, "eval_report").table("twins", TWINS)
    rows = read_dimensions(asked.store, _FIRST).filter(pl.col("measure") == "memorisation_gap")
    for arm, value, n in rows.select("arm", "value", "n").iter_rows():
        own = twins.filter(pl.col("arm") == arm)
        assert value == pytest.approx((own["item_score"] - own["score"]).mean())
        assert n == 10
    assert rows.height == 2
    counted = "SELECT in_round, count(*) FROM twins WHERE transformation = 'renamed' GROUP BY ALL"
    assert connect(asked.store).execute(counted).fetchall() == [("tiny/0000", 20)]
    with asked.instance() as instance:
        metadata = materialization(instance, "eval_report", str(_FIRST)).metadata
        assert check_results(instance, "eval_report", str(_FIRST))["report_complete"]
    assert len(metadata["twins"].records) == 10
    assert {record.data["transformation"] for record in metadata["twins"].records} == {"renamed"}
    where = {"skill": "persons", "what": "rows of persons.jsonl", "count": 1}
    assert [record.data for record in metadata["left_out"].records] == [
        {**where, "reason": "no answer"},
        {**where, "reason": "no prompt"},
    ]
