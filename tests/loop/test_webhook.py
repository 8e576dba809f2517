"""What a receiver is told: each thing at least once, in order, and nobody the address."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import dagster as dg
import pytest
from home import Home, file_skill

from selfimp_dagster.automation.webhook_sensor import webhook_sensor
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.oversight import read_log, record
from selfimp_dagster.round_key import RoundKey

_FROM_THE_START = json.dumps({"reports": 0, "failures": 0, "interventions": {}})
_FIRST = RoundKey("tiny", 0)


class _Receiver(HTTPServer):
    """Answers with the next of `answers`, then with 200, and keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int] = []
        self.received: list[dict[str, Any]] = []
        self.headers: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/secret-path"


class _Handler(BaseHTTPRequestHandler):
    server: _Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append(body)
        self.server.headers.append(self.headers["Authorization"])
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Receiver]:
    with _Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("SELFIMP_WEBHOOK_URL", server.url)
        yield server
        server.shutdown()
        thread.join()


def _tick(home: Home, instance: dg.DagsterInstance, cursor: str | None) -> tuple[str, str | None]:
    """What the tick says, and its cursor."""
    with dg.build_sensor_context(
        instance=instance, cursor=cursor, resources={"workbench": home.workbench}
    ) as context:
        result = webhook_sensor(context)
    assert isinstance(result, dg.SensorResult)
    assert result.skip_reason is not None
    return str(result.skip_reason.skip_message), result.cursor


def _decide(home: Home, action: str, round_: RoundKey | None = None) -> None:
    record(home.store, home.campaigns, action, "tiny", round_=round_, who="Ann", reason="because")


def test_without_an_address_it_says_how_to_turn_it_on(waiting: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SELFIMP_WEBHOOK_URL", raising=False)
    with waiting.instance() as instance:
        assert _tick(waiting, instance, None) == (
            "Nobody is told: set SELFIMP_WEBHOOK_URL in the environment of the code location.",
            None,
        )


def test_switched_on_it_tells_of_what_happens_from_then_on(waiting: Home, receiver: _Receiver) -> None:
    with waiting.instance() as instance:
        said, cursor = _tick(waiting, instance, None)
        assert said == "Tells of what happens from now on."
        assert _tick(waiting, instance, cursor) == ("Nothing new.", cursor)
        assert not receiver.received
        _decide(waiting, "pause")
        said, later = _tick(waiting, instance, cursor)
        assert said == "Messages delivered: 1."
        assert _tick(waiting, instance, later) == ("Nothing new.", later)
    (message,) = receiver.received
    (entry,) = read_log(waiting.store, "tiny")
    assert (message["kind"], message["campaign"], message["round"]) == ("oversight", "tiny", None)
    assert (message["action"], message["who"], message["hash"]) == ("pause", "Ann", entry.hash)
    assert receiver.headers == [None]


def test_a_verdict_comes_with_its_numbers_and_with_what_waits(
    waiting: Home, receiver: _Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFIMP_WEBHOOK_TOKEN", "s3cret\n")
    with waiting.instance() as instance:
        _tick(waiting, instance, _FROM_THE_START)
    verdict, waits = receiver.received
    assert (verdict["kind"], verdict["round"], verdict["status"]) == ("verdict", "tiny/0000", "waiting")
    assert verdict["sentence"].startswith("Promoted: ")
    assert verdict["numbers"]["candidate_anchor"] > 0.9 > verdict["numbers"]["incumbent_anchor"]
    assert verdict["numbers"]["p_value"] <= verdict["numbers"]["alpha"]
    assert waits["kind"] == "waiting"
    assert "selfimp approve tiny/0000" in waits["sentence"]
    assert receiver.headers == ["Bearer s3cret"] * 2


def test_what_was_not_delivered_is_tried_again_in_order(waiting: Home, receiver: _Receiver) -> None:
    _decide(waiting, "approve", _FIRST)
    receiver.answers = [200, 500]
    with waiting.instance() as instance:
        said, cursor = _tick(waiting, instance, _FROM_THE_START)
        reason = "The next one is tried again: it answered 500 Internal Server Error."
        assert said == f"Messages delivered: 1. {reason}"
        receiver.answers = [503]
        said, cursor = _tick(waiting, instance, cursor)
        assert "it answered 503" in said
        said, cursor = _tick(waiting, instance, cursor)
        assert _tick(waiting, instance, cursor) == ("Nothing new.", cursor)
    kinds = [message["kind"] for message in receiver.received]
    assert kinds == ["verdict", "oversight", "oversight", "oversight"]
    assert receiver.received[1] == receiver.received[2] == receiver.received[3], "with the same id"
    assert receiver.received[0]["id"] != receiver.received[1]["id"]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/secret-path", "Connection refused"),
        ("127.0.0.1/secret-path", "UnsupportedProtocol"),
        ("http://host:secret/", "InvalidURL"),
    ],
)
def test_a_receiver_that_cannot_be_reached_is_named_by_its_variable_alone(
    waiting: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, url: str, reason: str
) -> None:
    monkeypatch.setenv("SELFIMP_WEBHOOK_URL", url)
    with waiting.instance() as instance:
        said, cursor = _tick(waiting, instance, _FROM_THE_START)
    assert reason in said
    assert cursor == _FROM_THE_START
    assert "secret" not in said + caplog.text


def test_neither_address_nor_token_is_logged(
    waiting: Home, receiver: _Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SELFIMP_WEBHOOK_TOKEN", "s3cret")
    with caplog.at_level(logging.INFO), waiting.instance() as instance:
        _tick(waiting, instance, _FROM_THE_START)
    assert receiver.received
    assert "secret-path" not in caplog.text
    assert "s3cret" not in caplog.text


def test_a_round_that_failed_and_a_recipe_that_waits_are_told_apart(home: Home, receiver: _Receiver) -> None:
    never = [f'{{"question": "learn {number}", "answer": "8"}}\n' for number in range(100, 1000)]
    home.write_campaign(skills={"learning": file_skill("never.jsonl")}, approval={"before": ["recipe"]})
    (home.campaigns / "never.jsonl").write_text("".join(never))
    with pytest.raises(SelfimpError, match="Waits"):
        home.run("tiny/0000")
    with home.instance() as instance:
        _, cursor = _tick(home, instance, _FROM_THE_START)
        _decide(home, "approve", _FIRST)
        with pytest.raises(SelfimpError, match="training needs 8"):
            home.run("tiny/0000")
        _tick(home, instance, cursor)
    waits, failed, answer = receiver.received
    assert (waits["kind"], failed["kind"], answer["kind"]) == ("waiting", "failed", "oversight")
    assert "selfimp approve tiny/0000" in waits["sentence"]
    assert "the selection kept 0 rows, training needs 8" in failed["sentence"]
    assert answer["evidence"]["matter"] == "recipe"


def test_the_end_of_a_campaign_is_told(finished: Home, receiver: _Receiver) -> None:
    finished.write_campaign(continuation={"rounds": 2})
    with finished.instance() as instance:
        _tick(finished, instance, _FROM_THE_START)
    assert [message["kind"] for message in receiver.received] == ["verdict", "verdict", "stopped"]
    assert receiver.received[-1]["sentence"] == "Stopped: all 2 planned rounds are done."
