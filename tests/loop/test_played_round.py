"""A round whose evaluation plays in environments: what is recorded, taken over, replayed and shown."""

from pathlib import Path

import polars as pl
import pytest
from events import materialization
from home import Home, selfimp

from selfimp_dagster.campaign import load_campaign
from selfimp_dagster.environments.episodes import Reply, play, replay
from selfimp_dagster.environments.protocol import Bounds, EnvironmentKind, Step, find_environment
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.report import read_dimensions
from selfimp_dagster.lineage.replay import replay_episodes
from selfimp_dagster.models.hashing import file_sha256
from selfimp_dagster.records import EPISODES
from selfimp_dagster.report import write_report
from selfimp_dagster.report.data import EpisodeFacts, gather
from selfimp_dagster.round_key import RoundKey

_LAKE = {"environment": "frozen_lake", "episodes": 2, "turns": 2, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Home:
    home = Home(tmp_path_factory.mktemp("played") / "installation", tiny_model)
    home.write_campaign(evaluation={"max_new_tokens": 4, "environments": [_LAKE]}, pools={"anchor": 60})
    home.run("tiny/0000", "tiny/0001")
    return home


def _episodes(home: Home, number: int) -> pl.DataFrame:
    return home.store.open(RoundKey("tiny", number), "eval_report").table("episodes", EPISODES)


def test_both_arms_play_the_same_episodes_and_what_was_played_is_taken_over(played: Home) -> None:
    first, second = _episodes(played, 0), _episodes(played, 1)
    ids = {arm: set(first.filter(arm=arm)["episode_id"]) for arm in ("incumbent", "candidate")}
    assert ids["incumbent"] == ids["candidate"] == set(second["episode_id"])
    assert len(ids["candidate"]) == 2
    assert not first["reused"].any()
    assert second.filter(arm="incumbent")["reused"].all()
    assert first["outcome"].is_between(0, 1).all()


def test_the_scores_are_measures_of_the_round(played: Home) -> None:
    found = read_dimensions(played.store, RoundKey("tiny", 0))
    measured = set(found.filter(pl.col("measure").str.starts_with("environment"))["measure"])
    assert measured == {
        "environment_outcome",
        "environment_process",
        "environment_outcome_change",
        "environment_process_change",
        "environment_error_rate",
    }


def test_recorded_episodes_are_replayed(played: Home) -> None:
    found = list(replay_episodes(played.store, RoundKey("tiny", 0)))
    assert len(found) == 4
    assert all(episode.difference is None for episode in found)
    shown = selfimp(played.environment, "replay", "tiny/0000", found[0].row["episode_id"])
    assert shown.returncode == 0
    assert "Every episode is identical." in shown.stdout
    with pytest.raises(SelfimpError, match="no episode zzz"):
        list(replay_episodes(played.store, RoundKey("tiny", 0), "zzz"))


def test_an_episode_that_is_not_what_was_played_is_found(played: Home, tmp_path: Path) -> None:
    copy = played.copy_to(tmp_path / "copy")
    artifact = copy.store.open(RoundKey("tiny", 0), "eval_report", verify=False)
    episodes = _episodes(copy, 0)
    rows = episodes.to_dicts()
    rows[0]["outcome"] = 1.0 - rows[0]["outcome"]
    rows[1]["messages"][-1]["content"] = "You have reached the goal."
    path = artifact.folder / "episodes.parquet"
    pl.DataFrame(rows, schema=EPISODES).write_parquet(path)
    with pytest.raises(SelfimpError, match="not what was written"):
        list(replay_episodes(copy.store, RoundKey("tiny", 0)))
    manifest = artifact.folder.parent / "manifest.json"
    recorded = artifact.manifest.files["episodes.parquet"]
    manifest.write_text(manifest.read_text().replace(recorded, file_sha256(path)))
    differences = [episode.difference for episode in replay_episodes(copy.store, RoundKey("tiny", 0))]
    assert differences[0] == f"outcome: recorded {rows[0]['outcome']}, now {1.0 - rows[0]['outcome']}"
    assert differences[1] is not None
    assert differences[1].startswith("message ")
    assert differences[2:] == [None, None]
    told = selfimp(copy.environment, "replay", "tiny/0000")
    assert told.returncode == 1
    assert "2 of 4 episodes differ." in told.stdout


def test_episodes_are_shown_in_the_ui_and_in_the_report(played: Home) -> None:
    with played.instance() as instance:
        shown = materialization(instance, "eval_report", "tiny/0001").metadata
    (first, *_) = shown["sample_episode"].records
    assert first.data["who"] == "frozen_lake"
    assert str(first.data["said"]).startswith("You walk on a frozen lake")
    assert [row.data["arm"] for row in shown["episodes"].records] == ["incumbent", "candidate"]
    page = write_report(played.store, "tiny").read_text(encoding="utf-8")
    assert "Episodes in environments" in page
    assert "You walk on a frozen lake" in page
    round_ = gather(played.store, "tiny").rounds[-1]
    assert isinstance(round_.episodes, EpisodeFacts)
    assert [row.episodes for row in round_.episodes.played] == [2, 2]


def test_a_round_of_a_campaign_without_environments_has_no_episodes(two_rounds: Home) -> None:
    key = RoundKey("tiny", 0)
    assert two_rounds.store.open(key, "eval_report").table("episodes", EPISODES).is_empty()
    with pytest.raises(SelfimpError, match="it has no episodes"):
        list(replay_episodes(two_rounds.store, key))
    assert gather(two_rounds.store, "tiny").rounds[0].episodes == EpisodeFacts()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"environment": "chess", "episodes": 1}, "there is no environment 'chess'; choose one of: code"),
        ({**_LAKE, "size": 99}, "size: Input should be less than or equal to 10"),
        ({**_LAKE, "lakes": 2}, "lakes: Extra inputs are not permitted"),
        ({"environment": "taxi", "episodes": 0}, "episodes"),
    ],
)
def test_an_environment_that_cannot_be_is_refused_when_the_campaign_is_read(
    home: Home, choice: dict[str, object], message: str
) -> None:
    path = home.write_campaign(evaluation={"max_new_tokens": 4, "environments": [choice]})
    with pytest.raises(SelfimpError, match=message):
        load_campaign(path)


class _Fragile:
    """Breaks when it is told to."""

    reminder = "Say anything."

    def __init__(self, parameters: Bounds) -> None:
        pass

    def reset(self, seed: int) -> str:
        return f"world {seed}"

    def step(self, action: str) -> Step:
        if action == "break":
            raise RuntimeError("broken")
        progress = 7.0 if action == "cheat" else 0.5
        return Step(f"heard {action}", valid=True, progress=progress, done=action == "end")

    def outcome(self) -> float:
        return 1.0


_KIND = EnvironmentKind("fragile", _Fragile, Bounds, 1, (), False)


def _reply(text: str, cut_off: bool = False, tokens: int = 10) -> Reply:
    return Reply(text, cut_off, tokens, 1)


def test_a_world_that_raises_ends_its_own_episode_and_counts_neither_as_right_nor_as_wrong() -> None:
    said = {"1": iter(["break"]), "2": iter(["go", "end"]), "3": iter(["cheat"])}
    whole = play(
        _KIND,
        Bounds(),
        [1, 2, 3],
        lambda asked: [_reply(next(said[chat[0]["content"][-1]])) for _, chat in asked],
    )
    assert [(e.end, e.outcome, e.process) for e in whole] == [
        ("error", None, None),
        ("done", 1.0, 0.5),
        ("error", None, None),
    ]
    assert whole[0].error == "RuntimeError: broken"
    assert "not from 0 to 1" in (whole[2].error or "")


def test_silence_and_endless_talk_are_invalid_actions_and_episodes_are_bounded() -> None:
    bounds = Bounds(turns=4, most_invalid=2, most_tokens=100)
    silent = replay(_KIND, bounds, 0, [_reply(" "), _reply("on and on", cut_off=True), _reply("go")])
    assert (silent.end, [turn.valid for turn in silent.turns], silent.process) == ("invalid", [False] * 2, 0)
    assert silent.messages[2]["content"] == "You answered nothing. Say anything."
    assert replay(_KIND, bounds, 0, [_reply("go")] * 9).end == "turns"
    assert replay(_KIND, bounds, 0, [_reply("go", tokens=100)] * 9).end == "tokens"
    assert replay(_KIND, bounds, 0, [_reply("go")]).end is None


def test_a_seed_is_an_episode() -> None:
    kind = find_environment("frozen_lake")
    parameters = kind.parameters()
    one, again = (replay(kind, parameters, 5, [_reply("right"), _reply("down")]) for _ in range(2))
    assert one == again
    assert one.messages[0] != replay(kind, parameters, 6, []).messages[0]
