"""A candidate that forgets what must be kept is rejected, and the campaign goes on without it."""

from pathlib import Path

import polars as pl
import pytest
from events import check_results
from home import RUINOUS, Home

from selfimp_dagster.lifecycle.evaluation.report import read_report
from selfimp_dagster.lifecycle.ledger import read_ledger
from selfimp_dagster.lifecycle.next_round import next_round
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.records import EVALUATIONS, TASKS
from selfimp_dagster.round_key import RoundKey

_FIRST, _SECOND = RoundKey("tiny", 0), RoundKey("tiny", 1)


@pytest.fixture(scope="module")
def rejected(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    """Two rounds that both ruin the guard skill: to read, not to change.

    Without steering, which would let the second round learn more slowly, and well.
    """
    home = Home(tmp_path_factory.mktemp("rejected") / "installation", tiny_model)
    home.write_campaign(recipe={"optimization": {"learning_rate": RUINOUS}}, steering=None)
    home.run(str(_FIRST), str(_SECOND))
    return home


def test_a_collapsed_guard_skill_is_a_rejection_that_says_which_and_how_far(rejected: Home) -> None:
    report = read_report(rejected.store, _FIRST)
    assert report.score("anchor", "candidate").accuracy > 0.9, "it did learn"
    assert report.score("guard", "incumbent").accuracy == 1.0
    assert report.score("guard", "candidate").accuracy < 0.5
    assert not report.verdict.promoted
    (reason,) = report.verdict.reasons
    assert reason.startswith("Rejected: guard skill keeping fell from 1.00 to 0.")
    with rejected.instance() as instance:
        results = check_results(instance, "eval_report", str(_FIRST))
    assert (results["promoted"], results["guard_skills_hold"], results["report_complete"]) == (
        False,
        False,
        True,
    )


def test_the_incumbent_stays(rejected: Home) -> None:
    policy, artifact = read_policy(rejected.store, _SECOND)
    assert policy.parent == str(_FIRST)
    assert policy.weights_round is None
    assert policy.policy_hash == policy_hash(rejected.model)
    assert set(artifact.manifest.parents) == {f"{_FIRST}/eval_report"}
    assert read_ledger(rejected.store)["weights_round"].to_list() == [None, None]


def test_the_next_round_tries_other_tasks_with_another_seed(rejected: Home) -> None:
    seeds = {read_policy(rejected.store, key)[0].seed for key in (_FIRST, _SECOND)}
    assert len(seeds) == 2
    first, second = (
        set(rejected.store.open(key, "generated_corpus").table("tasks", TASKS)["prompt"])
        for key in (_FIRST, _SECOND)
    )
    assert len(second - first) > len(second) / 2


def test_the_incumbents_answers_are_not_drawn_again(rejected: Home) -> None:
    rows = rejected.store.open(_SECOND, "eval_report").table("evaluations", EVALUATIONS)
    anchor = rows.filter((pl.col("arm") == "incumbent") & (pl.col("suite") == "anchor"))
    assert anchor["reused"].all()


def test_patience_ends_the_campaign_with_its_reason(rejected: Home) -> None:
    following = next_round(rejected.store, rejected.campaigns, "tiny")
    assert not following.decision.proceed
    reason = "Stopped: 2 rounds in a row without a promotion (patience 2)."
    assert following.decision.reason == reason
    assert read_ledger(rejected.store)["decision"].to_list()[-1] == reason


def test_more_patience_in_the_campaign_file_lets_it_go_on(rejected: Home, tmp_path: Path) -> None:
    home = rejected.copy_to(tmp_path / "copy")
    home.write_campaign(continuation={"patience": 3})
    following = next_round(home.store, home.campaigns, "tiny")
    assert following.decision.proceed
    assert str(following.key) == "tiny/0002"
