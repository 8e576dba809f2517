"""Rounds that wait for people, and people who pause and kill: the real job, sensors and command line."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.utils import make_new_run_id
from events import check_results, observations
from home import GENTLE, Home, file_skill

from selfimp_dagster.automation.next_round_sensor import next_round_sensor
from selfimp_dagster.automation.nightly_round import nightly_round
from selfimp_dagster.automation.oversight_sensor import oversight_sensor
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.history import read_history
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.lifecycle.next_round import next_round
from selfimp_dagster.lifecycle.oversight import Entry, open_questions, read_log, record
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.lineage.views import connect
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.partitions import ROUNDS
from selfimp_dagster.records import SAMPLES, content_hash
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore
from selfimp_dagster.tasks.pools import side_of

_FIRST, _SECOND = RoundKey("tiny", 0), RoundKey("tiny", 1)


@pytest.fixture(scope="module")
def _alarmed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    """A round with a hard alarm, after which a person has to be asked: to copy."""
    home = Home(tmp_path_factory.mktemp("alarmed") / "installation", tiny_model)
    home.write_campaign(skills={"learning": file_skill("leaky.jsonl")}, approval={"before": ["alarm"]})
    rows = [f"learn {number}" for number in range(100, 1000)]
    (home.campaigns / "leaky.jsonl").write_text(
        "".join(
            json.dumps({"question": row, "answer": "8" if side_of(row, 0.4) == "fresh" else "7"}) + "\n"
            for row in rows
        )
    )
    home.run(str(_FIRST))
    return home


@pytest.fixture
def alarmed(_alarmed: Home, tmp_path: Path) -> Home:
    """A round with a hard alarm, in a copy of its own."""
    return _alarmed.copy_to(tmp_path / "alarmed")


def _decide(home: Home, action: str, round_: RoundKey | None = None, reason: str = "because") -> Entry:
    return record(home.store, home.campaigns, action, "tiny", round_=round_, who="Ann", reason=reason)


def _tick(
    home: Home, instance: dg.DagsterInstance, cursor: str | None = None, sensor: Any = oversight_sensor
) -> dg.SensorResult:
    with dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        resources={"workbench": home.workbench},
        definitions=home.definitions,
    ) as context:
        result = sensor(context)
    assert isinstance(result, dg.SensorResult)
    return result


def _asked(result: dg.SensorResult) -> list[str]:
    return [str(request.partition_key) for request in result.run_requests or ()]


def _reason(result: dg.SensorResult) -> str:
    assert not result.run_requests
    assert result.skip_reason is not None
    return result.skip_reason.skip_message or ""


def _launch(home: Home, instance: dg.DagsterInstance, result: dg.SensorResult) -> dg.ExecuteInProcessResult:
    """Runs what a sensor asked for, as the daemon does."""
    (request,) = result.run_requests or ()
    instance.add_dynamic_partitions(ROUNDS, [str(request.partition_key)])
    return home.definitions.resolve_job_def("round_job").execute_in_process(
        run_config={**request.run_config, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        instance=instance,
        partition_key=request.partition_key,
        raise_on_error=False,
        asset_selection=list(request.asset_selection) if request.asset_selection else None,
        tags=dict(request.tags),
    )


def _selfimp(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "selfimp_dagster.cli", *arguments],
        env={**os.environ, **home.environment, "COLUMNS": "300", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


# Promotion


def test_a_promotion_that_waits_is_in_force_nowhere(waiting: Home) -> None:
    following = next_round(waiting.store, waiting.campaigns, "tiny")
    assert (following.key, following.decision.proceed) == (_SECOND, False)
    assert following.decision.reason.startswith(
        "Waits for a person to approve or refuse the promotion of tiny/0000 (Promoted: "
    )
    assert "`selfimp approve tiny/0000 --who NAME --reason TEXT`" in following.decision.reason
    row = read_ledger(waiting.store).row(0, named=True)
    assert (row["status"], row["promoted"]) == ("waiting", False)
    assert row["decision"] == following.decision.reason
    told = connect(waiting.store).execute("SELECT promoted FROM rounds").fetchall()
    assert told == [(False,)]
    (summary,) = read_history(waiting.store, [_FIRST])
    assert (summary.promoted, summary.accuracy["anchor"]) == (False, row["incumbent_anchor"])
    with waiting.instance() as instance:
        assert check_results(instance, "eval_report", str(_FIRST))["promoted"] is False
        assert "Waits for a person" in _reason(_tick(waiting, instance, sensor=next_round_sensor))
        assert _reason(_tick(waiting, instance)) == "No new intervention."
        result = waiting.materialize(instance, str(_SECOND), "incumbent_policy")
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert "Waits for a person" in str(failure.user_failure_data.description)
    assert not waiting.store.has(_SECOND, "incumbent_policy")
    stopped = _selfimp(waiting, "run", "tiny")
    assert stopped.returncode == 0, stopped.stderr
    assert "Waits for a person to approve or refuse the promotion of tiny/0000" in stopped.stdout
    assert "waiting" in _selfimp(waiting, "status").stdout


def test_an_approved_promotion_starts_the_next_round_once_from_the_candidate(waiting: Home) -> None:
    done = _selfimp(waiting, "approve", "tiny/0000", "--who", "Ann", "--reason", "[good] gain")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ann approved the promotion of tiny/0000 on " in done.stdout
    (entry,) = read_log(waiting.store, "tiny")
    assert entry.evidence is not None
    assert entry.evidence.version == waiting.store.open(_FIRST, "eval_report").data_version
    asked = "SELECT status, rounds.promoted FROM ledger JOIN rounds USING (round)"
    assert connect(waiting.store).execute(asked).fetchall() == [("promoted", True)]
    with waiting.instance() as instance:
        (seen,) = observations(instance, "eval_report", str(_FIRST))
        assert (seen["who"], seen["reason"], seen["hash"]) == ("Ann", "[good] gain", entry.hash)
        assert check_results(instance, "eval_report", str(_FIRST))["promoted"] is True
        first = _tick(waiting, instance)
        assert _asked(first) == ["tiny/0001"]
        assert [request.run_key for request in first.run_requests or ()] == [entry.hash]
        assert _reason(_tick(waiting, instance, first.cursor)) == "No new intervention."
        assert _launch(waiting, instance, first).success
        assert "it is not the newest round" in _reason(_tick(waiting, instance)), "the cursor was lost"
        assert "tiny/0001" not in _asked(_tick(waiting, instance, sensor=next_round_sensor))
    policy, _ = read_policy(waiting.store, _SECOND)
    assert policy.weights_round == str(_FIRST)
    again = _selfimp(waiting, "refuse", "tiny/0000", "--who", "Bob", "--reason", "no")
    assert again.returncode == 1
    assert "it is answered: Ann approved the promotion of tiny/0000" in again.stdout


def test_a_refused_promotion_leaves_the_incumbent_in_force_and_the_campaign_goes_on(waiting: Home) -> None:
    _decide(waiting, "refuse", _FIRST, "too good to be true")
    row = read_ledger(waiting.store).row(0, named=True)
    assert (row["status"], row["promoted"]) == ("refused", False)
    assert row["decision"] == "Proceeds: 1 of 3 planned rounds are done and tiny/0000 was rejected."
    with waiting.instance() as instance:
        result = _tick(waiting, instance)
        assert _asked(result) == ["tiny/0001"]
        assert waiting.materialize(instance, "tiny/0001", "incumbent_policy").success
    policy, artifact = read_policy(waiting.store, _SECOND)
    assert policy.weights_round is None
    assert policy.policy_hash == policy_hash(waiting.model)
    assert set(artifact.manifest.parents) == {"tiny/0000/eval_report"}


def test_an_approval_counts_for_the_report_that_was_looked_at_alone(waiting: Home) -> None:
    _decide(waiting, "approve", _FIRST)
    with waiting.instance() as instance:
        assert waiting.materialize(instance, str(_FIRST), "eval_report").success
        assert next_round(waiting.store, waiting.campaigns, "tiny").decision.proceed, "the same content"
        other = {"ops": {"checkpoint": {"config": {"learning_rate": GENTLE * 1.1}}}}
        stages = ("checkpoint", "refined_outputs", "eval_report")
        assert waiting.materialize(instance, str(_FIRST), *stages, config=other).success
    assert "Waits for a person" in next_round(waiting.store, waiting.campaigns, "tiny").decision.reason
    assert read_ledger(waiting.store)["status"].to_list() == ["waiting"]
    _decide(waiting, "refuse", _FIRST)
    assert read_ledger(waiting.store)["status"].to_list() == ["refused"]


def test_an_answer_given_while_the_round_still_runs_waits_for_its_end(waiting: Home) -> None:
    _decide(waiting, "approve", _FIRST)
    with waiting.instance() as instance:
        going = instance.add_run(
            dg.DagsterRun(
                job_name="round_job",
                run_id=make_new_run_id(),
                status=dg.DagsterRunStatus.STARTED,
                tags={"dagster/partition": str(_FIRST)},
            )
        )
        result = _tick(waiting, instance)
        assert _reason(result) == "tiny: a run is still going."
        instance.delete_run(going.run_id)
        assert _asked(_tick(waiting, instance, result.cursor)) == ["tiny/0001"]


def test_an_altered_log_stops_the_campaign_and_nothing_else(waiting: Home) -> None:
    _decide(waiting, "refuse", _FIRST)
    path = waiting.store.folder / "tiny" / "oversight.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"refuse"', b'"approve"'))
    with pytest.raises(SelfimpError, match=r"entry 0: its hash does not fit what it says"):
        next_round(waiting.store, waiting.campaigns, "tiny")
    waiting.write_campaign("other")
    with waiting.instance() as instance:
        assert "its hash does not fit" in _reason(_tick(waiting, instance))
        _, said = "", str(_failed(waiting.materialize(instance, str(_SECOND), "incumbent_policy")))
        assert "its hash does not fit" in said
        assert waiting.materialize(instance, "other/0000", "incumbent_policy").success
    shown = _selfimp(waiting, "oversight", "tiny")
    assert shown.returncode == 1
    assert "its hash does not fit what it says" in shown.stdout


def _failed(result: dg.ExecuteInProcessResult) -> str | None:
    assert not result.success
    failure = next(event for event in result.all_events if event.is_step_failure).step_failure_data
    assert failure.user_failure_data is not None, failure.error_display_string
    return failure.user_failure_data.description


# Recipe


def test_a_new_recipe_is_used_once_a_person_approved_it(home: Home) -> None:
    home.write_campaign(approval={"before": ["recipe"]})
    with pytest.raises(SelfimpError) as caught:
        home.run(str(_FIRST))
    assert "check recipe_approved" in caught.value.where
    assert caught.value.what.startswith("Waits for a person to approve or refuse the recipe of tiny/0000")
    assert "`selfimp approve tiny/0000 --who NAME --reason TEXT`" in caught.value.fix
    assert not home.store.has(_FIRST, "generated_corpus")
    following = next_round(home.store, home.campaigns, "tiny")
    assert (following.key, following.decision.proceed) == (_FIRST, False)
    assert "the recipe of tiny/0000" in following.decision.reason
    with home.instance() as instance:
        assert check_results(instance, "incumbent_policy", str(_FIRST))["recipe_approved"] is False
        refusal = _failed(home.materialize(instance, str(_FIRST), "generated_corpus"))
        assert "Waits for a person" in str(refusal), "nor can a later stage be run alone"
        entry = _decide(home, "approve", _FIRST)
        recipe = read_policy(home.store, _FIRST)[0].campaign.recipe.model_dump(mode="json")
        assert entry.evidence is not None
        assert entry.evidence.version == content_hash(recipe)
        result = _tick(home, instance)
        assert _asked(result) == ["tiny/0000"]
        assert _launch(home, instance, result).success
        assert check_results(instance, "incumbent_policy", str(_FIRST))["recipe_approved"] is True
        assert home.store.has(_FIRST, "eval_report")
        assert home.materialize(instance, str(_SECOND), "incumbent_policy").success
        assert check_results(instance, "incumbent_policy", str(_SECOND))["recipe_approved"] is True, (
            "the same recipe is not asked about again"
        )
        home.write_campaign(approval={"before": ["recipe"]}, recipe={"optimization": {"epochs": 5}})
        changed = home.materialize(instance, str(_SECOND), "incumbent_policy", "generated_corpus")
        (check,) = [c for c in changed.get_asset_check_evaluations() if c.check_name == "recipe_approved"]
        assert not check.passed
        (row,) = check.metadata["differs_from_parent_in"].records
        assert row.data == {"field": "optimization.epochs", "first": "4", "second": "5"}
    assert not home.store.has(_SECOND, "generated_corpus")


def test_a_refused_recipe_is_not_used_and_another_one_is_asked_about(home: Home) -> None:
    home.write_campaign(approval={"before": ["recipe"]})
    with pytest.raises(SelfimpError):
        home.run(str(_FIRST))
    _decide(home, "refuse", _FIRST, "epochs")
    reason = next_round(home.store, home.campaigns, "tiny").decision.reason
    assert reason.startswith("Stopped: Ann refused the recipe of tiny/0000 on ")
    with home.instance() as instance:
        assert reason in _reason(_tick(home, instance))
    home.write_campaign(approval={"before": ["recipe"]}, recipe={"optimization": {"epochs": 1}})
    assert next_round(home.store, home.campaigns, "tiny").decision.proceed
    with pytest.raises(SelfimpError, match="Waits for a person to approve or refuse the recipe"):
        home.run(str(_FIRST))
    (question,) = open_questions(home.store, "tiny")
    _decide(home, "approve", _FIRST)
    assert read_log(home.store, "tiny")[-1].evidence == question.evidence
    assert next_round(home.store, home.campaigns, "tiny").decision.proceed


def test_a_branch_whose_recipe_was_approved_goes_on_as_the_branch_that_it_is(finished: Home) -> None:
    finished.write_campaign(approval={"before": ["recipe"]})
    third = RoundKey("tiny", 2)
    with pytest.raises(SelfimpError, match="Waits for a person to approve or refuse the recipe of tiny/0002"):
        finished.run(str(third), parent=str(_FIRST), recipe={"optimization": {"epochs": 1}})
    assert "Waits for a person" in next_round(finished.store, finished.campaigns, "tiny").decision.reason
    begun = read_policy(finished.store, third)[0]
    _decide(finished, "approve", third)
    with finished.instance() as instance:
        (request,) = _tick(finished, instance).run_requests or ()
        assert finished.materialize(
            instance, str(third), "incumbent_policy", config=dict(request.run_config)
        ).success
        assert check_results(instance, "incumbent_policy", str(third))["recipe_approved"] is True
    assert read_policy(finished.store, third)[0] == begun
    assert (begun.parent, begun.recipe_changes) == (str(_FIRST), {"optimization": {"epochs": 1}})


# Alarm


def test_after_an_alarm_no_round_starts_even_by_hand_until_a_person_lets_it(alarmed: Home) -> None:
    following = next_round(alarmed.store, alarmed.campaigns, "tiny")
    assert not following.decision.proceed
    assert "to approve or refuse going on after the alarm of tiny/0000" in following.decision.reason
    assert "anchor items may have leaked" in following.decision.reason
    assert read_ledger(alarmed.store)["status"].to_list() == ["rejected"]
    with alarmed.instance() as instance:
        refusal = _failed(alarmed.materialize(instance, str(_SECOND), "incumbent_policy"))
        assert "Waits for a person" in str(refusal)
        entry = _decide(alarmed, "approve", _FIRST)
        result = _tick(alarmed, instance)
        assert _asked(result) == ["tiny/0001"]
        assert [request.run_key for request in result.run_requests or ()] == [entry.hash]
        assert alarmed.materialize(instance, str(_SECOND), "incumbent_policy").success
    assert read_policy(alarmed.store, _SECOND)[0].weights_round is None, "what is in force is the incumbent"


def test_a_refusal_to_go_on_after_an_alarm_is_final(alarmed: Home) -> None:
    _decide(alarmed, "refuse", _FIRST, "clean the data first")
    reason = next_round(alarmed.store, alarmed.campaigns, "tiny").decision.reason
    assert reason.startswith("Stopped: Ann refused going on after the alarm of tiny/0000 on ")
    assert reason.endswith(": clean the data first")
    with alarmed.instance() as instance:
        assert reason in _reason(_tick(alarmed, instance))
        assert "clean the data first" in str(
            _failed(alarmed.materialize(instance, str(_SECOND), "incumbent_policy"))
        )


# Pause and resume


def test_paused_nothing_starts_and_everybody_says_why(finished: Home) -> None:
    finished.write_campaign(nightly={"rounds": 1})
    _decide(finished, "pause", reason="holidays")
    said = "Paused: Ann paused tiny on "
    decision = next_round(finished.store, finished.campaigns, "tiny").decision
    assert not decision.proceed
    assert decision.reason.startswith(said)
    assert decision.reason.endswith(
        ": holidays. It goes on after `selfimp resume tiny --who NAME --reason TEXT`."
    )
    with finished.instance() as instance:
        assert said in _reason(_tick(finished, instance, sensor=next_round_sensor))
        with dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=datetime(2026, 11, 22, 2, tzinfo=UTC),
            resources={"workbench": finished.workbench},
        ) as context:
            skipped = nightly_round(context)
        assert isinstance(skipped, dg.SkipReason)
        assert said in str(skipped.skip_message)
        refusal = _failed(finished.materialize(instance, "tiny/0002", "incumbent_policy"))
        assert "Ann paused tiny" in str(refusal)
        assert finished.materialize(instance, "tiny/0001", "selected_subset").success, "what began goes on"
        paused = _tick(finished, instance)
        assert "Ann paused tiny" in _reason(paused)
        entry = _decide(finished, "resume")
        resumed = _tick(finished, instance, paused.cursor)
        assert _asked(resumed) == ["tiny/0002"]
        assert [request.run_key for request in resumed.run_requests or ()] == [entry.hash]
    stopped = _selfimp(finished, "status", "tiny")
    assert "tiny/0002 next" in stopped.stdout


def test_a_campaign_that_never_ran_is_not_started_by_lifting_its_pause(home: Home) -> None:
    _decide(home, "pause")
    _decide(home, "resume")
    with home.instance() as instance:
        assert "no round was started yet" in _reason(_tick(home, instance))


# Kill


def test_a_kill_empties_the_queue_of_its_campaign(finished: Home) -> None:
    code = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("selfimp_dagster"), "__repository__")
    origin = RemoteJobOrigin(code, "round_job")
    with finished.instance() as instance:
        queued = [
            instance.add_run(
                dg.DagsterRun(
                    job_name="round_job",
                    run_id=make_new_run_id(),
                    status=dg.DagsterRunStatus.QUEUED,
                    tags={"dagster/partition": key},
                    remote_job_origin=origin,
                )
            )
            for key in ("tiny/0002", "other/0000")
        ]
        _decide(finished, "kill")
        assert "Ann killed tiny" in _reason(_tick(finished, instance))
        statuses = [instance.get_run_by_id(run.run_id).status for run in queued]
    assert statuses == [dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.QUEUED]


def test_a_kill_interrupts_what_the_daemon_launched_and_did_not_end_by_itself(
    finished: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted: list[str] = []
    with finished.instance() as instance:
        monkeypatch.setattr(type(instance.run_launcher), "terminate", lambda _, run: interrupted.append(run))
        launched, in_a_terminal = (
            instance.add_run(
                dg.DagsterRun(
                    job_name="round_job",
                    run_id=make_new_run_id(),
                    status=dg.DagsterRunStatus.STARTED,
                    tags={"dagster/partition": "tiny/0002", **tags},
                )
            )
            for tags in ({".dagster/grpc_info": "{}"}, {})
        )
        entry = _decide(finished, "kill")
        assert _reason(_tick(finished, instance)) == "tiny: a run is still going."
        assert not interrupted, "its stages have a while to end by themselves and to say why"
        monkeypatch.setattr("selfimp_dagster.automation.oversight_sensor._GRACE", timedelta(0))
        time.sleep(1.1)  # the log counts in seconds
        assert _reason(_tick(finished, instance)) == "tiny: a run is still going."
        assert interrupted == [launched.run_id]
        said = [event.message for event in instance.all_logs(launched.run_id)]
        assert not instance.all_logs(in_a_terminal.run_id)
    assert entry.sentence in said


def test_killed_while_sampling_a_round_ends_at_once_and_resumed_loses_and_doubles_nothing(home: Home) -> None:
    tasks, answers = 400, 64
    home.write_campaign(
        pools={"train": tasks},
        recipe={
            "acquisition": {
                "method": "policy_sampling",
                "samples_per_task": answers,
                "sampling": {"max_new_tokens": 4},
            },
            "optimization": {"epochs": 1, "batch_size": 16},
        },
    )
    parts = home.store.folder / "tiny/0000/generated_corpus"
    process = subprocess.Popen(
        [sys.executable, "-m", "selfimp_dagster.cli", "run", "tiny"],
        env={**os.environ, **home.environment, "COLUMNS": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not list(parts.glob(".draft-*/.parts/*.parquet")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    _decide(home, "kill", reason="stop it")
    killed = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - killed < 15
    assert process.returncode == 1, output
    assert "Ann killed tiny on " in output
    assert "stop it" in output
    drawn = sum(pl.read_parquet(part).height for part in parts.glob(".draft-*/.parts/*.parquet"))
    assert 0 < drawn < tasks * answers
    halted = _selfimp(home, "run", "tiny")
    assert (halted.returncode, "Killed: Ann killed tiny" in halted.stdout) == (0, True), halted.stderr
    with home.instance() as instance:
        refusal = _failed(home.materialize(instance, str(_FIRST), "generated_corpus"))
        assert "Ann killed tiny" in str(refusal), "no stage begins"
        seen = _tick(home, instance)
        _decide(home, "resume")
        result = _tick(home, instance, seen.cursor)
        assert _asked(result) == ["tiny/0000"]
        (request,) = result.run_requests or ()
        assert dg.AssetKey("incumbent_policy") not in (request.asset_selection or ()), "it is done"
        assert _launch(home, instance, result).success
    samples = home.store.open(_FIRST, "generated_corpus").table("samples", SAMPLES)
    assert samples.height == samples["sample_id"].n_unique() == tasks * answers
    assert home.store.has(_FIRST, "eval_report")


# From the UI


def _op(home: Home, instance: dg.DagsterInstance, **config: str) -> dg.ExecuteInProcessResult:
    """Launches the job as the launchpad does, with what the person wrote."""
    return home.definitions.resolve_job_def("oversight_job").execute_in_process(
        run_config={
            "ops": {
                "record_intervention": {"config": {"round": "", "who": "Ann", "reason": "because", **config}}
            },
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        instance=instance,
        raise_on_error=False,
    )


def test_a_promotion_is_approved_in_the_launchpad(waiting: Home) -> None:
    with waiting.instance() as instance:
        assert _op(waiting, instance, campaign="tiny", action="approve", round="tiny/0000").success
        assert check_results(instance, "eval_report", "tiny/0000")["promoted"] is True
        (seen,) = observations(instance, "eval_report", "tiny/0000")
        assert (seen["who"], seen["matter"]) == ("Ann", "promotion")
        ledger = instance.fetch_observations(dg.AssetKey("round_ledger"), limit=5).records
        assert len(ledger) == 1
        assert _asked(_tick(waiting, instance)) == ["tiny/0001"]
    assert read_log(waiting.store, "tiny")[0].reason == "because"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"campaign": "nowhere", "action": "pause"}, "there is no campaign 'nowhere'"),
        ({"campaign": "", "action": "approve"}, "there is no campaign ''"),
        ({"campaign": "tiny", "action": "approve"}, "no round is named to approve"),
        ({"campaign": "tiny", "action": "approve", "round": "tiny/1"}, "'tiny/1' is not a round"),
        ({"campaign": "tiny", "action": "approve", "round": "tiny/0001"}, "it waits for nobody"),
        ({"campaign": "tiny", "action": "approve", "round": "tiny/0009"}, "there is no such round"),
        ({"campaign": "tiny", "action": "pause", "reason": " "}, "reason: it says nothing"),
        ({"campaign": "tiny", "action": "pause", "who": ""}, "who: it says nothing"),
        ({"campaign": "tiny", "action": "resume"}, "it is neither paused nor killed"),
    ],
)
def test_what_cannot_be_decided_is_a_readable_failure(
    two_rounds: Home, config: dict[str, str], problem: str
) -> None:
    with two_rounds.instance() as instance:
        assert problem in str(_failed(_op(two_rounds, instance, **config)))
    assert read_log(two_rounds.store, "tiny") == ()


def test_the_launchpad_comes_filled_in_and_the_queue_of_rounds_does_not_hold_it_up(home: Home) -> None:
    job = home.definitions.resolve_job_def("oversight_job")
    assert set(job.run_config["ops"]["record_intervention"]["config"]) == {
        "campaign",
        "action",
        "round",
        "who",
        "reason",
    }
    rounds = home.definitions.resolve_job_def("round_job")
    with home.instance() as instance:
        limits = instance.get_concurrency_config().run_queue_config.tag_concurrency_limits
    (limit,) = [limit for limit in limits if limit["key"] == "selfimp/round"]
    assert limit["limit"] == 2
    assert limit["key"] in rounds.tags
    assert limit["key"] not in job.tags


def test_the_log_is_shown_with_what_waits_and_its_last_hash(waiting: Home) -> None:
    _decide(waiting, "pause", reason="holidays")
    shown = _selfimp(waiting, "oversight", "tiny")
    assert shown.returncode == 0, shown.stdout
    (entry,) = read_log(waiting.store, "tiny")
    assert "Paused: Ann paused tiny" in shown.stdout
    assert "Waits for a person to approve or refuse the promotion of tiny/0000" in shown.stdout
    assert "The chain holds: 1 entries" in shown.stdout
    assert entry.hash in shown.stdout
    nowhere = _selfimp(waiting, "oversight", "nowhere")
    assert (nowhere.returncode, "there is no campaign 'nowhere'" in nowhere.stdout) == (1, True)


def test_without_an_instance_the_command_line_records_and_makes_none(home: Home) -> None:
    done = _selfimp(home, "pause", "tiny", "--reason", "later")
    assert done.returncode == 0, done.stdout + done.stderr
    (entry,) = read_log(ArtifactStore(home.settings.store), "tiny")
    assert entry.who, "the login"
    assert not (home.settings.home / "dagster.yaml").exists()
