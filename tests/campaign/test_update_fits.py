"""A recipe whose rewards do not tell an update enough is refused when it is read, with the reason."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from home import tiny_campaign
from pydantic import BaseModel

from selfimp_dagster import registry
from selfimp_dagster.campaign import campaign_schema, parse_campaign
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.optimization.fit import check_recipe_updates
from selfimp_dagster.registry import Signal, find_method, method


class _None(BaseModel):
    pass


@pytest.fixture(autouse=True)
def _rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards that tell one thing each."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    signals: dict[str, Signal] = {"ranks": "ordering", "rates": "score", "counts": "votes"}
    for name, signal in signals.items():

        @method(
            "reward",
            name,
            parameters=_None,
            section="4.3",
            paper="arXiv:0000.00000",
            gives=frozenset({signal}),
        )
        def judge(context: Any, parameters: _None) -> pl.DataFrame:
            """Judges."""
            raise NotImplementedError


def parse(optimization: dict[str, Any], *rewards: str) -> Any:
    data = tiny_campaign(Path("/nowhere"))
    data["recipe"]["optimization"] = optimization
    data["recipe"]["rewards"] = [{"method": name} for name in rewards]
    return parse_campaign(data, where="tiny")


@pytest.mark.parametrize(
    ("update", "rewards", "said"),
    [
        (
            "kto",
            ["ranks"],
            "kto needs a reward that tells whether a response is accepted or how good a response",
        ),
        ("dpo", ["counts"], "dpo needs a reward that tells"),
        ("grpo", ["counts"], "grpo needs a reward that tells"),
        ("scpo", ["answer"], "scpo needs a reward that tells how many responses agree"),
        ("restrain", ["rates", "ranks"], "restrain needs a reward that tells how many responses agree"),
        ("spin", ["rates"], "spin needs a reward that tells what the right answer is"),
    ],
)
def test_what_an_update_does_not_hear_is_said(update: str, rewards: list[str], said: str) -> None:
    with pytest.raises(SelfimpError) as caught:
        parse({"method": update}, *rewards)
    assert f"optimization: {said}" in caught.value.what
    assert all(f"{name}: " in caught.value.what for name in rewards)
    assert "add such a reward to recipe.rewards, or choose another update" in caught.value.what


@pytest.mark.parametrize(
    ("update", "rewards"),
    [
        ("sft", ["counts"]),
        ("dpo", ["ranks"]),
        ("sppo", ["ranks"]),
        ("grpo", ["counts", "rates"]),
        ("rloo", ["answer"]),
        ("kto", ["ranks", "rates"]),
        ("scpo", ["counts"]),
        ("restrain", ["rates", "counts"]),
        ("spin", ["answer"]),
    ],
)
def test_what_fits_is_read(update: str, rewards: list[str]) -> None:
    assert parse({"method": update}, *rewards).recipe.optimization.method == update


def test_the_reward_that_is_named_must_be_there_and_must_fit() -> None:
    with pytest.raises(SelfimpError, match="learn from the reward rates, which is not among the recipe's"):
        parse({"method": "dpo", "reward": "rates"}, "answer")
    with pytest.raises(SelfimpError, match=r"kto needs a reward .* this recipe has ranks: which of the"):
        parse({"method": "kto", "reward": "ranks"}, "answer", "ranks")
    assert parse({"method": "kto", "reward": "answer"}, "ranks", "answer")


def test_every_update_of_a_sequence_must_fit() -> None:
    updates = [{"method": "sft"}, {"method": "scpo"}]
    with pytest.raises(SelfimpError, match="scpo needs a reward that tells how many responses agree"):
        parse({"method": "sequence", "updates": updates}, "answer")
    assert parse({"method": "sequence", "updates": updates}, "answer", "counts")


@pytest.mark.parametrize(
    ("optimization", "said"),
    [
        (
            {"method": "sequence", "updates": [{"method": "sft"}]},
            "updates: Tuple should have at least 2 items",
        ),
        (
            {"method": "sequence", "updates": [{"method": "sft"}, {"method": "sequence"}]},
            "updates.1: a sequence does not hold another",
        ),
        (
            {"method": "sequence", "updates": [{"method": "stf"}, {"method": "dpo"}]},
            "updates.0: there is no optimization method 'stf'",
        ),
        (
            {"method": "sequence", "updates": [{"method": "sft"}, {"method": "dpo", "beta": -1}]},
            "updates.1: beta: Input should be greater than 0",
        ),
        (
            {"method": "sequence", "updates": [{"method": "dpo"}, {"method": "sft", "start_from": "base"}]},
            "updates.1: start_from base would undo the updates before it",
        ),
        (
            {"method": "grpo", "batch_size": 6, "online": {"group": 4}},
            "batch_size 6 is not a multiple of online",
        ),
        (
            {"method": "grpo", "online": {"sampling": {"temperature": 0}}},
            "at a temperature of 0 all responses",
        ),
        ({"method": "rloo", "divergence": 0.1}, "samples of the corpus have no divergence"),
        ({"method": "sft", "reward": "answer"}, "a reward is named and rows have equal weights"),
        ({"method": "dpo", "losses": {}}, "losses: Dictionary should have at least 1 item"),
        ({"method": "dpo", "losses": {"hinge": 1}}, "losses.hinge"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(optimization: dict[str, Any], said: str) -> None:
    with pytest.raises(SelfimpError) as caught:
        parse(optimization, "answer")
    assert said in caught.value.what


def test_a_reward_gives_a_score_unless_it_says_what_else() -> None:
    @method("reward", "plain", parameters=_None, section="4.3", paper="arXiv:0000.00000")
    def plain(context: Any, parameters: _None) -> pl.DataFrame:
        """Judges."""
        raise NotImplementedError

    assert find_method("reward", "plain").gives == {"score"}
    assert find_method("selection", "verified").gives == frozenset()


def test_the_schema_offers_every_update_within_a_sequence() -> None:
    definitions = campaign_schema()["$defs"]
    options = {
        option["properties"]["method"]["const"]: option for option in definitions["optimization"]["oneOf"]
    }
    assert options["sequence"]["properties"]["updates"]["items"] == {"$ref": "#/$defs/optimization"}
    assert {"sft", "dpo", "kto", "sppo", "spin", "scpo", "grpo", "rloo", "restrain"} <= options.keys()


def test_votes_are_what_some_updates_learn_from_and_others_cannot() -> None:
    given = {"majority_vote": find_method("reward", "majority_vote").gives}
    for name in ("scpo", "restrain", "grpo"):
        update = find_method("optimization", name)
        check_recipe_updates(update, update.parameters(), given)
    kto = find_method("optimization", "kto")
    with pytest.raises(SelfimpError, match="kto"):
        check_recipe_updates(kto, kto.parameters(), given)
