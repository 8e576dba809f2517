"""Interaction in the loop: self-play from the corpus to the update, and the stage with every method."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl
import pytest
from home import Home
from judges import ScriptedJudge

from selfimp_dagster.campaign import EnvironmentChoice
from selfimp_dagster.engines.base import Completion, Request, Sampling
from selfimp_dagster.lifecycle.acquisition import stage
from selfimp_dagster.lifecycle.evaluation.environments import evaluation_openings
from selfimp_dagster.lifecycle.judges import Judges
from selfimp_dagster.lifecycle.optimization import stage as optimization
from selfimp_dagster.lifecycle.policy import Policy, read_policy
from selfimp_dagster.lifecycle.sampling import DurableSampler
from selfimp_dagster.lifecycle.selection import stage as selection
from selfimp_dagster.records import PROPOSALS, REWARDS, SAMPLES, TASKS, TRAINING
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import Artifact, ArtifactStore

_KEY = RoundKey("tiny", 0)


def _with_recipe(changes: dict[str, Any]) -> Callable[[ArtifactStore, RoundKey], tuple[Policy, Artifact]]:
    def read(store: ArtifactStore, key: RoundKey) -> tuple[Policy, Artifact]:
        policy, start = read_policy(store, key)
        campaign = policy.campaign.with_recipe(changes, where="test")
        return policy.model_copy(update={"campaign": campaign}), start

    return read


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, two_rounds: Home) -> Home:
    home = two_rounds.copy_to(tmp_path_factory.mktemp("interaction") / "installation")
    (home.campaigns / "note.txt").write_text("The bridge was built in 1874.", encoding="utf-8")
    return home


@pytest.mark.parametrize(
    "choice",
    [
        {"method": "episodes", "settings": {"size": 2, "turns": 2, "max_new_tokens": 4}},
        {"method": "backward_construction", "settings": {"size": 2, "turns": 2, "max_new_tokens": 4}},
        {"method": "tool_use", "sampling": {"max_new_tokens": 4}, "call_sampling": {"max_new_tokens": 4}},
        {
            "method": "self_chat",
            "sampling": {"max_new_tokens": 4},
            "question_sampling": {"max_new_tokens": 4},
        },
        {"method": "r_zero", "proposal_sampling": {"max_new_tokens": 4}},
        {"method": "spice", "documents": ["note.txt"], "proposal_sampling": {"max_new_tokens": 4}},
        {"method": "absolute_zero", "proposal_sampling": {"max_new_tokens": 4}},
        {"method": "self_challenging", "writing": {"max_new_tokens": 4}, "sampling": {"max_new_tokens": 4}},
        {"method": "meta_rewarding", "judging": {"max_new_tokens": 4}, "sampling": {"max_new_tokens": 4}},
        {"method": "self_instruct", "writing": {"max_new_tokens": 4}, "sampling": {"max_new_tokens": 4}},
        {"method": "cot_self_instruct", "writing": {"max_new_tokens": 4}, "sampling": {"max_new_tokens": 4}},
        {"method": "evol_instruct", "writing": {"max_new_tokens": 4}, "sampling": {"max_new_tokens": 4}},
        {"method": "magpie", "writing": {"max_new_tokens": 4}, "sampling": {"max_new_tokens": 4}},
        {"method": "curation", "documents": ["note.txt", "python:json"], "sampling": {"max_new_tokens": 4}},
        {"method": "text_to_qa", "documents": ["note.txt"], "writing": {"max_new_tokens": 4}},
        {"method": "rephrase", "writing": {"max_new_tokens": 4}, "sampling": {"max_new_tokens": 4}},
        {
            "method": "mixture",
            "sources": [
                {"method": "policy_sampling", "sampling": {"max_new_tokens": 4}},
                {"method": "magpie", "writing": {"max_new_tokens": 4}, "sampling": {"max_new_tokens": 4}},
            ],
        },
    ],
    ids=lambda choice: choice["method"],
)
def test_the_stage_runs_with_a_policy_that_can_do_none_of_it(
    copy: Home, choice: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rewards = [{"method": "answer"}, {"method": "majority_vote"}]
    changes = {"acquisition": choice, "rewards": rewards, "synthetic": {"least_real": 0}}
    monkeypatch.setattr(stage, "read_policy", _with_recipe(changes))
    monkeypatch.setattr(Judges, "judge", lambda *asked: ScriptedJudge())  # curation has to be told something
    monkeypatch.setattr(stage, "_require_reward", lambda *given: None)  # for most of it there is no verdict
    artifact = stage.generate_corpus(copy.bench, _KEY, {"tasks": 4})
    tasks, samples = artifact.table("tasks", TASKS), artifact.table("samples", SAMPLES)
    proposals, drafts = artifact.table("proposals", PROPOSALS), artifact.table("drafts", SAMPLES)
    assert samples.join(tasks, on="task_id", how="anti").is_empty()
    assert artifact.table("rewards", REWARDS).join(samples, on="sample_id", how="anti").is_empty()
    said = pl.concat([samples, drafts])
    assert said.height > 0, "all that the policy said is on record"
    assert set(proposals["draft_id"].drop_nulls()) <= set(said["sample_id"])
    assert (proposals["task_id"].is_null() == proposals["reason"].is_not_null()).all()


def test_openings_of_the_evaluation_are_reserved(copy: Home) -> None:
    choice = EnvironmentChoice(environment="frozen_lake", episodes=2)
    campaign = read_policy(copy.bench.store, _KEY)[0].campaign
    evaluation = campaign.evaluation.model_copy(update={"environments": (choice,)})
    campaign = campaign.model_copy(update={"evaluation": evaluation})
    reserved = stage._reserved(campaign, 0, copy.campaigns)
    openings = list(evaluation_openings(campaign))
    assert len(openings) == 2
    assert [reserved(opening) for opening in openings] == ["an evaluation item"] * 2


_QUESTIONS = [
    "Sum?",
    "Mean?",
    "Age?",
    "Cost?",
    "Price?",
    "Length?",
    "Hour?",
    "Day?",
    "Year?",
    "Size?",
    "Width?",
    "Height?",
]


class _Script:
    """Proposes questions, every fourth time not in the right form, and answers half of the others with 7."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Completion]]:
        proposing = "Set one new question" in requests[0].messages[-1]["content"]
        said = [
            f"Question: {_QUESTIONS[place]}\nAnswer: 7" if proposing and place % 4 else "07"[place % 2]
            for place in range(len(requests))
        ]
        yield [
            Completion(request.request_id, text, 10, len(text), -1.0, "stop")
            for request, text in zip(requests, said, strict=True)
        ]


def test_self_play_teaches_both_roles_in_one_update(copy: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {
        "synthetic": {"least_real": 0},
        "acquisition": {
            "method": "r_zero",
            "group": 12,
            "answers": 3,
            "proposal_sampling": {"max_new_tokens": 32},
            "sampling": {"max_new_tokens": 4},
        },
        "rewards": [{"method": "r_zero"}],
        "selection": [
            {"method": "verified", "reward": "r_zero", "minimum": 0.01},
            {"method": "difficulty_band", "reward": "r_zero", "low": 0.3, "high": 0.7},
            {"method": "decontamination"},
            {"method": "exact_duplicates"},
            {"method": "near_duplicates", "threshold": 1.0},
        ],
        "optimization": {"method": "grpo", "epochs": 1, "batch_size": 8},
        "minimum_rows": 1,
    }
    for module in (stage, selection, optimization):
        monkeypatch.setattr(module, "read_policy", _with_recipe(changes))
    monkeypatch.setattr(stage, "DurableSampler", lambda engine, *given: DurableSampler(_Script(), *given))
    corpus = stage.generate_corpus(copy.bench, _KEY, {"tasks": 12})
    tasks, samples = corpus.table("tasks", TASKS), corpus.table("samples", SAMPLES)
    proposals, rewards = corpus.table("proposals", PROPOSALS), corpus.table("rewards", REWARDS)
    asking = tasks.filter(verifier="proposing")["task_id"].item()
    accepted = tasks.filter(verifier="unverified")
    assert samples.filter(task_id=asking).height == proposals.height == 12
    assert accepted.height == proposals["task_id"].drop_nulls().len() > 0
    assert samples.height == 12 + 3 * accepted.height
    assert rewards.filter(pl.col("reward") == "r_zero").height == samples.height

    selection.select_subset(copy.bench, _KEY)
    trained = optimization.train_checkpoint(copy.bench, _KEY, {}).table("training", TRAINING)
    assert set(trained["skill"]) == {"proposing", "r_zero"}, (
        "proposals are a group, and answers to a question"
    )
    worth = dict(trained.filter(skill="proposing").select("sample_id", "weight").iter_rows())
    formless = set(proposals.filter(reason="form")["draft_id"])
    used = set(proposals.drop_nulls("task_id")["draft_id"])
    assert formless
    assert all(worth[id_] < 0 for id_ in formless), "what has no form becomes less likely"
    assert all(worth[id_] > 0 for id_ in used), "what splits the solvers becomes likelier"
