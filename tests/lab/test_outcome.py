"""What counts as caught, and the rates of false alarms."""

from pathlib import Path

import pytest
from scipy.stats import beta

from selfimp_dagster.lab.outcome import ANY, Outcome, RoundOutcome, append, false_alarms, rate, read
from selfimp_dagster.lab.tables import catch_rows


def _outcome(*rounds: RoundOutcome, failure: str = "forgetting", **parameters: str) -> Outcome:
    return Outcome(
        failure=failure,
        parameters=parameters,
        seed=0,
        campaign="c",
        expected=() if failure == "none" else ("forgetting", "no_evaluation_items"),
        rounds=rounds,
        seconds=1.0,
    )


QUIET = RoundOutcome(number=0, samples=100, incumbent=0.7, candidate=0.6)
OTHER = RoundOutcome(number=1, samples=100, incumbent=0.6, candidate=0.5, alarms={"collapse": "less"})
CAUGHT = RoundOutcome(number=2, samples=100, incumbent=0.5, candidate=0.4, alarms={"forgetting": "gone"})


def test_a_failure_is_caught_in_the_first_round_in_which_an_expected_monitor_sounds() -> None:
    outcome = _outcome(QUIET, OTHER, CAUGHT)
    assert outcome.caught == CAUGHT
    assert (outcome.caught_by, outcome.samples, outcome.others) == (("forgetting",), 300, ("collapse",))
    assert outcome.course == (0.7, 0.6, 0.5, 0.4)


def test_an_alarm_of_another_monitor_is_no_catch() -> None:
    outcome = _outcome(QUIET, OTHER)
    assert outcome.caught is None
    assert catch_rows([outcome])[0][:5] == ("forgetting", "1", "0", "", "")


def test_a_check_that_ends_the_round_may_be_what_catches() -> None:
    outcome = _outcome(RoundOutcome(number=0, samples=10, ended="no_evaluation_items", why="shared"))
    assert outcome.caught_by == ("no_evaluation_items",)
    assert outcome.course == ()


def test_a_run_that_broke_otherwise_is_not_caught() -> None:
    assert _outcome(RoundOutcome(number=0, ended="checkpoint", why="no rows")).caught is None


def test_outcomes_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    written = [_outcome(QUIET, CAUGHT), _outcome(QUIET, failure="none", ground="voted")]
    for outcome in written:
        append(path, outcome)
    assert read(path) == written
    assert read(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("n", [1, 20, 60])
def test_without_any_false_alarm_the_bound_is_that_of_clopper_and_pearson(n: int) -> None:
    found = rate(0, n)
    assert found.low == 0
    assert found.high == pytest.approx(1 - 0.05 ** (1 / n))


def test_the_interval_of_a_rate_is_exact() -> None:
    found = rate(3, 20)
    assert (found.low, found.high) == pytest.approx((beta.ppf(0.025, 3, 18), beta.ppf(0.975, 4, 17)))


def test_a_campaign_with_two_alarms_counts_once() -> None:
    sounded = _outcome(QUIET, OTHER, OTHER.model_copy(update={"number": 2}), failure="none")
    found = false_alarms([sounded, _outcome(QUIET, failure="none")])
    assert (found[ANY].events, found[ANY].n, found["collapse"].events) == (1, 2, 1)
