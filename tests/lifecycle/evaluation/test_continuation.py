from typing import Any

import pytest
from histories import summary
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.continuation import (
    Budget,
    Continuation,
    Decision,
    decide,
)
from selfimp_dagster.lifecycle.evaluation.steering import Steering

MIX = {"sums": 1.0, "gcd": 1.0}
STEERING = Steering()


def test_the_first_round_starts() -> None:
    assert decide([], Continuation(rounds=8), MIX, STEERING) == Decision(
        proceed=True, reason="Proceeds: the first of 8 planned rounds."
    )


def test_an_open_ended_campaign_has_no_last_round() -> None:
    plan = Continuation(rounds=None, patience=3)
    assert decide([], plan, MIX, STEERING).reason == "Proceeds: the first round."
    far = [summary(998), summary(999)]
    assert (
        decide(far, plan, MIX, STEERING).reason
        == "Proceeds: 1000 rounds are done and arithmetic/0999 was promoted."
    )
    rejected = [summary(number, promoted=False) for number in (7, 8, 9)]
    assert decide(rejected, plan, MIX, STEERING).reason == (
        "Stopped: 3 rounds in a row without a promotion (patience 3)."
    )
    with pytest.raises(ValidationError):
        Continuation(rounds=0)
    with pytest.raises(ValidationError):
        Continuation()  # type: ignore[call-arg]


def test_the_next_round_starts_with_directives() -> None:
    decision = decide([summary(0), summary(1, promoted=False)], Continuation(rounds=8), MIX, STEERING)
    assert decision.proceed
    assert decision.reason == "Proceeds: 2 of 8 planned rounds are done and arithmetic/0001 was rejected."
    assert [directive.kind for directive in decision.directives] == ["shift_budget"]
    assert Decision.model_validate_json(decision.model_dump_json()) == decision


STOPS: list[tuple[dict[str, Any], str]] = [
    ({"alarms": ("anchor items leaked.",)}, "Stopped: hard alarm in arithmetic/0007: anchor items leaked."),
    ({"halt": "nothing helped."}, "Stopped: a person is asked after arithmetic/0007: nothing helped."),
    (
        {"accuracy": {"anchor": 0.9}},
        "Stopped: the target is reached, with an anchor accuracy of 0.900 (target 0.850).",
    ),
    ({"round": "arithmetic/0007"}, "Stopped: all 8 planned rounds are done."),
    ({"tokens": 2_000_000}, "Stopped: 2,002,000 tokens are spent of a budget of 1,000,000."),
    ({"seconds": 7200.0}, "Stopped: 7,320 seconds are spent of a budget of 3,600."),
    ({"promoted": False}, "Stopped: 2 rounds in a row without a promotion (patience 2)."),
]


@pytest.mark.parametrize("first", range(len(STOPS)))
def test_the_first_reason_that_applies_stops_the_campaign(first: int) -> None:
    changes: dict[str, Any] = {}
    for change, _ in STOPS[first:]:
        changes |= change
    plan = Continuation(rounds=8, target=0.85, patience=2, budget=Budget(tokens=1_000_000, seconds=3600))
    decision = decide([summary(0), summary(1, promoted=False), summary(2, **changes)], plan, MIX, STEERING)
    assert (decision.proceed, decision.reason) == (False, STOPS[first][1])


def test_a_promotion_restores_patience() -> None:
    history = [summary(0, promoted=False), summary(1), summary(2, promoted=False)]
    assert decide(history, Continuation(rounds=8, patience=2), MIX, STEERING).proceed


def test_a_branch_counts_the_rounds_beside_it() -> None:
    history = [summary(0), summary(1), summary(6, parent="arithmetic/0001")]
    assert decide(history, Continuation(rounds=8), MIX, STEERING).proceed
    assert not decide(history, Continuation(rounds=7), MIX, STEERING).proceed


def test_a_person_may_go_on_after_an_alarm() -> None:
    history = [summary(0, alarms=("collapse.",)), summary(1)]
    assert decide(history, Continuation(rounds=8), MIX, STEERING).proceed


def test_a_target_without_anchor_is_refused() -> None:
    with pytest.raises(SelfimpError, match="anchor"):
        decide([summary(0, accuracy={"fresh": 0.9})], Continuation(rounds=8, target=0.5), MIX, STEERING)


def test_a_history_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="out of order"):
        decide([summary(1), summary(0)], Continuation(rounds=8), MIX, STEERING)


@given(
    numbers=st.sets(st.integers(0, 20), min_size=1),
    promoted=st.booleans(),
    rounds=st.integers(1, 20),
    patience=st.integers(1, 30),
)
def test_no_round_starts_beyond_the_plan(
    numbers: set[int], promoted: bool, rounds: int, patience: int
) -> None:
    history = [summary(number, promoted=promoted) for number in sorted(numbers)]
    decision = decide(history, Continuation(rounds=rounds, patience=patience), MIX, STEERING)
    assert not decision.proceed or max(numbers) + 1 < rounds
    assert decision.reason.startswith("Proceeds: " if decision.proceed else "Stopped: ")


def test_a_round_that_a_person_starts_after_a_stop_is_steered_too() -> None:
    history = [summary(0)]
    goes_on, stopped = (decide(history, Continuation(rounds=rounds), MIX, STEERING) for rounds in (2, 1))
    assert goes_on.directives
    assert stopped.directives == goes_on.directives


def test_a_campaign_that_is_not_steered_has_no_directives() -> None:
    decision = decide([summary(0)], Continuation(rounds=8), MIX, None)
    assert decision.proceed
    assert decision.directives == ()


def test_a_halt_that_a_person_approved_going_on_after_stops_nothing_and_stays_on_record() -> None:
    halted = summary(0, halt="nothing helped.")
    approved = halted.model_copy(update={"approved": "Ann approved."})
    plan = Continuation(rounds=8)
    stopped, goes_on = (decide([last], plan, MIX, STEERING) for last in (halted, approved))
    assert (stopped.proceed, goes_on.proceed) == (False, True)
    assert stopped.directives == goes_on.directives
    assert goes_on.directives[-1].kind == "halt"
