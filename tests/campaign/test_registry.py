"""Methods are found by name; a name has one owner."""

import pytest
from pydantic import BaseModel

from selfimp_dagster import registry
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.registry import STAGES, all_methods, find_method, method


class _NoParameters(BaseModel):
    pass


def test_a_name_that_is_taken_is_refused_and_keeps_its_owner() -> None:
    owner = find_method("optimization", "sft")
    with pytest.raises(ValueError, match="optimization method 'sft' is already sft"):

        @method("optimization", "sft", parameters=_NoParameters, section="4.2", paper="arXiv:0000.00000")
        def another() -> None:
            """Another."""

    assert find_method("optimization", "sft") == owner


def test_the_same_name_may_be_used_in_another_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))

    @method("refinement", "sft", parameters=_NoParameters, section="5", paper="arXiv:0000.00000")
    def polish() -> None:
        """Polishes."""

    assert find_method("refinement", "sft").function is polish
    assert find_method("refinement", "sft").summary == "Polishes."


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SelfimpError) as caught:
        find_method("optimization", "stf")
    assert caught.value.what == "there is no optimization method 'stf'"
    assert "sft" in caught.value.fix
    assert "policy_sampling" not in caught.value.fix


def test_methods_are_listed_by_stage_and_name_and_say_where_they_come_from() -> None:
    methods = all_methods()
    assert methods == sorted(methods, key=lambda m: (STAGES.index(m.stage), m.name))
    assert {m.stage for m in methods} == set(STAGES)
    for found in methods:
        assert found.summary, found.name
        assert found.section, found.name
        assert found.paper.startswith("arXiv:"), found.name
