import pytest
from pydantic import ValidationError

from selfimp_dagster.lifecycle.selection import SelectionStep


def test_keeps_the_tasks_whose_pass_rate_is_in_the_band(corpus, judge):
    rewards = {"a1": 1.0, "a2": 1.0, "b1": 1.0, "b2": 0.0, "c1": 0.0, "c2": 0.0, "d1": None}
    context = corpus([(s, s[0], s) for s in rewards], rewards=rewards)
    fates = judge("difficulty_band", context)
    assert {s: fate["score"] for s, fate in fates.items()} == {
        "a1": 1.0,
        "a2": 1.0,
        "b1": 0.5,
        "b2": 0.5,
        "c1": 0.0,
        "c2": 0.0,
        "d1": None,
    }
    assert [s for s, fate in fates.items() if fate["kept"]] == ["b1", "b2"]
    assert fates["b1"]["evidence"] == '{"passed":1,"samples":2}'


def test_the_band_includes_its_ends(corpus, judge):
    rewards = {"a1": 1.0, "a2": 0.0, "b1": 1.0}
    context = corpus([(s, s[0], s) for s in rewards], rewards=rewards)
    assert all(fate["kept"] for fate in judge("difficulty_band", context, low=0.5, high=1.0).values())


def test_a_band_upside_down_is_refused():
    with pytest.raises(ValidationError, match=r"low 0\.9 is above high 0\.1"):
        SelectionStep.of("difficulty_band", low=0.9, high=0.1)
