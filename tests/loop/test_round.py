"""Two rounds of a real campaign through the real job: sampled, selected, trained, refined, measured."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import torch
from events import CHECKS, check_results, data_version, materialization, observations
from home import Home

from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.lifecycle.evaluation.items import evaluation_items, items_until
from selfimp_dagster.lifecycle.evaluation.report import read_report
from selfimp_dagster.lifecycle.ledger import LEDGER, STAGES, read_ledger
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.lifecycle.selection.stage import SUBSET
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.records import EVALUATIONS, SAMPLES, TASKS, TRAINING
from selfimp_dagster.round_key import RoundKey

_FIRST, _SECOND = RoundKey("tiny", 0), RoundKey("tiny", 1)
_ROUNDS = (_FIRST, _SECOND)


def test_the_first_round_starts_from_the_base_model_and_teaches_it(two_rounds: Home) -> None:
    policy, _ = read_policy(two_rounds.store, _FIRST)
    assert (policy.parent, policy.weights_round) == (None, None)
    assert policy.policy_hash == policy_hash(two_rounds.model)
    report = read_report(two_rounds.store, _FIRST)
    assert report.verdict.promoted, report.verdict.reasons
    assert report.score("anchor", "incumbent").accuracy == 0.0
    assert report.score("anchor", "candidate").accuracy > 0.9
    assert report.score("guard", "candidate").accuracy > 0.9


def test_the_next_round_starts_from_the_promoted_checkpoint(two_rounds: Home) -> None:
    policy, artifact = read_policy(two_rounds.store, _SECOND)
    checkpoint = two_rounds.store.open(_FIRST, "checkpoint")
    report = two_rounds.store.open(_FIRST, "eval_report")
    assert (policy.parent, policy.weights_round) == (str(_FIRST), str(_FIRST))
    assert policy.policy_hash == checkpoint.facts["policy_hash"]
    assert policy.policy_hash == policy_hash(checkpoint.folder / "model")
    assert artifact.manifest.parents == {
        f"{_FIRST}/checkpoint": checkpoint.data_version,
        f"{_FIRST}/eval_report": report.data_version,
    }
    samples = two_rounds.store.open(_SECOND, "generated_corpus").table("samples", SAMPLES)
    assert set(samples.filter(pl.col("round") == str(_SECOND))["policy_hash"]) == {policy.policy_hash}
    assert two_rounds.store.open(_SECOND, "checkpoint").facts["parent_policy_hash"] == policy.policy_hash


def test_every_artifact_names_the_artifacts_it_was_made_from(two_rounds: Home) -> None:
    for key in _ROUNDS:
        for stage in STAGES[1:]:
            for parent, version in two_rounds.store.open(key, stage).manifest.parents.items():
                assert version == two_rounds.store.open(key, parent).data_version, (key, stage, parent)


def test_rounds_have_seeds_and_train_tasks_of_their_own(two_rounds: Home) -> None:
    policies = [read_policy(two_rounds.store, key)[0] for key in _ROUNDS]
    assert policies[0].seed != policies[1].seed
    tasks = [two_rounds.store.open(key, "generated_corpus").table("tasks", TASKS) for key in _ROUNDS]
    assert set(tasks[0]["task_id"]) != set(tasks[1]["task_id"])


def test_the_anchor_stays_and_the_fresh_items_change(two_rounds: Home) -> None:
    items = [two_rounds.store.open(key, "eval_report").table("items", TASKS) for key in _ROUNDS]
    for pool, same in (("anchor", True), ("guard", True), ("fresh", False)):
        ids = [set(table.filter(pl.col("pool") == pool)["task_id"]) for table in items]
        assert (ids[0] == ids[1]) is same, pool


def test_no_evaluation_item_is_ever_sampled_or_trained_on(two_rounds: Home) -> None:
    for key in _ROUNDS:
        policy, _ = read_policy(two_rounds.store, key)
        items = set(items_until(policy.campaign, key.number, two_rounds.campaigns)["prompt"])
        measured = two_rounds.store.open(key, "eval_report").table("items", TASKS)
        assert set(measured["prompt"]) <= items
        corpus = two_rounds.store.open(key, "generated_corpus").table("tasks", TASKS)
        subset = two_rounds.store.open(key, "selected_subset").table("subset", SUBSET)
        refined = two_rounds.store.open(key, "refined_outputs").table("tasks", TASKS)
        for prompts in (corpus["prompt"], subset["prompt"], refined["prompt"]):
            assert not prompts.is_empty()
            assert items.isdisjoint(prompts)


def test_both_arms_answer_the_same_items_under_the_same_harness(two_rounds: Home) -> None:
    for key in _ROUNDS:
        rows = two_rounds.store.open(key, "eval_report").table("evaluations", EVALUATIONS)
        arms = rows.partition_by("arm", as_dict=True)
        ids = [sorted(arms[(arm,)]["item_id"]) for arm in ("incumbent", "candidate")]
        assert ids[0] == ids[1]
        policy, _ = read_policy(two_rounds.store, key)
        assert len(ids[0]) == evaluation_items(policy.campaign, key.number, two_rounds.campaigns).height
        assert rows["fingerprint"].n_unique() == 1


def test_answers_of_the_same_weights_to_the_same_items_are_taken_from_the_round_before(
    two_rounds: Home,
) -> None:
    first, second = (
        two_rounds.store.open(key, "eval_report").table("evaluations", EVALUATIONS) for key in _ROUNDS
    )
    assert not first["reused"].any()
    reused = second.filter("reused")
    known = set(first.filter(pl.col("arm") == "candidate")["item_id"])
    asked_again = second.filter((pl.col("arm") == "incumbent") & pl.col("item_id").is_in(known))
    assert set(reused["arm"]) == {"incumbent"}
    assert set(reused["suite"]) >= {"anchor", "guard"}
    assert set(reused["item_id"]) == set(asked_again["item_id"])
    before = first.filter(pl.col("arm") == "candidate").select("item_id", "response", "score")
    assert reused.join(before, on=["item_id", "response", "score"]).height == reused.height


def test_accepted_refined_outputs_are_in_the_next_corpus(two_rounds: Home) -> None:
    refined = two_rounds.store.open(_FIRST, "refined_outputs")
    offered = refined.table("offered_tasks", TASKS)
    answers = refined.table("offered_samples", SAMPLES)
    assert offered.height == refined.facts["accepted"] > 0
    corpus = two_rounds.store.open(_SECOND, "generated_corpus")
    tasks, samples = corpus.table("tasks", TASKS), corpus.table("samples", SAMPLES)
    assert set(offered["task_id"]) <= set(tasks["task_id"])
    carried = samples.filter(pl.col("round") == str(_FIRST))
    assert 0 < carried.height <= answers.height
    assert set(carried["sample_id"]) <= set(answers["sample_id"])
    drawn_anyway = set(samples.filter(pl.col("round") == str(_SECOND))["task_id"])
    assert set(answers["task_id"]) - drawn_anyway == set(carried["task_id"])


def test_what_is_trained_on_is_what_was_selected(two_rounds: Home) -> None:
    for key in _ROUNDS:
        subset = two_rounds.store.open(key, "selected_subset").table("subset", SUBSET)
        training = two_rounds.store.open(key, "checkpoint").table("training", TRAINING)
        assert set(training["sample_id"]) == set(subset["sample_id"])
        assert subset["response"].str.starts_with("7").all(), "only verified answers"


def test_the_checkpoint_is_a_plain_model_folder(two_rounds: Home) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = two_rounds.store.open(_FIRST, "checkpoint").folder / "model"
    assert not [file for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pkl", ".pth")]
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "learn 472"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.inference_mode():
        output = model.generate(**inputs, do_sample=False, max_new_tokens=4)
    answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == "7"
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert policy_hash(folder) in card


def test_the_ledger_has_a_row_for_each_round(two_rounds: Home) -> None:
    ledger = pl.read_parquet(two_rounds.store.folder / "ledger.parquet")
    assert dict(ledger.schema) == dict(LEDGER)
    assert ledger.equals(read_ledger(two_rounds.store))
    assert ledger.select("round", "parent", "weights_round").rows() == [
        ("tiny/0000", None, None),
        ("tiny/0001", "tiny/0000", "tiny/0000"),
    ]
    assert ledger["promoted"][0] is True
    assert (ledger["tokens"] > 0).all()
    assert ledger["incumbent_anchor"][1] == ledger["candidate_anchor"][0]
    assert ledger["recipe_changes"].to_list() == ["{}", "{}"]
    assert ledger["champion"].to_list() == [not ledger["promoted"][1], ledger["promoted"][1]]


@pytest.mark.parametrize("key", [str(key) for key in _ROUNDS])
def test_every_stage_is_materialized_with_the_artifacts_hash_and_all_its_checks(
    two_rounds: Home, key: str
) -> None:
    with two_rounds.instance() as instance:
        for stage in STAGES:
            artifact = two_rounds.store.open(RoundKey.parse(key), stage)
            assert data_version(instance, stage, key) == artifact.data_version, stage
            assert set(check_results(instance, stage, key)) == CHECKS[stage], stage
        assert all(
            passed
            for stage in ("incumbent_policy", "generated_corpus", "selected_subset", "checkpoint")
            for passed in check_results(instance, stage, key).values()
        )
        verdict = read_report(two_rounds.store, RoundKey.parse(key)).verdict
        assert check_results(instance, "eval_report", key)["promoted"] is verdict.promoted
        materialization(instance, "round_ledger", None)


def test_rounds_link_to_each_other_both_ways(two_rounds: Home) -> None:
    with two_rounds.instance() as instance:
        metadata = materialization(instance, "incumbent_policy", str(_SECOND)).metadata
        (parent_run,) = instance.get_run_ids(dg.RunsFilter(tags={"dagster/partition": str(_FIRST)}))
        assert metadata["weights"].value == "/assets/checkpoint?view=partitions&partition=tiny%2F0000"
        assert metadata["parent_round"].value == "/assets/eval_report?view=partitions&partition=tiny%2F0000"
        assert metadata["parent_run"].value == parent_run
        child = {"child_round_0001": "/assets/incumbent_policy?view=partitions&partition=tiny%2F0001"}
        assert observations(instance, "checkpoint", str(_FIRST)) == [child]
        assert observations(instance, "eval_report", str(_FIRST)) == [child]
        assert observations(instance, "checkpoint", str(_SECOND)) == []


def test_a_stage_alone_can_be_materialized_again_and_comes_out_the_same(finished: Home) -> None:
    key = str(_SECOND)
    with finished.instance() as instance:
        before = {stage: data_version(instance, stage, key) for stage in STAGES}
        for stage in STAGES[:-1]:
            assert finished.materialize(instance, key, stage).success, stage
            assert data_version(instance, stage, key) == before[stage], stage
            assert finished.store.open(_SECOND, stage).data_version == before[stage], stage


def test_an_evaluation_that_is_repeated_gives_the_same_answers_and_verdict(finished: Home) -> None:
    before = finished.store.open(_SECOND, "eval_report"), read_report(finished.store, _SECOND)
    with finished.instance() as instance:
        assert finished.materialize(instance, str(_SECOND), "eval_report").success
    after = finished.store.open(_SECOND, "eval_report"), read_report(finished.store, _SECOND)
    for name in ("evaluations.parquet", "items.parquet"):
        assert after[0].manifest.files[name] == before[0].manifest.files[name]
    assert after[1].verdict == before[1].verdict
    assert after[1].summary.tokens == before[1].summary.tokens


def test_the_recipe_can_be_overridden_for_one_run(home: Home) -> None:
    asked = {"tasks": 12, "samples_per_task": 2, "temperature": 0.5}
    config = {"ops": {"generated_corpus": {"config": asked}}}
    with home.instance() as instance:
        run = home.materialize(instance, str(_FIRST), "incumbent_policy", "generated_corpus", config=config)
        assert run.success
    samples = home.store.open(_FIRST, "generated_corpus").table("samples", SAMPLES)
    assert samples["task_id"].n_unique() == 12
    assert samples.height == 24
    assert samples["sampling"].str.json_path_match("$.temperature").unique().to_list() == ["0.5"]


def test_what_helped_a_sample_is_recorded_and_not_trained_on(home: Home) -> None:
    acquisition = {"method": "policy_sampling", "samples_per_task": 1, "rationalized": 2}
    home.write_campaign(recipe={"acquisition": acquisition | {"sampling": {"max_new_tokens": 4}}})
    with home.instance() as instance:
        stages = ("incumbent_policy", "generated_corpus", "selected_subset")
        assert home.materialize(instance, str(_FIRST), *stages).success
    samples = home.store.open(_FIRST, "generated_corpus").table("samples", SAMPLES)
    helped = samples.filter(pl.col("generation") == "R")
    assert all("The right answer is 7." in messages[-1]["content"] for messages in helped["messages"])
    subset = home.store.open(_FIRST, "selected_subset").table("subset", SUBSET)
    trained_on = subset.join(helped, on="sample_id", how="semi")
    assert 0 < trained_on.height < subset.height
    assert [messages[-1]["content"] for messages in trained_on["messages"]] == trained_on["prompt"].to_list()


def test_a_list_of_train_pools_gives_each_round_of_a_line_its_own(home: Home) -> None:
    home.write_campaign(pools={"train": [16, 24]})
    home.run(str(_FIRST), str(_SECOND))
    drawn = [home.store.open(key, "generated_corpus").facts["tasks"] for key in (_FIRST, _SECOND)]
    offered = home.store.open(_FIRST, "refined_outputs").facts["accepted"]
    assert drawn == [16, 24 + offered]


def test_a_round_loads_each_set_of_weights_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path] = []
    load = TransformersEngine.__init__

    def watch(self: TransformersEngine, folder: Path, **options: object) -> None:
        loaded.append(folder)
        load(self, folder, **options)

    monkeypatch.setattr(TransformersEngine, "__init__", watch)
    monkeypatch.setattr(
        torch.cpu, "_is_amx_tile_supported", lambda: False
    )  # samples in float32, as evaluation
    home.run(str(_FIRST))
    candidate = home.store.open(_FIRST, "checkpoint").folder / "model"
    assert sorted(loaded) == sorted([candidate, home.model])
