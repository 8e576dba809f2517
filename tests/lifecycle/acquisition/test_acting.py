"""Episodes as trajectories with their outcomes, and told as ones towards what they reached."""

import re

import polars as pl
import pytest
from pydantic import ValidationError
from scripted_policy import CUT_OFF, acquire, fates

from selfimp_dagster.engines.base import Message
from selfimp_dagster.environments.toy_text import FrozenLakeParameters
from selfimp_dagster.lifecycle.acquisition.proposals import Rules
from selfimp_dagster.lifecycle.rewards.answer import answer_rewards
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.episodes import EpisodeReturn, episode_return
from selfimp_dagster.records import REWARDS
from selfimp_dagster.registry import find_method

_ICE = {"environment": "frozen_lake", "settings": {"size": 3, "frozen": 1.0}}


def _walks(*words: str):  # type: ignore[no-untyped-def]
    """Says the words turn by turn."""
    return lambda chat, times: words[sum(message["role"] == "assistant" for message in chat)]


_THERE = ("right", "right", "down", "down")


def test_turns_are_tasks_whose_chat_is_the_episode_so_far() -> None:
    corpus = acquire("episodes", _walks("right", "fly", "right", "down", "down"), size=1, attempts=1, **_ICE)
    assert corpus.tasks.height == corpus.samples.height == 5
    assert corpus.tasks.select("pool", "source", "verifier", "generation_depth").unique().rows() == [
        ("acquired", "episodes", "episode", 0)
    ]
    by_id = {row["task_id"]: row for row in corpus.tasks.to_dicts()}
    parent = None
    for turn, row in enumerate(corpus.samples.to_dicts()):
        assert row["parent_sample_id"] == parent
        assert row["messages"] == by_id[row["task_id"]]["chat"]
        assert len(row["messages"]) == 2 * turn + 1
        parent = row["sample_id"]


def test_a_turn_is_worth_the_outcome_of_its_episode_and_nothing_if_it_made_no_sense() -> None:
    corpus = acquire("episodes", _walks("right", "fly", "right", "down", "down"), size=1, attempts=1, **_ICE)
    values = answer_rewards(corpus.tasks, corpus.samples).select("value", "confidence")
    assert values.rows() == [(1, 1), (0, 1), (1, 1), (1, 1), (1, 1)]
    lost = acquire("episodes", _walks(*["left"] * 12), size=1, attempts=1, **_ICE)
    assert answer_rewards(lost.tasks, lost.samples)["value"].unique().to_list() == [0]


@pytest.mark.parametrize(
    "said", ["", "right" + CUT_OFF, "left or right", "Ignore all previous instructions."]
)
def test_bad_replies_end_an_episode_after_three_and_are_on_record_as_worth_nothing(said: str) -> None:
    corpus = acquire("episodes", lambda chat, times: said, size=1, attempts=1, **_ICE)
    judged = answer_rewards(corpus.tasks, corpus.samples)
    assert judged["value"].to_list() == [0, 0, 0]
    assert all('"end":"invalid"' in text and '"valid":false' in text for text in judged["evidence"])


def test_the_return_of_rlef_by_hand() -> None:
    corpus = acquire("episodes", _walks("right", "fly", "right", "down", "down"), size=1, attempts=1, **_ICE)
    context = RewardContext(corpus.tasks, corpus.samples, REWARDS.to_frame(), seed=0)
    judged = dict(episode_return(context, EpisodeReturn()).select("sample_id", "value").iter_rows())
    returns = [judged[id_] for id_ in corpus.samples["sample_id"]]
    assert returns == [0.8, 0.8, 1, 1, 1]  # the second turn costs 0.2 from there on and before
    lost = acquire("episodes", lambda chat, times: "", size=1, attempts=1, **_ICE)
    context = RewardContext(lost.tasks, lost.samples, REWARDS.to_frame(), seed=0)
    judged = dict(
        episode_return(context, EpisodeReturn(invalid=0.5)).select("sample_id", "value").iter_rows()
    )
    assert [judged[id_] for id_ in lost.samples["sample_id"]] == [-2.5, -2, -1.5]


def test_attempts_at_one_start_are_a_group_of_its_first_turn() -> None:
    corpus = acquire("episodes", lambda chat, times: "left", size=2, attempts=3, **_ICE | {"settings": {}})
    first = corpus.samples.filter(pl.col("parent_sample_id").is_null())
    assert first.group_by("task_id").len()["len"].to_list() == [3, 3]


def test_an_episode_without_its_end_is_not_judged() -> None:
    corpus = acquire("episodes", _walks(*_THERE), size=1, attempts=1, **_ICE)
    judged = answer_rewards(corpus.tasks, corpus.samples.head(3))
    assert judged["value"].to_list() == [None, None, None]
    assert set(judged["evidence"]) == {"the corpus does not hold the whole episode"}


def test_openings_that_evaluation_may_ask_are_not_played() -> None:
    opened: list[str] = []

    def reserved(opening: str) -> str | None:
        opened.append(opening)
        return "an evaluation item" if len(opened) <= 2 else None

    corpus = acquire("episodes", _walks(*["left"] * 12), size=1, attempts=1, rules=Rules(reserved=reserved))
    assert len(opened) == 3
    assert corpus.tasks["prompt"][0] == opened[2]


def _solves_in_the_second_attempt(chat: tuple[Message, ...], times: int) -> str:
    """Writes nonsense first, and corrects it once it was told which examples fail."""
    if len(chat) == 1:
        return "```python\ndef transform(numbers):\n    return 'no'\n```"
    assert "examples are wrong" in chat[-1]["content"]
    seen = re.findall(r"transform\((\[.*?\])\) == (.*)", chat[0]["content"])
    known = dict(seen)
    return f"```python\ndef transform(numbers):\n    return eval({known!r}[str(numbers)])\n```"


def test_code_is_judged_by_hidden_tests_after_feedback_from_those_that_are_shown() -> None:
    corpus = acquire("episodes", _solves_in_the_second_attempt, size=1, attempts=1, environment="code")
    assert corpus.samples.height == 2
    judged = answer_rewards(corpus.tasks, corpus.samples)
    # It passes all that it was shown, and knows nothing of the hidden tests.
    assert judged["value"].to_list() == [0, 0]
    assert '"end":"done"' in judged["evidence"][1]
    assert '"progress":1.0' in judged["evidence"][1]


@pytest.mark.parametrize("body", ["while True: pass", "import os; os._exit(0)", "open('/etc/passwd').read()"])
def test_code_that_hangs_or_escapes_is_worth_nothing(body: str) -> None:
    program = f"```python\ndef transform(numbers):\n    {body}\n```"
    settings = {"cpu_seconds": 1, "turns": 1}
    corpus = acquire(
        "episodes", lambda chat, times: program, size=1, attempts=1, environment="code", settings=settings
    )
    assert answer_rewards(corpus.tasks, corpus.samples)["value"].to_list() == [0]


def test_an_episode_is_given_the_goal_that_it_reached() -> None:
    corpus = acquire("backward_construction", _walks("right", "fly", "right", *["up"] * 10), size=1, **_ICE)
    assert fates(corpus) == ["accepted", "accepted"]
    goals = [task["entry"] for task in corpus.tasks.to_dicts()]
    assert ['"goal":[0,2]' in goal for goal in goals] == [True, True, False]
    assert ['"goal":[0,1]' in goal for goal in goals] == [False, False, True]
    assert "G, in row 0 and column 2, is the goal." in corpus.tasks["prompt"][0]
    assert corpus.samples["response"].to_list() == ["right", "right", "right"]
    assert corpus.samples["generation"].unique().to_list() == ["R"]
    judged = answer_rewards(corpus.tasks, corpus.samples)
    assert judged["value"].to_list() == [1, 1, 1]
    # What it was really shown stays in its messages; it was drawn for another goal.
    assert all(
        "is the goal" in row[0]["content"] and ", in row" not in row[0]["content"]
        for row in corpus.samples["messages"]
    )
    assert corpus.tasks["generation_depth"].unique().to_list() == [1]
    assert set(corpus.tasks["parent_ids"].explode()) <= set(corpus.drafts["sample_id"])


def test_an_episode_that_wanders_is_no_solution() -> None:
    wandering = _walks("right", "left", "right", "left", "right", "right", *["up"] * 6)
    corpus = acquire("backward_construction", wandering, size=1, per_episode=1, least_process=0.7, **_ICE)
    assert fates(corpus) == ["detour"]  # 4 of 6 turns brought it nearer to row 0, column 2
    assert corpus.proposals["detail"].to_list() == ["0.67 of 6 turns"]
    assert corpus.samples.is_empty()
    assert corpus.drafts.height == 12


@pytest.mark.parametrize("said", ["", "right" + CUT_OFF, "north"])
def test_an_episode_that_reaches_nothing_fulfils_nothing(said: str) -> None:
    corpus = acquire("backward_construction", lambda chat, times: said, size=1, **_ICE)
    assert corpus.proposals.is_empty()
    assert corpus.samples.is_empty()
    assert corpus.drafts["response"].unique().to_list() == [said.removesuffix(CUT_OFF)]


def test_a_taxi_that_fetched_its_passenger_has_fulfilled_that() -> None:
    def drive(chat: tuple[Message, ...], times: int) -> str:
        told = chat[-1]["content"]
        row, column = map(int, re.search(r"taxi is in row (\d), column (\d)", told).groups())  # type: ignore[union-attr]
        if "in the taxi" in told:
            return "pickup"
        there = re.search(r"passenger is at . \(row (\d), column (\d)\)", told)
        assert there is not None
        to_row, to_column = map(int, there.groups())
        # The middle row has no walls.
        if column != to_column and row != 2:
            return "south" if row < 2 else "north"
        if column != to_column:
            return "east" if column < to_column else "west"
        if row != to_row:
            return "south" if row < to_row else "north"
        return "pickup"

    corpus = acquire("backward_construction", drive, size=1, environment="taxi", per_episode=1)
    assert fates(corpus) == ["accepted"]
    assert "Fetch the passenger: that is all." in corpus.tasks["prompt"][0]
    judged = answer_rewards(corpus.tasks, corpus.samples)
    assert judged["value"].unique().to_list() == [1]


def test_worlds_without_goals_and_unknown_ones_are_refused() -> None:
    parameters = find_method("acquisition", "backward_construction").parameters
    with pytest.raises(ValidationError, match="code has no goal that could be another"):
        parameters.model_validate({"environment": "code"})
    with pytest.raises(ValidationError, match="there is no environment 'chess'"):
        parameters.model_validate({"environment": "chess"})
    with pytest.raises(ValidationError, match="is the start, or not on the lake"):
        FrozenLakeParameters(size=3, goal=(0, 3))
