"""A campaign that evolves: children with their gates, killed and gone on with, and nothing done twice."""

import json

import pytest
from home import Home

from selfimp_dagster import evolve as module
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.evolve import evolve
from selfimp_dagster.lifecycle.evolution.stage import read_archive, read_proposal
from selfimp_dagster.lifecycle.policy import read_policy
from selfimp_dagster.round_key import RoundKey

_SPACE = {
    "optimization.learning_rate": {"kind": "range", "low": 1e-5, "high": 1e-3, "scale": "log"},
    "acquisition.samples_per_task": {"kind": "choice", "values": [2, 4, 6]},
}


def test_an_evolution_goes_on_where_it_was_killed(finished: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    finished.write_campaign(evolution={"space": _SPACE})
    child = RoundKey("tiny", 2)
    with finished.instance() as instance, monkeypatch.context() as patch:

        def killed(*given: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(module, "run_round", killed)
        with pytest.raises(KeyboardInterrupt):
            evolve(instance, finished.workbench, "tiny", 2)
    proposed = read_proposal(finished.store, child)
    assert proposed is not None
    with finished.instance() as instance:
        told = []
        ended = evolve(instance, finished.workbench, "tiny", 2, lambda *given: told.append(given))
        assert told == [(child, proposed)]
        assert ended == "2 children were tried."
        assert evolve(instance, finished.workbench, "tiny", 2, lambda *given: told.append(given)) == ended
        assert len(told) == 1, "nothing is done twice"
        over = evolve(instance, finished.workbench, "tiny", 9)
        assert over == "Stopped: all 3 planned rounds are done."
    policy, _ = read_policy(finished.store, child)
    assert (policy.parent, policy.recipe_changes) == (proposed.parent, proposed.changes)
    archive = read_archive(finished.store, "tiny")
    assert archive["round"].to_list() == ["tiny/0000", "tiny/0001", "tiny/0002"]
    assert json.loads(archive["changes"][2]) == proposed.changes
    assert archive["proposed_by"].to_list() == [None, None, "mutation"]
    assert archive["clade_promoted"][0] + archive["clade_rejected"][0] == 3


def test_a_campaign_without_a_space_does_not_evolve(home: Home) -> None:
    with home.instance() as instance, pytest.raises(SelfimpError, match="says no space to search"):
        evolve(instance, home.workbench, "tiny", 2)
