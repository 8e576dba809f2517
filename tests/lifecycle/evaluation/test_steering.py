"""Every rule on histories made by hand, at its boundary too."""

from math import inf, log, sqrt

import pytest
from histories import fall, summary
from hypothesis import given
from hypothesis import strategies as st

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.directives import RequireVerification
from selfimp_dagster.lifecycle.evaluation.steering import (
    RULES,
    Steering,
    bandit_rewards,
    direct,
    distil,
    halt_reason,
    move_difficulty,
    readings,
    recentre_band,
    replay,
    require_verification,
    shift_budget,
    smaller_step,
    stop_refining,
    switch_recipe,
    ucb1,
)
from selfimp_dagster.lifecycle.evaluation.summary import Counted, Flips, PassRates, RoundSummary

STEERING = Steering()
MIX = {"sums": 1.0, "gcd": 1.0}


def of(right: float, n: int) -> Counted:
    return Counted(right=right, n=n)


def test_the_budget_moves_to_the_weak_skill() -> None:
    accuracies = {"sums": of(80, 100), "gcd": of(20, 100), "a guard": of(0, 100)}
    shift = shift_budget(accuracies, MIX, STEERING)
    assert shift is not None
    # needs 0.2 and 0.8; nine tenths by need, one tenth by base share
    assert shift.weights == pytest.approx({"sums": 0.05 + 0.9 * 0.2, "gcd": 0.05 + 0.9 * 0.8})
    assert shift.signal == "gcd is weakest with an accuracy of 0.20, sums strongest with 0.80."


def test_a_skill_counts_as_weak_only_where_the_interval_says_so() -> None:
    # Newcombe for 58 and 40 of 100: 0.0415 to 0.3091; for 59 and 40 of 100: 0.0514 to 0.3186
    assert shift_budget({"sums": of(58, 100), "gcd": of(40, 100)}, MIX, STEERING) is None
    assert shift_budget({"sums": of(59, 100), "gcd": of(40, 100)}, MIX, STEERING) is not None
    # the same shares of a tenth of the items say nothing
    assert shift_budget({"sums": of(5.9, 10), "gcd": of(4.0, 10)}, MIX, STEERING) is None


def test_three_skills_are_held_to_a_stricter_interval_than_two() -> None:
    two = {"sums": of(59, 100), "gcd": of(40, 100)}
    three = {**two, "products": of(50, 100)}
    assert shift_budget(two, MIX, STEERING) is not None
    assert shift_budget(three, {**MIX, "products": 1.0}, STEERING) is None
    assert shift_budget({"sums": of(1, 100)}, {"sums": 1.0}, STEERING) is None


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=6), st.tuples(st.floats(0.01, 10), st.integers(0, 200)), min_size=1
    )
)
def test_shares_sum_to_one_and_starve_no_skill(mix: dict[str, tuple[float, int]]) -> None:
    weights = {skill: weight for skill, (weight, _) in mix.items()}
    shift = shift_budget({skill: of(right, 200) for skill, (_, right) in mix.items()}, weights, STEERING)
    if shift is not None:
        assert sum(shift.weights.values()) == pytest.approx(1)
        total = sum(weights.values())
        for skill, weight in weights.items():
            assert shift.weights[skill] >= STEERING.floor * weight / total - 1e-12


def test_a_skill_without_accuracy_is_refused() -> None:
    with pytest.raises(SelfimpError, match="gcd"):
        shift_budget({"sums": of(1, 2)}, MIX, STEERING)


@pytest.mark.parametrize(
    ("right", "n", "hardest"),
    [
        (12, 12, 5),  # wilson 0.757 to 1
        (8, 10, 4),  # wilson 0.490 to 0.943: it may be 0.5 or less
        (9, 10, 5),  # wilson 0.596 to 0.982
        (0, 15, 4),  # wilson 0 to 0.204: it may be 0.2 or more
        (0, 16, 3),  # wilson 0 to 0.194
    ],
)
def test_difficulty_moves_by_one_step_where_the_interval_says_so(right: int, n: int, hardest: float) -> None:
    levels = {"copy": {3.0: of(10, 10), 4.0: of(right, n), 5.0: of(10, 10), 6.0: of(10, 10)}}
    moved = move_difficulty(levels, {"copy": 4.0}, STEERING)
    assert moved is not None
    assert (moved.hardest, moved.hardest_before) == ({"copy": hardest}, {"copy": 4.0})


def test_difficulty_stays_among_the_levels_that_there_are() -> None:
    levels = {"copy": {1.0: of(0, 50), 2.0: of(50, 50)}, "sum": {1.0: of(5, 5)}}
    for now in (1.0, 2.0):
        moved = move_difficulty(levels, {"copy": now, "sum": 1.0}, STEERING)
        assert moved is not None
        assert moved.hardest == {"copy": now}, "sum has one level only"
    assert move_difficulty({"sum": levels["sum"]}, {"sum": 1.0}, STEERING) is None
    unmeasured = move_difficulty(levels, {"copy": 7.0}, STEERING)
    assert unmeasured is not None
    assert unmeasured.hardest == {"copy": 7.0}
    assert move_difficulty(levels, {}, STEERING) is None


def test_the_band_follows_the_pile_step_by_step() -> None:
    never, always, even = (
        PassRates(never=80, always=5, n=100),
        PassRates(never=5, always=80, n=100),
        PassRates(never=40, always=40, n=100),
    )
    up = recentre_band([summary(0, pass_rates=always), summary(1, pass_rates=always)], STEERING)
    assert up is not None
    assert up.move == 0.2
    down = recentre_band([summary(0, pass_rates=never), summary(1, pass_rates=even)], STEERING)
    assert down is not None
    assert down.move == -0.1
    assert "80 of 100 train tasks were never solved and 5 always" in down.signal
    back = [summary(0, pass_rates=never), summary(1, pass_rates=always), summary(2)]
    assert recentre_band(back, STEERING) is None


def test_a_pile_needs_an_interval_above_the_half() -> None:
    # wilson for 59 of 100: 0.492 to 0.681; for 60 of 100: 0.502 to 0.691
    for never, moved in ((59, False), (60, True)):
        history = [summary(0, pass_rates=PassRates(never=never, always=0, n=100))]
        assert (recentre_band(history, STEERING) is not None) == moved


def test_verification_is_required_once_the_precision_surely_fell() -> None:
    # wilson for 84 of 100: 0.756 to 0.899; for 85 of 100: 0.767 to 0.907
    assert require_verification([summary(0, selected=of(85, 100))], STEERING) is None
    first = require_verification([summary(0, selected=of(84, 100))], STEERING)
    assert first is not None
    assert first.more_confidence == 0.1
    better = summary(1, selected=of(99, 100))
    kept = require_verification([summary(0, selected=of(84, 100)), better], STEERING)
    assert kept == first, "what helped is not taken back"
    again = [summary(0, selected=of(84, 100)), summary(1, selected=of(70, 100)), summary(2)]
    assert require_verification(again, STEERING) == RequireVerification(
        more_confidence=0.2,
        signal="in 2 rounds fewer than 90% of the selected rows were right, 70 of 100 in the last of them.",
    )


def test_a_skill_that_falls_asks_for_replay_and_a_guard_for_a_smaller_step() -> None:
    skill, guard = [summary(0, skill_change=fall())], [summary(0, guard_change=fall())]
    assert (replay(guard, STEERING), smaller_step(skill, STEERING)) == (None, None)
    more, smaller = replay(skill, STEERING), smaller_step(guard, STEERING)
    assert more is not None
    assert smaller is not None
    assert (more.more, smaller.factor) == (0.5, 0.5)
    assert more.signal == (
        "in one round something fell beyond its interval: -0.20 for sums: 0.40, best so far 0.60."
    )
    for high in (0.0, None):
        assert replay([summary(0, skill_change=fall(high=high))], STEERING) is None


def test_sharpening_asks_for_both_and_each_time_adds_up_to_a_bound() -> None:
    history = [summary(number, sharpening=True) for number in range(9)]
    seen = [(replay(history[:n], STEERING), smaller_step(history[:n], STEERING)) for n in (1, 2, 9)]
    assert [more.more for more, _ in seen if more] == [0.5, 1.0, 2.0]
    assert [smaller.factor for _, smaller in seen if smaller] == [0.5, 0.25, 0.1]


def _tried(number: int, strategy: str | None, gain: float, tokens: int = 1_000_000) -> RoundSummary:
    return summary(number, strategy=strategy, gain=gain, tokens=tokens)


def test_ucb1_against_values_computed_by_hand() -> None:
    # Auer et al. 2002, figure 1: mean + sqrt(2 ln n / n_j)
    assert ucb1([1.0, 0.0, 0.5], 10, 1.0) == pytest.approx(0.5 + sqrt(2 * log(10) / 3))
    assert ucb1([1.0, 0.0, 0.5], 10, 0.0) == 0.5
    assert ucb1([], 10, 0.0) == inf


def test_the_bandit_tries_every_recipe_and_then_the_highest_bound() -> None:
    history = [_tried(0, None, 0.10)]
    chosen = [switch_recipe(history, ["dpo", "base"], STEERING)]
    history.append(_tried(1, "base", 0.02))
    chosen.append(switch_recipe(history, ["dpo", "base"], STEERING))
    history.append(_tried(2, "dpo", 0.06, tokens=2_000_000))
    chosen.append(switch_recipe(history, ["dpo", "base"], STEERING))
    # gains per million tokens 0.10, 0.02, 0.03: scaled 1, 0, 0.125; all bounds have sqrt(2 ln 3)
    assert bandit_rewards(history, ["dpo", "base"], STEERING) == {
        None: [1.0],
        "base": [0.0],
        "dpo": [pytest.approx(0.125)],
    }
    assert [directive.strategy if directive else "" for directive in chosen] == ["base", "dpo", None]
    assert chosen[2] is not None
    assert chosen[2].signal == (
        "the campaign's own recipe has a bound of 2.48, the recipe base has a bound of 1.48, "
        "the recipe dpo has a bound of 1.61."
    )
    assert chosen[2].order == "The round follows the campaign's own recipe"


def test_the_bandit_explores_what_was_tried_seldom() -> None:
    # base: 6 tries at 1; own: one try at 0: bounds 1 + sqrt(2 ln 7 / 6) = 1.805 and sqrt(2 ln 7) = 1.973
    history = [_tried(0, None, 0.0), *(_tried(number, "base", 0.1) for number in range(1, 7))]
    chosen = switch_recipe(history, ["base"], STEERING)
    assert chosen is not None
    assert chosen.strategy is None
    greedy = switch_recipe(history, ["base"], Steering(exploration=0.0))
    assert greedy is not None
    assert greedy.strategy == "base"


def test_gain_may_be_divided_by_seconds_and_a_recipe_that_is_gone_counts_for_nothing() -> None:
    history = [
        _tried(0, None, 0.1).model_copy(update={"seconds": 1000.0}),
        _tried(1, "slow", 0.1).model_copy(update={"seconds": 2000.0}),
        _tried(2, "gone", 9.0),
        summary(3),  # of before gains were recorded
    ]
    assert bandit_rewards(history, ["slow"], Steering(cost="seconds")) == {None: [1.0], "slow": [0.0]}
    assert bandit_rewards(history, ["slow"], STEERING) == {None: [0.5], "slow": [0.5]}
    assert switch_recipe(history, [], STEERING) is None


def _flips(number: int, to_right: int, to_wrong: int, n: int) -> RoundSummary:
    return summary(number, refined=Flips(to_right=to_right, to_wrong=to_wrong, n=n))


def test_refinement_is_extended_where_it_surely_mends_and_stopped_where_it_surely_does_not() -> None:
    # wilson for 6 of 6: 0.610 to 1; for 3 of 3: 0.438 to 1
    assert distil([_flips(0, 3, 0, 32)], STEERING) is None
    mends = [_flips(0, 3, 0, 32), _flips(1, 3, 0, 32)]
    more = distil(mends, STEERING)
    assert more is not None
    assert more.signal == "refinement made 6 of 64 answers right and 0 wrong."
    assert stop_refining(mends, STEERING) is None
    breaks = [_flips(0, 0, 4, 32)]  # wilson for 0 of 4: 0 to 0.490
    assert stop_refining(breaks, STEERING) is not None
    assert distil(breaks, STEERING) is None
    assert stop_refining([_flips(0, 0, 3, 32)], STEERING) is None  # 0 of 3: 0 to 0.562


def test_refinement_that_changes_hardly_anything_is_not_worth_its_cost() -> None:
    # wilson for 0 of 73: 0 to 0.04999; for 0 of 72: 0 to 0.0506
    assert stop_refining([_flips(0, 0, 0, 72)], STEERING) is None
    assert stop_refining([_flips(0, 0, 0, 73)], STEERING) is not None
    rarely = [_flips(0, 8, 0, 1000)]
    assert distil(rarely, STEERING) is None, "it mends, but hardly ever"
    assert stop_refining(rarely, STEERING) is not None


def test_refinement_is_tried_again_once_its_measurements_are_old() -> None:
    history = [_flips(0, 0, 0, 100), summary(1), summary(2)]
    assert stop_refining(history, STEERING) is not None
    assert stop_refining([*history, summary(3)], STEERING) is None


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        ({"selected": of(50, 100)}, "fewer than 90% of the selected rows were right"),
        ({"skill_change": fall()}, "a skill fell beyond its interval"),
        ({"guard_change": fall()}, "a guard skill fell beyond its interval"),
    ],
)
def test_a_person_is_asked_after_what_steering_did_not_mend(signal: dict[str, object], said: str) -> None:
    history = [summary(number, **signal) for number in range(3)]
    assert halt_reason(history, STEERING) == f"in 3 rounds in a row {said}, whatever was directed."
    assert halt_reason(history[:2], STEERING) is None
    assert halt_reason([*history[:2], summary(2)], STEERING) is None
    assert halt_reason(history, None) is None
    assert halt_reason(history, Steering(rules=("shift_budget",))) is None


def _history() -> list[RoundSummary]:
    signals = {
        "levels": {"sums": {1.0: of(20, 20), 2.0: of(1, 20)}, "gcd": {1.0: of(0, 40)}},
        "attempted": {"sums": 1.0, "gcd": 1.0},
        "pass_rates": PassRates(never=90, always=1, n=100),
        "selected": of(50, 100),
        "skill_change": fall(),
        "guard_change": fall(),
        "gain": 0.1,
    }
    return [
        summary(0, refined=Flips(to_right=9, to_wrong=0, n=32), **signals),
        summary(1, refined=Flips(to_right=9, to_wrong=0, n=32), halt="nothing helped.", **signals),
    ]


def test_every_rule_speaks_in_order_and_can_be_switched_off() -> None:
    spoken = [directive.kind for directive in direct(_history(), STEERING, MIX, ["dpo"])]
    assert spoken == [rule for rule in RULES if rule != "stop_refining"]
    for rule in spoken:
        others = tuple(name for name in RULES if name != rule)
        left = direct(_history(), Steering(rules=others), MIX, ["dpo"])
        assert [directive.kind for directive in left] == [name for name in spoken if name != rule]
    assert direct(_history(), Steering(rules=()), MIX) == ()


def test_directives_follow_from_the_history_alone() -> None:
    history = _history()
    before = [found.model_dump_json() for found in history]
    first = direct(history, STEERING, MIX, ["dpo"])
    assert direct(_history(), STEERING, MIX, ["dpo"]) == first
    assert [found.model_dump_json() for found in history] == before
    read_back = [RoundSummary.model_validate_json(text) for text in before]
    assert direct(read_back, STEERING, MIX, ["dpo"]) == first


def test_what_became_of_a_directive_is_read_off_the_next_round() -> None:
    before, after = (
        {
            directive.kind: readings(directive, found)
            for directive in direct(_history(), STEERING, MIX, ["dpo"])
        }
        for found in (_history()[1], summary(2, selected=of(9, 10), skill_change=fall(0.1, high=0.2)))
    )
    assert before["shift_budget"] == after["shift_budget"] == {"sums": 0.6, "gcd": 0.2}
    assert before["move_difficulty"] == {"sums at 2": 0.05}
    assert after["move_difficulty"] == {}
    assert (before["require_verification"], after["require_verification"]) == (
        {"selected rows right": 0.5},
        {"selected rows right": 0.9},
    )
    assert before["replay"] == {"skill change": -0.2, "sharpening": 0.0}
    assert after["replay"] == {"skill change": 0.1, "sharpening": 0.0}
    assert before["recentre_band"] == {"never solved": 0.9, "always solved": 0.01}
    assert before["distil"] == {"made right": 9 / 32, "made wrong": 0.0}
    assert before["switch_recipe"] == {"gain per million tokens": 100.0}


def test_a_round_from_before_signals_calls_for_nothing_but_a_shift() -> None:
    old = RoundSummary.model_validate(summary(0).model_dump(exclude={"signals": set(), "halt": True}))
    counted = old.model_copy(
        update={
            "signals": old.signals.model_copy(update={"skills": {"sums": of(60, 100), "gcd": of(20, 100)}})
        }
    )
    assert [found.kind for found in direct([counted], STEERING, MIX)] == ["shift_budget"]
