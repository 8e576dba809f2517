"""The history of single rows of two real rounds."""

import json
import shutil

import polars as pl
import pytest
from home import Home

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.ledger import STAGES
from selfimp_dagster.lifecycle.selection.stage import select_subset
from selfimp_dagster.lineage.row_index import FOLDER
from selfimp_dagster.lineage.trace import Event, trace
from selfimp_dagster.records import EVALUATIONS, REWARDS, SAMPLES, SELECTION, TASKS, TRAINING
from selfimp_dagster.round_key import RoundKey

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


def test_a_training_row_tells_what_its_checkpoint_answered_and_what_descends_from_it(
    two_rounds: Home,
) -> None:
    store = two_rounds.store
    id_ = store.open(_FIRST, "checkpoint").table("training", TRAINING)["sample_id"][0]
    events = [event for event in trace(store, id_).events if event.round == str(_FIRST)]
    answers = store.open(_FIRST, "eval_report").table("evaluations", EVALUATIONS)
    for suite in ("anchor", "fresh", "guard"):
        (outcome,) = (e.fields for e in events if e.kind == "answers" and e.fields["suite"] == suite)
        of_suite = answers.filter(suite=suite)
        assert outcome["items"] == of_suite["item_id"].n_unique()
        assert outcome["right"] == of_suite.filter(arm="candidate")["score"].sum()
        assert outcome["right_before"] == of_suite.filter(arm="incumbent")["score"].sum()
        assert outcome["won"] - outcome["lost"] == outcome["right"] - outcome["right_before"]
    (verdict,) = (event for event in events if event.kind == "verdict")
    assert verdict.fields["checkpoint_hash"] == store.open(_FIRST, "checkpoint").facts["policy_hash"]
    (descent,) = (event.fields for event in events if event.kind == "descent")
    assert descent["incumbent_of"] == [str(_SECOND)]
    assert descent["rounds_descending"] == 1
    assert descent["samples_drawn"] == store.open(_SECOND, "generated_corpus").facts["samples"]


def test_a_replayed_row_is_told_in_every_round_that_trained_on_it(finished: Home) -> None:
    finished.write_campaign(recipe={"optimization": {"start_from": "base"}})
    finished.run("tiny/0002")
    store = finished.store
    id_ = store.open(_FIRST, "checkpoint").table("training", TRAINING)["sample_id"][0]
    trained = [event for event in trace(store, id_).events if event.kind == "training"]
    assert [event.round for event in trained] == ["tiny/0000", "tiny/0002"]
    assert "replayed from tiny/0000" in trained[1].what


def test_a_rationalized_sample_says_that_the_answer_was_shown(home: Home) -> None:
    home.write_campaign(recipe={"acquisition": {"samples_per_task": 1, "rationalized": 1}})
    home.run("tiny/0000")
    samples = home.store.open(_FIRST, "generated_corpus").table("samples", SAMPLES)
    shown = samples.filter(generation="R")["sample_id"][0]
    assert "with the right answer shown" in told(trace(home.store, shown).events, "generated_corpus")


def test_ancestry_counts_the_updates_behind_the_weights_that_drew_a_sample(two_rounds: Home) -> None:
    store = two_rounds.store
    for key, updates in ((_FIRST, []), (_SECOND, ["tiny/0000"])):
        samples = store.open(key, "generated_corpus").table("samples", SAMPLES).filter(round=str(key))
        (ancestry,) = (e.fields for e in trace(store, samples["sample_id"][0]).events if e.kind == "ancestry")
        assert (ancestry["depth"], ancestry["updates"]) == (1, updates)


def test_synthetic_ancestors_are_walked_to_their_end(finished: Home) -> None:
    """No method writes tasks or samples from others yet; a corpus that has some is traced all the same."""
    corpus = finished.store.open(_SECOND, "generated_corpus")
    tasks, samples = corpus.table("tasks", TASKS), corpus.table("samples", SAMPLES)
    oldest = finished.store.open(_FIRST, "generated_corpus").table("samples", SAMPLES)["sample_id"][0]
    row = samples.row(0, named=True)
    middle, young = "a" * 16, "b" * 16
    made = pl.DataFrame(
        [
            {**row, "sample_id": middle, "parent_sample_id": oldest},
            {**row, "sample_id": young, "parent_sample_id": middle, "task_id": "c" * 16},
        ],
        schema=SAMPLES,
    )
    task = tasks.row(0, named=True) | {
        "task_id": "c" * 16,
        "parent_ids": [row["task_id"]],
        "generation_depth": 1,
    }
    draft = finished.store.draft(_SECOND, "generated_corpus", parents={}, config={})
    draft.write_table("tasks", pl.concat([tasks, pl.DataFrame([task], schema=TASKS)]), TASKS)
    draft.write_table("samples", pl.concat([samples, made]), SAMPLES)
    draft.write_table("rewards", corpus.table("rewards", REWARDS), REWARDS)
    draft.commit(facts=corpus.facts, measurements=corpus.measurements)
    (ancestry,) = (e.fields for e in trace(finished.store, young).events if e.kind == "ancestry")
    assert ancestry["parent_samples"] == [middle, oldest]
    assert ancestry["parent_tasks"] == [row["task_id"]]
    assert ancestry["depth"] == 4
    for parent, child in (
        (oldest, f"sample {middle}"),
        (middle, f"sample {young}"),
        (row["task_id"], "task c"),
    ):
        descendants = [e.what for e in trace(finished.store, parent).events if e.kind == "descendant"]
        assert any(what.startswith(child) for what in descendants)


def test_an_item_tells_which_samples_were_dropped_because_of_it(finished: Home) -> None:
    item = finished.store.open(_FIRST, "eval_report").table("items", TASKS).row(0, named=True)
    corpus = finished.store.open(_FIRST, "generated_corpus")
    samples, rewards = corpus.table("samples", SAMPLES), corpus.table("rewards", REWARDS)
    tasks = corpus.table("tasks", TASKS)
    right = rewards.filter(value=1.0)["sample_id"][0]
    of_task = samples.filter(sample_id=right)["task_id"][0]
    leaked = tasks.with_columns(
        prompt=pl.when(task_id=of_task).then(pl.lit(item["prompt"])).otherwise("prompt")
    )
    draft = finished.store.draft(_FIRST, "generated_corpus", parents={}, config={})
    for name, rows, schema in (
        ("tasks", leaked, TASKS),
        ("samples", samples, SAMPLES),
        ("rewards", rewards, REWARDS),
    ):
        draft.write_table(name, rows, schema)
    draft.commit(facts=corpus.facts, measurements=corpus.measurements)
    select_subset(finished.bench, _FIRST)
    dropped = [e for e in trace(finished.store, item["task_id"]).events if e.kind == "decontamination"]
    assert right in {event.fields["sample_id"] for event in dropped}
    matched = [e for e in trace(finished.store, right).events if e.kind == "selection"][-1]
    assert matched.fields["evidence"]["item_id"] == item["task_id"]


def test_events_are_told_round_by_round_and_stage_by_stage(two_rounds: Home) -> None:
    task = two_rounds.store.open(_FIRST, "generated_corpus").table("tasks", TASKS)["task_id"][0]
    told_in = [(event.round, STAGES.index(event.stage)) for event in trace(two_rounds.store, task).events]
    assert told_in == sorted(told_in)


def test_a_trace_can_be_read_by_programs(two_rounds: Home) -> None:
    id_ = two_rounds.store.open(_FIRST, "checkpoint").table("training", TRAINING)["sample_id"][0]
    found = trace(two_rounds.store, id_)
    read = json.loads(found.as_json())
    assert (read["kind"], read["id"], read["gaps"]) == ("sample", id_, [])
    assert [event["what"] for event in read["events"]] == [event.what for event in found.events]
    drawn = next(event["fields"] for event in read["events"] if event["kind"] == "sample")
    assert set(SAMPLES) - {"round"} <= set(drawn)


def test_the_index_follows_the_store(finished: Home) -> None:
    id_ = finished.store.open(_FIRST, "checkpoint").table("training", TRAINING)["sample_id"][0]
    before = trace(finished.store, id_)
    index = finished.store.folder / FOLDER
    blocks = {path: path.stat().st_mtime_ns for path in index.iterdir()}
    assert trace(finished.store, id_) == before
    assert blocks == {path: path.stat().st_mtime_ns for path in index.iterdir()}, "nothing was new"
    finished.run("tiny/0002")
    new = finished.store.open(RoundKey("tiny", 2), "generated_corpus").table("samples", SAMPLES)
    assert trace(finished.store, new.filter(round="tiny/0002")["sample_id"][0]).events
    (index / "tiny-000.parquet").write_bytes(b"no block")
    after = trace(finished.store, id_).events
    assert [e for e in after if e.round != "tiny/0002" and e.kind != "descent"] == [
        e for e in before.events if e.kind != "descent"
    ]
    shutil.rmtree(index)
    index.write_text("a store that no index can be written to")
    assert trace(finished.store, new.filter(round="tiny/0002")["sample_id"][0]).events


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
    asked = [event for event in found.events if event.kind == "answer"]
    assert found.kind == "evaluation item"
    assert len(asked) == answers.filter(item_id=item).height == 4
    assert "incumbent (the base model" in asked[0].what
    assert "candidate (the checkpoint of tiny/0000)" in asked[1].what
    assert [event.fields["change"] for event in asked] == [None, "won", None, None]


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
