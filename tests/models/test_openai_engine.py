"""A model behind a server: what is sent, what is made of good and bad answers, and what never leaves."""

import asyncio
import json
import math
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from chat_server import Answer, ChatServer, chat_server, completion, refusal
from pydantic import ValidationError

from selfimp_dagster.engines import openai_engine
from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.chat import Choice, Reply
from selfimp_dagster.engines.openai_engine import DEAD_AFTER, Endpoint, OpenAIChat
from selfimp_dagster.errors import SelfimpError

_SAMPLING = Sampling(max_new_tokens=7, temperature=0.5, top_p=0.9)
_KEY = "sk-very-secret-4711"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as served:
        yield served


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_engine, "_FIRST_PAUSE", 0.001)


def _endpoint(server: ChatServer, **changes: Any) -> Endpoint:
    return Endpoint(**{"url": server.url, "model": "tiny", "timeout": 5.0, "retries": 2, **changes})


def _requests(count: int = 1) -> list[Request]:
    return [
        Request(f"r{number}", ({"role": "user", "content": f"question {number}"},), seed=2**40 + number)
        for number in range(count)
    ]


def _ask(endpoint: Endpoint, count: int = 1) -> dict[str, Reply]:
    batches = OpenAIChat(endpoint).ask(_requests(count), _SAMPLING)
    replies = [reply for batch in batches for reply in batch]
    assert len(replies) == count
    return {reply.request_id: reply for reply in replies}


def _in_turn(*answers: Answer) -> Any:
    waiting = iter(answers)
    return lambda body: next(waiting)


def test_a_chat_is_sent_and_its_reply_read(server: ChatServer) -> None:
    server.answer = lambda body: completion("Grade: 4")
    assert _ask(_endpoint(server)) == {"r0": Reply("r0", "Grade: 4", 10, 3, "stop")}
    assert server.asked == [
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "question 0"}],
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 0,
        }
    ]
    assert "Authorization" not in server.headers[0]


def test_every_request_is_answered_once_and_no_more_are_under_way_than_allowed(server: ChatServer) -> None:
    server.answer = lambda body: Answer(completion(body["messages"][0]["content"]).body, delay=0.02)
    replies = _ask(_endpoint(server, concurrent=3), count=20)
    assert {id_: reply.text for id_, reply in replies.items()} == {
        f"r{n}": f"question {n}" for n in range(20)
    }
    assert server.most_at_once == 3


def test_it_can_be_asked_where_an_event_loop_runs_already(server: ChatServer) -> None:
    async def asked() -> dict[str, Reply]:
        return _ask(_endpoint(server))

    assert asyncio.run(asked())["r0"].text == "hello"


def test_a_reply_that_was_cut_off_says_so_and_one_without_text_is_empty(server: ChatServer) -> None:
    server.answer = _in_turn(completion("so long", "length"), completion(None, None))
    replies = _ask(_endpoint(server, concurrent=1), count=2)
    assert (replies["r0"].finish_reason, replies["r0"].text) == ("length", "so long")
    assert (replies["r1"].failure, replies["r1"].text) == ("", "")


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_server_that_is_busy_or_broken_is_asked_again(server: ChatServer, status: int) -> None:
    server.answer = _in_turn(refusal(status), refusal(status), completion("at last"))
    assert _ask(_endpoint(server))["r0"].text == "at last"
    assert len(server.asked) == 3


def test_attempts_are_bounded_and_the_failure_is_told(server: ChatServer) -> None:
    server.answer = lambda body: refusal(500, "the model\nbroke")
    reply = _ask(_endpoint(server, retries=1))["r0"]
    assert reply == Reply("r0", failure="the server answered 500 Internal Server Error: the model broke")
    assert len(server.asked) == 2


@pytest.mark.parametrize("as_date", [False, True])
def test_a_server_that_asks_to_wait_is_left_alone_that_long(server: ChatServer, as_date: bool) -> None:
    wait = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True) if as_date else "0.3"
    server.answer = _in_turn(refusal(429, Retry_After=wait), completion("now"))
    started = time.monotonic()
    assert _ask(_endpoint(server))["r0"].text == "now"
    assert time.monotonic() - started >= (0.9 if as_date else 0.3)


def test_a_server_that_asks_to_wait_too_long_ends_the_stage_with_what_to_do(server: ChatServer) -> None:
    server.answer = lambda body: refusal(429, "quota", Retry_After="7200")
    with pytest.raises(SelfimpError, match="it asks to wait for 7,200 s") as caught:
        _ask(_endpoint(server))
    assert "run the step again then" in caught.value.fix
    assert len(server.asked) == 1


def test_an_unreadable_wait_is_no_wait(server: ChatServer) -> None:
    server.answer = _in_turn(
        refusal(429, Retry_After="soon"), refusal(429, Retry_After="inf"), completion("now")
    )
    assert _ask(_endpoint(server))["r0"].text == "now"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>busy</html>", "the reply is no chat completion: the reply: Invalid JSON"),
        (b"", "the reply is no chat completion: the reply: Invalid JSON"),
        (b"\xff\xfe", "no chat completion"),
        (b"[" * 100_000, "no chat completion"),
        (b'{"choices": []}', "no chat completion: choices"),
        (b'{"choices": [{"message": {"content": 5}}]}', "choices.0.message.content: Input should be"),
        (b'{"choices": [{"message": {}}], "usage": {"prompt_tokens": -1}}', "usage.prompt_tokens"),
        (completion("hm", "content_filter").body, "the server ended the reply: content_filter"),
        (b'"' + b"x" * (5 * 2**20) + b'"', "the reply is longer than 4,194,304 bytes"),
    ],
    ids=["html", "nothing", "no text", "deep", "no choice", "a number", "negative", "filtered", "endless"],
)
def test_garbage_is_a_failure_in_a_sentence(server: ChatServer, body: bytes, said: str) -> None:
    server.answer = lambda _: Answer(body)
    reply = _ask(_endpoint(server, retries=1))["r0"]
    assert said in reply.failure
    assert (reply.text, len(reply.failure.splitlines())) == ("", 1)


@pytest.mark.parametrize(
    "stalled",
    [Answer(completion("late").body, delay=30), Answer(completion("late").body, trickle=0.05)],
    ids=["silent", "a byte at a time"],
)
def test_a_stalled_server_is_given_up_after_the_time_limit(server: ChatServer, stalled: Answer) -> None:
    server.answer = lambda body: stalled
    started = time.monotonic()
    assert _ask(_endpoint(server, timeout=0.2, retries=1))["r0"].failure == "no reply within 0.2 s"
    assert time.monotonic() - started < 5


def test_while_nothing_comes_in_there_are_signs_of_life_and_who_stops_listening_ends_it(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_engine, "_HEARTBEAT", 0.02)
    server.answer = lambda body: Answer(b"", delay=30)

    class _Killed(Exception):
        pass

    beats = []

    def beat(tokens: int) -> None:
        beats.append(tokens)
        if len(beats) == 3:
            raise _Killed

    with pytest.raises(_Killed):
        list(OpenAIChat(_endpoint(server)).ask(_requests(), _SAMPLING, beat))
    assert beats == [0, 0, 0]
    assert not [thread for thread in threading.enumerate() if thread.name == "endpoint"]


def test_a_server_that_answers_nothing_is_not_asked_for_everything(server: ChatServer) -> None:
    server.answer = lambda body: refusal(400, "bad request")
    with pytest.raises(SelfimpError, match=f"{DEAD_AFTER} requests in a row came to nothing") as caught:
        _ask(_endpoint(server, concurrent=1), count=50)
    assert "400 Bad Request: bad request" in caught.value.what
    assert caught.value.where == f"endpoint tiny at {server.url}"
    assert len(server.asked) == DEAD_AFTER, "what a request is refused for is not asked again"


def test_failures_now_and_then_do_not_end_it(server: ChatServer) -> None:
    server.answer = lambda body: (
        completion("fine") if int(body["messages"][0]["content"].split()[1]) % 3 == 0 else refusal(400)
    )
    replies = _ask(_endpoint(server, concurrent=1), count=12)
    assert sum(bool(reply.failure) for reply in replies.values()) == 8


def test_a_server_that_is_not_there_is_one_clear_message() -> None:
    with chat_server() as gone:
        pass
    with pytest.raises(SelfimpError, match="no connection: ConnectError") as caught:
        _ask(_endpoint(gone, retries=0), count=DEAD_AFTER)
    assert "run the step again" in caught.value.fix


@pytest.mark.parametrize(
    ("answer", "fix"),
    [
        (refusal(401, "who are you"), "name the variable of a key with api_key"),
        (refusal(403), "name the variable of a key with api_key"),
        (refusal(404, "no such model"), "correct url"),
        (Answer(b"", 307, {"Location": "http://127.0.0.1:9/"}), "correct url"),
    ],
    ids=["no key", "forbidden", "unknown", "redirected"],
)
def test_what_would_fail_for_all_alike_is_an_error_at_once(
    server: ChatServer, answer: Answer, fix: str
) -> None:
    server.answer = lambda body: answer
    with pytest.raises(SelfimpError) as caught:
        _ask(_endpoint(server, concurrent=1), count=9)
    assert fix in caught.value.fix
    assert len(server.asked) == 1


def test_the_key_is_sent_and_never_said(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", f" {_KEY}\n")
    endpoint = _endpoint(server, api_key="JUDGE_KEY", retries=0)
    server.answer = _in_turn(
        completion(f"you sent {_KEY}"), refusal(400, f"bad key {_KEY}"), refusal(401, _KEY)
    )
    assert _ask(endpoint)["r0"].text == "you sent [API key]"
    assert server.headers[0]["Authorization"] == f"Bearer {_KEY}"
    assert _ask(endpoint)["r0"].failure.endswith("bad key [API key]")
    with pytest.raises(SelfimpError) as caught:
        _ask(endpoint)
    chat = OpenAIChat(endpoint)
    for told in (str(caught.value), repr(endpoint), json.dumps(chat.describe()), chat.identity):
        assert _KEY not in told
    assert caught.value.fix == "put a valid key into JUDGE_KEY"


@pytest.mark.parametrize(("value", "said"), [(None, "is not set"), ("two words", "holds no API key")])
def test_a_key_that_is_missing_is_asked_for_by_its_variable(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, value: str | None, said: str
) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(SelfimpError, match=f"JUDGE_KEY {said}") as caught:
        OpenAIChat(_endpoint(server, api_key="JUDGE_KEY"))
    assert "two words" not in str(caught.value)


def test_proxies_of_the_environment_are_not_for_this_machine(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert _ask(_endpoint(server))["r0"].text == "hello"


@pytest.mark.parametrize(
    ("url", "changes", "said"),
    [
        ("http://judge.example/v1", {}, "is not this machine: write remote: true"),
        ("http://127.0.0.1.example/v1", {}, "is not this machine"),
        ("http://10.0.0.7:8000/v1", {}, "is not this machine"),
        ("http://0.0.0.0:8000/v1", {}, "is not this machine"),
        ("http://me:secret@127.0.0.1/v1", {}, "holds more than an address"),
        ("http://127.0.0.1/v1?key=secret", {}, "holds more than an address"),
        ("http:///v1", {}, "names no server"),
        ("http://127.0.0.1:99999/v1", {}, "out of range"),
        ("file:///etc/passwd", {}, "should match pattern"),
        ("http://judge.example/v1", {"remote": True, "api_key": "KEY"}, "in plain text: use https"),
        ("http://127.0.0.1/v1", {"api_key": "sk-4711"}, "should match pattern"),
    ],
)
def test_an_address_that_is_none_or_leads_away_is_refused(
    url: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        Endpoint(url=url, model="tiny", **changes)


@pytest.mark.parametrize(
    ("url", "changes"),
    [
        ("http://localhost:8000/v1", {}),
        ("http://[::1]:8000/v1", {}),
        ("http://127.0.0.2/v1", {"api_key": "KEY"}),
        ("https://judge.example/v1", {"remote": True, "api_key": "KEY"}),
    ],
)
def test_addresses_of_this_machine_and_named_remote_ones_are_taken(url: str, changes: dict[str, Any]) -> None:
    assert Endpoint(url=url, model="tiny", **changes).url == url


def _choose(endpoint: Endpoint) -> Choice:
    (batch,) = [b for b in OpenAIChat(endpoint).choose(_requests(), ("Yes", "No")) if b]
    return batch[0]


def _top(*tokens: tuple[str, float]) -> Answer:
    top = [{"token": token, "logprob": logprob} for token, logprob in tokens]
    return completion(
        "x", "length", logprobs={"content": [{"token": "x", "logprob": 0, "top_logprobs": top}]}
    )


def test_probabilities_of_words_are_read_from_the_first_token(server: ChatServer) -> None:
    likely = [("Yes", 0.5), (" yes", 0.1), ("NO", 0.3), ("Nope", 0.05)]
    tokens = [(token, math.log(probability)) for token, probability in likely]
    server.answer = lambda body: _top(*tokens, ("Yes", 3.0))  # the logarithm of no probability
    choice = _choose(_endpoint(server))
    assert choice.probabilities == pytest.approx((0.6, 0.3))
    assert (choice.prompt_tokens, choice.completion_tokens) == (10, 3)
    assert {name: server.asked[0][name] for name in ("max_tokens", "logprobs", "top_logprobs")} == {
        "max_tokens": 1,
        "logprobs": True,
        "top_logprobs": 20,
    }


def test_words_that_are_not_among_the_likeliest_have_no_probability(server: ChatServer) -> None:
    server.answer = lambda body: _top(("The", -0.1))
    assert _choose(_endpoint(server)).probabilities == (0.0, 0.0)


def test_a_server_without_log_probabilities_is_told_apart(server: ChatServer) -> None:
    with pytest.raises(SelfimpError, match="gives no log-probabilities") as caught:
        _choose(_endpoint(server))
    assert "in words" in caught.value.fix
