import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.directives import (
    EVEN,
    FLOOR,
    ShiftBudget,
    read_directives,
    sentences,
    shift_budget,
)

share = st.floats(0, 1)
mixes = st.dictionaries(st.text(min_size=1, max_size=6), st.tuples(st.floats(0.01, 10), share), min_size=1)


def test_the_budget_moves_to_the_weak_skill() -> None:
    shift = shift_budget({"sums": 0.8, "gcd": 0.2, "a guard": 0.0}, {"sums": 1, "gcd": 1})
    assert shift is not None
    # needs 0.2 and 0.8; nine tenths by need, one tenth by base share
    assert shift.weights == pytest.approx({"sums": 0.05 + 0.9 * 0.2, "gcd": 0.05 + 0.9 * 0.8})
    assert shift.signal == "gcd is weakest with an accuracy of 0.20, sums strongest with 0.80."


def test_a_directive_is_told_as_a_sentence_with_its_numbers() -> None:
    shift = shift_budget({"sums": 0.8, "gcd": 0.2}, {"sums": 1, "gcd": 1})
    assert shift is not None
    assert sentences([shift]) == (
        "Acquisition draws 77% gcd, 23% sums, because gcd is weakest with an accuracy of 0.20, "
        "sums strongest with 0.80."
    )
    assert sentences(read_directives(f"[{shift.model_dump_json()}]")) == sentences([shift])
    assert sentences([]) == "None."


def test_even_skills_need_no_shift() -> None:
    assert shift_budget({"sums": 0.50, "gcd": 0.54}, {"sums": 1, "gcd": 3}) is None


def test_a_solved_skill_keeps_a_tenth_of_its_share() -> None:
    shift = shift_budget({"sums": 1.0, "gcd": 0.0}, {"sums": 1, "gcd": 1})
    assert shift is not None
    assert shift.weights["sums"] == pytest.approx(0.05)


@given(mixes)
def test_shares_sum_to_one_and_starve_no_skill(mix: dict[str, tuple[float, float]]) -> None:
    weights = {skill: weight for skill, (weight, _) in mix.items()}
    per_skill = {skill: accuracy for skill, (_, accuracy) in mix.items()}
    shift = shift_budget(per_skill, weights)
    assert (shift is None) == (max(per_skill.values()) - min(per_skill.values()) <= EVEN)
    if shift is not None:
        total = sum(weights.values())
        assert sum(shift.weights.values()) == pytest.approx(1)
        assert all(shift.weights[skill] >= FLOOR * weights[skill] / total for skill in weights)


@given(st.dictionaries(st.text(), share), st.text())
def test_a_directive_survives_json(weights: dict[str, float], signal: str) -> None:
    directive = ShiftBudget(weights=weights, signal=signal)
    assert ShiftBudget.model_validate_json(directive.model_dump_json()) == directive


def test_a_skill_without_accuracy_is_refused() -> None:
    with pytest.raises(SelfimpError, match="gcd"):
        shift_budget({"sums": 0.5}, {"sums": 1, "gcd": 1})
