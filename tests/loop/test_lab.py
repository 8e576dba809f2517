"""Failures in real rounds, from a student that knows none of the skills: enough for what needs no skill."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from selfimp_dagster.lab import run
from selfimp_dagster.lab.failures import find_failure
from selfimp_dagster.lab.outcome import Outcome
from selfimp_dagster.lab.run import Lab, run_failure


@pytest.fixture
def lab(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(run, "make_student", lambda lab, tell: tiny_model)
    return Lab(tmp_path / "lab")


def _run(lab: Lab, name: str, **parameters: object) -> Outcome:
    failure = find_failure(name)
    chosen: BaseModel = failure.parameters.model_validate(parameters)
    return run_failure(failure, chosen, lab, rounds=1)


def test_an_item_in_the_corpus_ends_the_round_before_anything_is_trained(lab: Lab) -> None:
    outcome = _run(lab, "verbatim-leak")
    assert outcome.caught_by == ("no_evaluation_items",)
    assert outcome.course == ()


def test_a_verifier_that_errs_is_caught_by_its_disagreement_with_the_tasks(lab: Lab) -> None:
    outcome = _run(lab, "flipped-verdicts")
    assert "judge_errors" in outcome.caught_by
    assert outcome.samples > 160
    assert len(outcome.course) == 2
    assert 0 <= max(outcome.course) < 0.2  # it knew nothing, and a fifth of its verdicts taught it nothing
    again = lab.new_name("flipped-verdicts-s0")
    assert again == "flipped-verdicts-s0-2"
