"""The dimensions of real rounds: in the store, in SQL, in the UI and on the command line."""

import json

import polars as pl
import pytest
from events import check_results, materialization
from home import Home
from rich.console import Console
from typer.testing import CliRunner

from selfimp_dagster import console
from selfimp_dagster.cli import app
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.dimensions import MEASURES
from selfimp_dagster.lifecycle.evaluation.monitors.reading import MONITORS
from selfimp_dagster.lifecycle.evaluation.monitors.sharing import sharing
from selfimp_dagster.lifecycle.evaluation.report import (
    dimensions_of,
    read_dimensions,
    read_monitors,
    read_report,
)
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.lifecycle.policy import read_policy, start_round
from selfimp_dagster.lifecycle.selection.stage import SUBSET, selected_rows
from selfimp_dagster.lineage.views import connect
from selfimp_dagster.records import DIMENSIONS, EVALUATIONS, REWORDINGS, SAMPLES
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import MANIFEST
from selfimp_dagster.tasks import verifiers
from selfimp_dagster.tasks.verifiers import Judgement

_FIRST, _SECOND = RoundKey("tiny", 0), RoundKey("tiny", 1)


def forget_dimensions(home: Home, key: RoundKey) -> None:
    """Makes the report of a round one of a version that did not measure dimensions."""
    path = home.store.folder / key.campaign / f"{key.number:04d}" / "eval_report" / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest["files"]["dimensions.parquet"]
    (path.parent / manifest["folder"] / "dimensions.parquet").unlink()
    path.write_text(json.dumps(manifest))


def test_every_round_has_all_four_dimensions_with_sane_intervals(two_rounds: Home) -> None:
    measured = set()
    for key in (_FIRST, _SECOND):
        rows = read_dimensions(two_rounds.store, key)
        assert dict(rows.schema) == dict(DIMENSIONS)
        assert set(rows["dimension"]) == {"accuracy", "stability", "growth", "safety"}
        bounded = rows.filter(pl.col("low").is_not_null())
        assert bounded.filter(~pl.col("value").is_between("low", "high")).is_empty()
        assert (rows["n"] > 0).all()
        measured |= set(rows["measure"])
    elsewhere = {name for name in MEASURES if name.startswith(("environment_", "judge_"))}  # it has none
    untold = {"distinct_2", "memorisation_gap"}  # answers are of one word, items cannot be transformed
    assert measured >= set(MEASURES) - elsewhere - untold


def test_dimensions_agree_with_the_report(two_rounds: Home) -> None:
    report = read_report(two_rounds.store, _FIRST)
    rows = read_dimensions(two_rounds.store, _FIRST)
    values = {
        (measure, arm): value for measure, arm, value in rows.select("measure", "arm", "value").iter_rows()
    }
    for suite in ("anchor", "fresh"):
        for arm in ("incumbent", "candidate"):
            assert values[f"{suite}_accuracy", arm] == pytest.approx(report.score(suite, arm).accuracy)
    assert values["gain", "candidate"] == pytest.approx(report.verdict.gain)
    assert values["gain_per_million_tokens", "candidate"] == pytest.approx(
        report.verdict.gain / report.summary.tokens * 1e6
    )
    assert values["verifier_precision", "candidate"] == values["verifier_recall", "candidate"] == 1.0


def test_a_first_round_has_no_change_of_votes_and_the_second_has(two_rounds: Home) -> None:
    changes = {"pass_at_1_change", "pass_at_k_change", "sharpening_only"}
    assert not changes & set(read_dimensions(two_rounds.store, _FIRST)["measure"])
    assert changes <= set(read_dimensions(two_rounds.store, _SECOND)["measure"])


def test_what_hangs_on_seconds_is_no_part_of_the_artifacts_content(two_rounds: Home) -> None:
    stored = two_rounds.store.open(_FIRST, "eval_report").table("dimensions", DIMENSIONS)
    read = read_dimensions(two_rounds.store, _FIRST)
    assert set(read["measure"]) - set(stored["measure"]) == {
        "gain_per_1000_seconds",
        "gain_per_million_tokens",
        "tokens_per_kept_sample",
    }


def test_dimensions_are_a_view(two_rounds: Home) -> None:
    query = "SELECT in_round, arm, value FROM dimensions WHERE measure = 'anchor_accuracy' ORDER BY ALL"
    rows = connect(two_rounds.store).execute(query).fetchall()
    assert [row[:2] for row in rows] == [
        ("tiny/0000", "candidate"),
        ("tiny/0000", "incumbent"),
        ("tiny/0001", "candidate"),
        ("tiny/0001", "incumbent"),
    ]


def test_the_report_shows_them_and_the_check_looks_at_them(two_rounds: Home) -> None:
    with two_rounds.instance() as instance:
        metadata = materialization(instance, "eval_report", str(_SECOND)).metadata
        assert len(metadata["dimensions"].records) == read_dimensions(two_rounds.store, _SECOND).height
        assert metadata["dimensions_over_rounds"].value.startswith("![the four dimensions](data:image/png")
        assert check_results(instance, "eval_report", str(_FIRST))["dimensions_hold"]
        ledger = materialization(instance, "round_ledger", None).metadata
        assert ledger["dimensions_of_tiny"].value.startswith("![the four dimensions of tiny](data:image/png")


def test_status_shows_the_newest_round(two_rounds: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in two_rounds.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(console, "console", Console(width=160))
    output = CliRunner().invoke(app, ["status", "tiny"]).output
    assert "Dimensions of tiny/0001 (95 % interval)" in output
    assert "Dimensions of tiny/0000" not in output
    for measure in ("anchor_accuracy", "worst_skill_change", "gain_per_1000_seconds", "verifier_recall"):
        assert measure in output


def test_a_report_from_before_dimensions_is_readable_and_says_what_to_do(
    finished: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_dimensions(finished, _FIRST)
    assert read_report(finished.store, _FIRST).verdict.promoted
    with pytest.raises(SelfimpError, match="before dimensions were measured") as error:
        read_dimensions(finished.store, _FIRST)
    assert error.value.fix == "materialize eval_report of tiny/0000 again"
    assert set(dimensions_of(finished.store, [_FIRST, _SECOND])["round"]) == {str(_SECOND)}
    counted = connect(finished.store).execute("SELECT count(DISTINCT in_round) FROM dimensions").fetchall()
    assert counted == [(1,)]
    forget_dimensions(finished, _SECOND)
    for name, value in finished.environment.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["status", "tiny"])
    assert result.exit_code == 0
    assert "Dimensions of" not in result.output
    with finished.instance() as instance:
        assert finished.materialize(instance, str(_SECOND), "eval_report").success
    assert not read_dimensions(finished.store, _SECOND).is_empty()


def test_a_round_whose_verifier_was_tampered_with_is_quarantined(
    finished: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        verifiers, "_judge_by_equality", lambda task, response: Judgement(1.0, response, "equal")
    )
    with finished.instance() as instance:
        assert finished.materialize(instance, str(_SECOND), "eval_report").success
        results = check_results(instance, "eval_report", str(_SECOND))
    verdict = read_report(finished.store, _SECOND).verdict
    assert not verdict.promoted
    assert verdict.raised == ("verifier_errors", "tampering")
    (alarm,) = verdict.alarms
    assert alarm.startswith("verifier_errors: The verifier accepted 64 of 64 right answers and 64 of 64 corr")
    readings = {reading.monitor: reading for reading in read_monitors(finished.store, _SECOND)}
    assert list(readings) == list(MONITORS)
    assert "nonsense counts as a right answer to 16 items" in readings["tampering"].sentence
    assert "stored verdicts are not given again" in readings["tampering"].sentence
    assert readings["memorisation"].state == "not measured"
    assert (results["no_alarm"], results["dimensions_hold"]) == (False, False)
    rows = read_dimensions(finished.store, _SECOND)
    assert rows.filter(pl.col("measure") == "verifier_precision")["value"].item() == 0.5
    assert rows.filter(pl.col("measure") == "alarms")["value"].item() == 2
    assert read_ledger(finished.store)["alarms"].to_list() == ["", "verifier_errors, tampering"]
    kept = selected_rows(finished.store, [_FIRST, _SECOND])
    assert set(kept["sample_id"]) == set(selected_rows(finished.store, [_FIRST])["sample_id"])
    with pytest.raises(
        SelfimpError, match=r"going on after the halt of tiny/0001 \(tampering: The evaluator"
    ):
        start_round(finished.bench, RoundKey("tiny", 2))
    for name, value in {**finished.environment, "COLUMNS": "250"}.items():
        monkeypatch.setenv(name, value)
    shown = " ".join(CliRunner().invoke(app, ["status", "tiny"]).output.split())  # cells are wrapped
    assert "Monitors of tiny/0001" in shown
    assert "What follows: quarantine. What to do: find out who changed what" in shown
    asked = ["approve", "tiny/0001", "--who", "Ann", "--reason", "it was a test"]
    assert CliRunner().invoke(app, asked).exit_code == 0
    start_round(finished.bench, RoundKey("tiny", 2))


def test_only_monitors_that_share_the_error_of_a_round_spend_it(two_rounds: Home) -> None:
    for key in (_FIRST, _SECOND):
        campaign = read_policy(two_rounds.store, key)[0].campaign
        shares = sharing(campaign)
        level = campaign.monitors.level_of_round(campaign.continuation.rounds, key.number, len(shares))
        spent = {reading.monitor: reading.level for reading in read_monitors(two_rounds.store, key)}
        bet = spent.pop("harmful_refinement")
        assert bet in (None, campaign.monitors.level_of_bet)
        tested = {monitor: level for monitor, level in spent.items() if level is not None}
        assert set(tested) <= set(shares)
        assert set(tested.values()) == {level}


def test_items_are_asked_in_other_words_and_the_answers_kept_apart(two_rounds: Home) -> None:
    for key in (_FIRST, _SECOND):
        report = two_rounds.store.open(key, "eval_report")
        rewordings = report.table("rewordings", REWORDINGS)
        anchor = report.table("evaluations", EVALUATIONS).filter(pl.col("suite") == "anchor")
        assert set(rewordings["wording"]) == {"plain", "courteous", "question"}  # it has no instruction
        assert rewordings.group_by("arm", "wording").len()["len"].to_list() == [24] * 6
        assert set(rewordings["item_id"]) <= set(anchor["item_id"])
        plain = rewordings.filter(pl.col("wording") == "plain")
        same = plain.join(anchor, on=["arm", "item_id", "response", "score"], how="semi")
        assert same.height == plain.height == 48
        trained = two_rounds.store.open(key, "selected_subset").table("subset", SUBSET)
        sampled = two_rounds.store.open(key, "generated_corpus").table("samples", SAMPLES)
        for table in (trained, sampled):
            assert set(table["task_id"]).isdisjoint(rewordings["item_id"])
        assert read_report(two_rounds.store, key).verdict.n == 100, "they are no items of the test"


def test_rewordings_of_the_same_weights_are_not_asked_again(two_rounds: Home) -> None:
    first, second = (
        two_rounds.store.open(key, "eval_report").table("rewordings", REWORDINGS) for key in (_FIRST, _SECOND)
    )
    assert not first["reused"].any()
    again = second.filter((pl.col("arm") == "incumbent") & (pl.col("wording") != "plain"))
    assert again["reused"].all()
    known = first.filter(pl.col("arm") == "candidate").select("item_id", "wording", "response")
    assert again.join(known, on=["item_id", "wording", "response"], how="semi").height == again.height
    assert not second.filter(pl.col("arm") == "candidate")["reused"].any()


def test_rewordings_can_be_switched_off(home: Home) -> None:
    home.write_campaign(evaluation={"rewordings": 0})
    home.run(str(_FIRST))
    assert home.store.open(_FIRST, "eval_report").table("rewordings", REWORDINGS).is_empty()
    assert "rewording_consistency" not in set(read_dimensions(home.store, _FIRST)["measure"])
