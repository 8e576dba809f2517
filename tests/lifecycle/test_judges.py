"""What a judge said is kept: a stage that was killed goes on at what is missing."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from selfimp_dagster.engines.base import Request, Sampling
from selfimp_dagster.engines.chat import Chat, Choice, EngineChat, Reply
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.lifecycle.judges import DurableJudge
from selfimp_dagster.lifecycle.rewards.context import Question
from selfimp_dagster.progress import LogProgress

_SAMPLING = Sampling(max_new_tokens=4, temperature=1.0)
_QUESTIONS = [
    Question(({"role": "user", "content": f"learn {number}"},), seed)
    for number in range(100, 103)
    for seed in range(2)
]


class _PowerCut(Exception):
    """The process stops between two batches."""


class _Parrot(Chat):
    """Says what it was asked, two at a time, until `batches` batches are out."""

    policy_hash = None

    def __init__(self, batches: int = 99, identity: str = "parrot", fails: Sequence[str] = ()) -> None:
        self.identity, self._batches, self._fails = identity, batches, fails
        self.asked: list[str] = []

    def ask(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> Iterator[list[Reply]]:
        return self._out(requests, self._reply)

    def choose(
        self,
        requests: Sequence[Request],
        options: Sequence[str],
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> Iterator[list[Choice]]:
        return self._out(requests, lambda r: Choice(r.request_id, (0.25, 0.5), 7, 1))

    def _reply(self, request: Request) -> Reply:
        text = request.messages[0]["content"]
        if text in self._fails:
            return Reply(request.request_id, failure="out of luck")
        return Reply(request.request_id, f"{text} {request.seed}", 5, 2)

    def _out(self, requests: Sequence[Request], answer: Callable[[Request], Any]) -> Iterator[list[Any]]:
        self.asked += [f"{request.messages[0]['content']} {request.seed}" for request in requests]
        for number, start in enumerate(range(0, len(requests), 2)):
            if number == self._batches:
                raise _PowerCut
            yield [answer(request) for request in requests[start : start + 2]]

    def describe(self) -> dict[str, Any]:
        return {}


def _judge(chat: Chat, folder: Path) -> DurableJudge:
    return DurableJudge(chat, folder, LogProgress(lambda line: None))


def _texts(judge: DurableJudge, questions: Sequence[Question] = _QUESTIONS) -> list[str]:
    return [reply.text for reply in judge.ask(questions, _SAMPLING, label="asking")]


def test_answers_come_in_the_order_of_the_questions_and_the_same_question_is_asked_once(
    tmp_path: Path,
) -> None:
    chat = _Parrot()
    judge = _judge(chat, tmp_path)
    assert _texts(judge, [_QUESTIONS[3], _QUESTIONS[0], _QUESTIONS[3]]) == [
        "learn 101 1",
        "learn 100 0",
        "learn 101 1",
    ]
    assert len(chat.asked) == 2
    assert judge.tokens == 2 * 7


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_after_a_crash_only_what_is_missing_is_asked(tmp_path: Path, batches: int) -> None:
    with pytest.raises(_PowerCut):
        _texts(_judge(_Parrot(batches), tmp_path))
    again = _Parrot()
    judge = _judge(again, tmp_path)
    assert _texts(judge) == [f"learn {100 + n // 2} {n % 2}" for n in range(6)]
    assert len(again.asked) == 6 - 2 * batches
    assert judge.tokens == 6 * 7, "what was read costs what it cost"


def test_replies_and_choices_are_kept_apart_and_as_they_were(tmp_path: Path) -> None:
    judge = _judge(_Parrot(), tmp_path)
    said = judge.ask(_QUESTIONS, _SAMPLING, label="asking")
    chosen = judge.choose(_QUESTIONS, ("Yes", "No"), label="choosing")
    silent = _Parrot(batches=0)
    again = _judge(silent, tmp_path)
    assert again.ask(_QUESTIONS, _SAMPLING, label="asking") == said
    assert again.choose(_QUESTIONS, ("Yes", "No"), label="choosing") == chosen
    assert chosen[0].probabilities == (0.25, 0.5)
    assert silent.asked == []


def test_another_judge_sampling_or_options_are_other_questions(tmp_path: Path) -> None:
    _texts(_judge(_Parrot(), tmp_path))
    other = _Parrot(identity="other")
    _texts(_judge(other, tmp_path))
    warmer = _Parrot()
    _judge(warmer, tmp_path).ask(_QUESTIONS, Sampling(temperature=0.1), label="asking")
    judge = _judge(_Parrot(), tmp_path)
    judge.choose(_QUESTIONS, ("Yes", "No"), label="choosing")
    options = _Parrot()
    _judge(options, tmp_path).choose(_QUESTIONS, ("A", "B"), label="choosing")
    assert len(other.asked) == len(warmer.asked) == len(options.asked) == len(_QUESTIONS)


def test_a_failure_is_told_and_asked_again_next_time(tmp_path: Path) -> None:
    unlucky = _judge(_Parrot(fails=["learn 101"]), tmp_path)
    replies = unlucky.ask(_QUESTIONS, _SAMPLING, label="asking")
    assert [bool(reply.failure) for reply in replies] == [False, False, True, True, False, False]
    lucky = _Parrot()
    assert "learn 101 1" in _texts(_judge(lucky, tmp_path))
    assert lucky.asked == ["learn 101 0", "learn 101 1"]


def test_nothing_to_ask_is_no_answer(tmp_path: Path) -> None:
    assert _judge(_Parrot(), tmp_path).ask([], _SAMPLING, label="asking") == []


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TransformersEngine:
    return TransformersEngine(tiny_model, dtype="float32", device="cpu", batch_size=4)


def test_the_weights_of_an_engine_are_asked_as_they_are_sampled(engine: TransformersEngine) -> None:
    chat = EngineChat(engine)
    requests = [Request(str(n), question.messages, question.seed) for n, question in enumerate(_QUESTIONS)]
    said = {r.request_id: r for batch in chat.ask(requests, _SAMPLING) for r in batch}
    drawn = {c.request_id: c for batch in engine.generate(requests, _SAMPLING) for c in batch}
    assert {id_: reply.text for id_, reply in said.items()} == {id_: c.response for id_, c in drawn.items()}
    assert said["0"].prompt_tokens == drawn["0"].prompt_tokens == engine.prompt_tokens(_QUESTIONS[0].messages)
    assert chat.policy_hash == engine.policy_hash


def test_probabilities_of_options_are_those_of_the_weights(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfimp_dagster.engines.chat._ASKED_AT_ONCE", 4)
    requests = [Request(str(n), question.messages, question.seed) for n, question in enumerate(_QUESTIONS)]
    signs: list[int] = []
    chosen = [c for batch in EngineChat(engine).choose(requests, ("7", "00"), signs.append) for c in batch]
    assert [choice.request_id for choice in chosen] == [request.request_id for request in requests]
    expected = engine.logprobs([(requests[5].messages, "7"), (requests[5].messages, "00")])
    assert chosen[5].probabilities == pytest.approx([math.exp(sum(tokens)) for tokens in expected])
    assert chosen[5].completion_tokens == 3
    assert chosen[5].prompt_tokens == 2 * engine.prompt_tokens(requests[5].messages)
    assert signs == [4 * 3, 2 * 3]
