"""Judges in real rounds: behind a server, of weights of their own, barred, silent, interrupted."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from chat_server import Answer, ChatServer, chat_server, completion, refusal
from events import check_results, materialization
from home import Home
from judges import quotations

from selfimp_dagster.engines import openai_engine
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.acquisition.stage import generate_corpus
from selfimp_dagster.lifecycle.evaluation.report import read_dimensions, read_report
from selfimp_dagster.lifecycle.policy import start_round
from selfimp_dagster.lineage.views import ask
from selfimp_dagster.records import JUDGE_PROBE, REWARDS, SAMPLES, TASKS
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact

_KEY = RoundKey("tiny", 0)
_SECRET = "sk-very-secret-4711"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as served:
        yield served


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_engine, "_FIRST_PAUSE", 0.001)


def _text(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"])


def _knows(body: dict[str, Any]) -> Answer:
    """A judge that knows that the answer is always 7, and is polite about it."""
    _, *answers = quotations(_text(body))
    right = [answer.strip() == "7" for answer in answers]
    if len(right) == 1:
        return completion(f"I looked at it.\nGrade: {5 if right[0] else 0}")
    return completion(f"Verdict: {'tie' if right[0] == right[1] else 'A' if right[0] else 'B'}")


def _endpoint(server: ChatServer, **more: Any) -> dict[str, Any]:
    return {"source": "endpoint", "url": server.url, "model": "wise", "retries": 0, **more}


def _corpus(home: Home, *rewards: dict[str, Any], tasks: int = 12) -> Artifact:
    """The corpus of a first round with these rewards, by the library alone."""
    home.write_campaign(pools={"train": tasks}, recipe={"rewards": list(rewards)})
    start_round(home.bench, _KEY)
    return generate_corpus(home.bench, _KEY, {})


def _values(corpus: Artifact, reward: str) -> list[float | None]:
    return corpus.table("rewards", REWARDS).filter(reward=reward)["value"].to_list()


def test_a_campaign_learns_from_judges_behind_a_server_alone(
    home: Home, server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", _SECRET)
    server.answer = _knows
    judge = _endpoint(server, api_key="JUDGE_KEY", concurrent=8)
    home.write_campaign(
        pools={"train": 28},
        recipe={
            "rewards": [
                {"method": "judge", "judge": judge, "repeats": 1, "probe": 12},
                {"method": "pairwise_judge", "judge": judge, "probe": 12},
                {"method": "weighted", "parts": {"judge": 2, "pairwise_judge": 1}},
            ],
            "selection": [
                {"method": "verified", "reward": "weighted", "minimum": 0.6},
                {"method": "difficulty_band", "reward": "judge", "low": 0.0, "high": 1.0},
                {"method": "decontamination"},
                {"method": "exact_duplicates"},
                {"method": "near_duplicates", "threshold": 1.0},
            ],
        },
    )
    home.run(str(_KEY))

    corpus = home.store.open(_KEY, "generated_corpus")
    tasks, samples = corpus.table("tasks", TASKS), corpus.table("samples", SAMPLES)
    rewards = corpus.table("rewards", REWARDS)
    graded = rewards.filter(reward="judge").join(samples, on="sample_id")
    assert graded.filter((pl.col("response") == "7") != (pl.col("value") == 1.0)).is_empty()
    assert graded["value"].null_count() == 0
    assert set(rewards["reward"]) == {"answer", "judge", "pairwise_judge", "weighted"}
    probe = corpus.table("judge_probe", JUDGE_PROBE)
    assert probe.group_by("reward").len().sort("reward").rows() == [("judge", 24), ("pairwise_judge", 24)]
    assert probe.filter(pl.col("right") != pl.col("accepted")).is_empty()
    items = home.store.open(_KEY, "eval_report").table("items", TASKS)
    assert set(probe["prompt"]).isdisjoint(items["prompt"]), "no evaluation item is shown to a judge"
    asked = {quotations(_text(body))[0] for body in server.asked}
    assert asked.isdisjoint(items["prompt"])
    assert set(tasks["prompt"]) <= asked
    sampled = int(samples.select(pl.sum("prompt_tokens") + pl.sum("completion_tokens")).item())
    in_corpus = corpus.measurements["tokens"] - sampled
    in_refined = 13 * len(server.asked) - in_corpus
    assert in_corpus > 0 < in_refined, "13 tokens an answer, in both stages"

    report = read_report(home.store, _KEY)
    assert report.verdict.promoted, "it learnt without the verifier"
    assert home.store.open(_KEY, "refined_outputs").facts["accepted"] > 0
    measured = {row["measure"]: row for row in read_dimensions(home.store, _KEY).to_dicts()}
    for measure in ("judge_precision", "judge_recall", "judge_agreement"):
        assert measured[measure]["value"] == 1.0
    assert measured["judge_position_bias"]["value"] == 0.0
    (count,) = next(iter(ask(home.store, 'SELECT count(*) FROM judge_probe WHERE accepted = "right"').rows()))
    assert count == 48
    with home.instance() as instance:
        metadata = materialization(instance, "generated_corpus", str(_KEY)).metadata
        shown = {record.data["reward"]: record.data for record in metadata["judges"].records}
        assert shown["judge"]["status"] == "judges"
        assert shown["judge"]["precision"] == "1.000 (0.758 to 1.000, n 12)"
        assert shown["judge"]["corrected_rate"].startswith(f"{corpus.facts['pass_rate']:.3f}")
        assert shown["pairwise_judge"]["corrected_rate"] == ""
        assert all(check_results(instance, "generated_corpus", str(_KEY)).values())
    assert all(headers["Authorization"] == f"Bearer {_SECRET}" for headers in server.headers)
    written = [path for path in home.folder.rglob("*") if path.is_file()]
    assert not [path for path in written if _SECRET.encode() in path.read_bytes()], "the key is in no file"


def test_a_judge_under_its_floor_is_silent_and_the_round_goes_on(home: Home, server: ChatServer) -> None:
    server.answer = lambda body: completion("Wonderful!\nGrade: 5")
    home.write_campaign(
        pools={"train": 12},
        recipe={
            "rewards": [{"method": "answer"}, {"method": "judge", "judge": _endpoint(server), "repeats": 1}]
        },
    )
    with home.instance() as instance:
        assets = ("incumbent_policy", "generated_corpus")
        assert home.materialize(instance, str(_KEY), *assets).success
        metadata = materialization(instance, "generated_corpus", str(_KEY)).metadata
    (shown,) = [record.data for record in metadata["judges"].records]
    assert shown["status"].startswith(
        "barred: of 64 answers to the gold probe that the judge accepted, 32 are right"
    )
    assert (shown["judged"], shown["abstained"]) == (0, 48)
    corpus = home.store.open(_KEY, "generated_corpus")
    (record,) = corpus.facts["judges"]
    assert record["barred"] in shown["status"]
    assert set(_values(corpus, "judge")) == {None}
    assert set(_values(corpus, "answer")) == {0.0, 1.0}
    assert len(server.asked) == 64, "no sample was shown to it"


def test_without_any_reward_left_the_round_ends_with_the_reason(home: Home, server: ChatServer) -> None:
    server.answer = lambda body: completion("Grade: 5")
    with pytest.raises(SelfimpError, match="no reward of the recipe gave any sample a value") as caught:
        _corpus(home, {"method": "judge", "judge": _endpoint(server), "repeats": 1})
    assert "judge: of 64 answers to the gold probe" in caught.value.what
    assert "lower its floor" in caught.value.fix


def test_the_base_model_says_nothing_of_its_own_samples(home: Home) -> None:
    corpus = _corpus(home, {"method": "answer"}, {"method": "judge", "repeats": 1, "probe": 2})
    assert corpus.facts["judges"][0]["policy_hash"] == corpus.table("samples", SAMPLES)["policy_hash"][0]
    rows = corpus.table("rewards", REWARDS).filter(reward="judge")
    assert set(rows["value"]) == {None}
    assert all("nobody judges himself" in evidence for evidence in rows["evidence"])


@pytest.mark.parametrize("reading", ["words", "probabilities"])
def test_weights_that_are_no_judge_give_no_value_and_say_why(
    home: Home, tiny_model: Path, tmp_path: Path, reading: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    (other / "generation_config.json").unlink()
    source = {"source": "model", "model": str(other)}
    sampling = {"max_new_tokens": 4}
    corpus = _corpus(
        home,
        {"method": "answer"},
        {
            "method": "judge",
            "judge": source,
            "reading": reading,
            "repeats": 2,
            "probe": 4,
            "sampling": sampling,
        },
        tasks=3,
    )
    rows = corpus.table("rewards", REWARDS).filter(reward="judge")
    assert set(rows["value"]) == {None}
    told = [json.loads(evidence)["rejected"] for evidence in rows["evidence"]]
    assert all(len(rejected) == 2 for rejected in told), "each time that it was asked"
    sampled = corpus.table("samples", SAMPLES).select(pl.sum("prompt_tokens") + pl.sum("completion_tokens"))
    assert corpus.measurements["tokens"] > sampled.item() + 100 * len(rows)


def test_a_stage_whose_judge_went_away_goes_on_at_what_is_missing(home: Home, server: ChatServer) -> None:
    answered: list[str] = []

    def until(count: int) -> Callable[[dict[str, Any]], Answer]:
        def answer(body: dict[str, Any]) -> Answer:
            if len(answered) >= count:
                return refusal(503, "out of memory")
            answered.append(json.dumps(body, sort_keys=True))
            return _knows(body)

        return answer

    judge = {"method": "judge", "judge": _endpoint(server), "repeats": 1, "probe": 4}
    server.answer = until(20)
    with pytest.raises(SelfimpError, match="5 requests in a row came to nothing") as caught:
        _corpus(home, judge)
    assert "out of memory" in caught.value.what
    server.answer = until(10_000)
    corpus = _corpus(home, judge)
    assert _values(corpus, "judge").count(None) == 0
    assert len(answered) == len(set(answered)) == 8 + 48, "nothing was asked twice"


def test_answers_that_fail_now_and_then_are_recorded_and_the_rest_counts(
    home: Home, server: ChatServer
) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        return refusal(400, "too long") if body["seed"] % 4 == 0 else _knows(body)

    server.answer = answer
    judge = {"method": "judge", "judge": _endpoint(server, concurrent=1), "repeats": 1, "probe": 0}
    rows = _corpus(home, judge).table("rewards", REWARDS).filter(reward="judge")
    silent = rows.filter(pl.col("value").is_null())
    assert 0 < silent.height < rows.height
    for evidence in silent["evidence"]:
        assert json.loads(evidence)["rejected"] == ["no reply: the server answered 400 Bad Request: too long"]
