"""A budget that is spent in the midst of a round ends it there, and the round goes on when it is raised."""

import pytest
from home import Home

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.report import read_monitors, read_report
from selfimp_dagster.lifecycle.spending import BudgetSwitch
from selfimp_dagster.records import SAMPLES
from selfimp_dagster.round_key import RoundKey

_FIRST, _SECOND, _THIRD = (RoundKey("tiny", number) for number in range(3))


class Clock:
    """Seconds that pass when they are told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_line_the_round_and_the_stage_are_added_up(finished: Home) -> None:
    line = [read_report(finished.store, key) for key in (_FIRST, _SECOND)]
    before = line[0].summary.tokens + sum(
        line[1].costs[stage].tokens for stage in ("generated_corpus", "selected_subset", "checkpoint")
    )
    finished.write_campaign(continuation={"budget": {"tokens": before + 10}})
    switch = BudgetSwitch(finished.store, finished.campaigns, _SECOND, "refined_outputs")
    switch.look(4)
    switch.look(6)
    with pytest.raises(
        SelfimpError, match=f"the budget is spent: {before + 11:,} of {before + 10:,} tokens"
    ) as e:
        switch.look(1)
    assert e.value.where == "tiny/0001 refined_outputs"
    assert "raise continuation.budget.tokens" in e.value.fix


def test_seconds_pass_while_a_stage_runs(finished: Home) -> None:
    spent = sum(read_report(finished.store, key).summary.seconds for key in (_FIRST, _SECOND))
    finished.write_campaign(continuation={"budget": {"seconds": spent + 5}})
    clock = Clock()
    first = BudgetSwitch(finished.store, finished.campaigns, _FIRST, "generated_corpus", clock)
    clock.now += spent + 4
    first.look()
    clock.now += 2
    with pytest.raises(SelfimpError, match="seconds, in the midst of the round"):
        first.look()


def test_no_budget_ends_nothing_and_a_lost_file_leaves_what_was_recorded(finished: Home) -> None:
    BudgetSwitch(finished.store, finished.campaigns, _THIRD, "generated_corpus").look(10**12)
    (finished.campaigns / "tiny.yaml").unlink()
    BudgetSwitch(finished.store, finished.campaigns, _SECOND, "generated_corpus").look(10**12)
    BudgetSwitch(finished.store, finished.campaigns, _THIRD, "generated_corpus").look(10**12)


def test_a_round_that_its_budget_ended_goes_on_where_it_stopped(home: Home) -> None:
    home.write_campaign(continuation={"budget": {"tokens": 1_000}})
    for _ in range(2):  # running it again is no way around the budget
        with pytest.raises(SelfimpError, match=r"the budget is spent: .* of 1,000 tokens"):
            home.run(str(_FIRST))
        assert not home.store.has(_FIRST, "generated_corpus")
    assert list(home.store.folder.glob("tiny/0000/generated_corpus/.draft-*/.parts/*.parquet"))
    home.write_campaign(continuation={"budget": {"tokens": 1_000_000}})
    with home.instance() as instance:
        result = home.materialize(instance, str(_FIRST), "generated_corpus")
        assert result.success
    corpus = home.store.open(_FIRST, "generated_corpus")
    assert corpus.table("samples", SAMPLES).height == 48 * 4


def test_a_budget_is_read_with_the_report(finished: Home) -> None:
    readings = {reading.monitor: reading for reading in read_monitors(finished.store, _SECOND)}
    assert readings["budget"].state == "not applicable"
