"""The history of single rows of two real rounds."""

import polars as pl
import pytest
from home import Home

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.records import EVALUATIONS, SAMPLES, SELECTION, TASKS, TRAINING
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.trace import Event, trace

_FIRST, _SECOND = RoundKey("tiny", 0), RoundKey("tiny", 1)


def stages(events: tuple[Event, ...]) -> list[str]:
    """The stages in the order they are told, each once."""
    return list(dict.fromkeys(event.stage for event in events))


def told(events: tuple[Event, ...], stage: str) -> str:
    return "\n".join(event.what for event in events if event.stage == stage)


def test_a_training_row_is_told_from_its_task_to_the_verdict_on_what_it_trained(two_rounds: Home) -> None:
    store = two_rounds.store
    id_ = store.open(_FIRST, "checkpoint").table("training", TRAINING)["sample_id"][0]
    corpus = store.open(_FIRST, "generated_corpus")
    sample = corpus.table("samples", SAMPLES).row(by_predicate=pl.col("sample_id") == id_, named=True)
    task = corpus.table("tasks", TASKS).row(by_predicate=pl.col("task_id") == sample["task_id"], named=True)
    found = trace(store, id_)
    assert (found.kind, found.id) == ("sample", id_)
    assert stages(found.events) == ["generated_corpus", "selected_subset", "checkpoint", "eval_report"]
    assert repr(task["prompt"]) in told(found.events, "generated_corpus")
    assert f"drawn from the base model {sample['policy_hash'][:16]}" in told(found.events, "generated_corpus")
    assert "reward answer (V) = 1" in told(found.events, "generated_corpus")
    assert "verified: kept" in told(found.events, "selected_subset")
    assert "trained on in the update sft" in told(found.events, "checkpoint")
    assert told(found.events, "eval_report").startswith("Promoted: ")


def test_the_step_that_dropped_a_sample_is_told_with_its_reason(two_rounds: Home) -> None:
    selection = two_rounds.store.open(_FIRST, "selected_subset").table("selection", SELECTION)
    step = selection.filter(~pl.col("kept")).row(0, named=True)
    events = trace(two_rounds.store, step["sample_id"]).events
    assert f"{step['step']}: dropped, {step['reason']}" in told(events, "selected_subset")
    assert "checkpoint" not in stages(events)


def test_a_row_tells_which_copies_were_dropped_in_its_favour(two_rounds: Home) -> None:
    selection = two_rounds.store.open(_FIRST, "selected_subset").table("selection", SELECTION)
    original = pl.col("evidence").str.json_path_match("$.duplicate_of").alias("original")
    copy = (
        selection.filter(~pl.col("kept"))
        .select("sample_id", "step", original)
        .drop_nulls()
        .row(0, named=True)
    )
    events = trace(two_rounds.store, copy["original"]).events
    assert f"sample {copy['sample_id']} was dropped by {copy['step']} in its favour" in told(
        events, "selected_subset"
    )


def test_an_accepted_refined_output_is_followed_into_the_next_round(two_rounds: Home) -> None:
    offered = two_rounds.store.open(_FIRST, "refined_outputs").table("offered_samples", SAMPLES)
    events = trace(two_rounds.store, offered["sample_id"][0]).events
    assert "accepted for the next corpus" in told(events, "refined_outputs")
    assert "drawn from the checkpoint of tiny/0000" in told(events, "refined_outputs")
    assert "taken into the corpus from what refined_outputs of tiny/0000 accepted" in told(
        events, "generated_corpus"
    )
    assert {event.round for event in events} == {str(_FIRST), str(_SECOND)}


def test_a_task_tells_its_samples_and_which_were_selected(two_rounds: Home) -> None:
    samples = two_rounds.store.open(_FIRST, "generated_corpus").table("samples", SAMPLES)
    training = two_rounds.store.open(_FIRST, "checkpoint").table("training", TRAINING)
    chosen = samples.filter(pl.col("sample_id").is_in(training["sample_id"].to_list())).row(0, named=True)
    found = trace(two_rounds.store, chosen["task_id"])
    assert found.kind == "task"
    assert all(
        f"sample {id_} (unaided), reward" in told(found.events, "generated_corpus")
        for id_ in samples.filter(pl.col("task_id") == chosen["task_id"])["sample_id"]
    )
    assert f"sample {chosen['sample_id']} was selected" in told(found.events, "selected_subset")


def test_an_evaluation_item_tells_what_every_policy_answered(two_rounds: Home) -> None:
    answers = pl.concat(
        two_rounds.store.open(key, "eval_report").table("evaluations", EVALUATIONS)
        for key in (_FIRST, _SECOND)
    ).filter(suite="anchor")
    item = answers["item_id"][0]
    found = trace(two_rounds.store, item)
    asked = [event for event in found.events if "scored" in event.what]
    assert found.kind == "evaluation item"
    assert len(asked) == answers.filter(item_id=item).height == 4
    assert "incumbent (the base model" in asked[0].what
    assert "candidate (the checkpoint of tiny/0000)" in asked[1].what


def test_the_beginning_of_an_id_will_do(two_rounds: Home) -> None:
    id_ = two_rounds.store.open(_FIRST, "generated_corpus").table("samples", SAMPLES)["sample_id"][0]
    assert trace(two_rounds.store, id_[:8]) == trace(two_rounds.store, id_)


@pytest.mark.parametrize(
    ("id_", "problem"),
    [("0123456789abcdef", "no task, sample or evaluation item"), ("abc", "too short"), ("%%%%%%", "no task")],
)
def test_an_id_that_means_no_row_is_one_clear_message(two_rounds: Home, id_: str, problem: str) -> None:
    with pytest.raises(SelfimpError, match=problem):
        trace(two_rounds.store, id_)


def test_an_empty_store_knows_no_id(home: Home) -> None:
    with pytest.raises(SelfimpError, match="no task, sample or evaluation item"):
        trace(home.store, "0123456789abcdef")
