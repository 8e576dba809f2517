"""Generation by dialogue: what is shown, what goes on from what, and in which chat it is trained on."""

from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pytest
from test_policy_sampling import make_tasks

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus, trained_chats
from selfimp_dagster.lifecycle.acquisition.debating import Debating, debating
from selfimp_dagster.lifecycle.acquisition.pipeline import Pipeline, pipeline
from selfimp_dagster.lifecycle.acquisition.reflect_retry import ReflectRetry, reflect_retry
from selfimp_dagster.lifecycle.acquisition.self_correction import SelfCorrection, self_correction
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame

Says = Callable[[Sequence[Message]], str]


class Speaker:
    """A policy that says what a function of the chat returns; `n` counts what it has said."""

    def __init__(self, says: Callable[[Sequence[Message], int], str]) -> None:
        self._says, self._n = says, 0

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, generation: str, label: str
    ) -> pl.DataFrame:
        assert len({(r.task_id, str(r.messages), r.seed) for r in requests}) == len(requests), "drawn apart"
        rows = []
        for request in requests:
            self._n += 1
            rows.append(
                {
                    **dict.fromkeys(SAMPLES),
                    "sample_id": f"s{self._n}",
                    "task_id": request.task_id,
                    "generation": generation,
                    "messages": list(request.messages),
                    "response": self._says(request.messages, self._n),
                    "parent_sample_id": request.parent_sample_id,
                }
            )
        return frame(rows, SAMPLES)


def _judge(tasks: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
    answers = dict(tasks.select("task_id", "answer").iter_rows())
    return frame(
        (
            {**dict.fromkeys(REWARDS), "sample_id": id_, "value": float(answers[task] == response)}
            for id_, task, response in samples.select("sample_id", "task_id", "response").iter_rows()
        ),
        REWARDS,
    )


def drawn(
    method: Callable[..., Corpus],
    parameters: Any,
    says: Callable[[Sequence[Message], int], str],
    tasks: int = 1,
) -> list[dict[str, Any]]:
    context = AcquisitionContext(
        draw=lambda size, weights, levels=None: make_tasks({"sum": tasks}),
        levels={},
        directed={},
        updates=0,
        sample=Speaker(says).sample,
        messages=lambda prompt: ({"role": "user", "content": f"{prompt}?"},),
        judge=_judge,
        offered=Corpus(TASKS.to_frame(), SAMPLES.to_frame()),
        skill_weights={"sum": 1.0},
        size=tasks,
        seed=0,
    )
    corpus = method(context, parameters)
    assert corpus.tasks.height == tasks
    assert corpus.samples["sample_id"].is_unique().all()
    return corpus.samples.to_dicts()


def texts(row: dict[str, Any]) -> list[str]:
    return [message["content"] for message in row["messages"]]


def test_every_answer_is_corrected_in_its_own_dialogue() -> None:
    rows = drawn(self_correction, SelfCorrection(first_answers=2, corrections=2), lambda chat, n: f"r{n}")
    firsts, corrections = rows[:2], rows[2:]
    assert [row["generation"] for row in rows] == ["SE", "SE", "R", "R", "R", "R"]
    assert [row["parent_sample_id"] for row in corrections] == ["s1", "s1", "s2", "s2"]
    asked, answer, again = texts(corrections[2])
    assert (asked, answer) == ("sum 0?", firsts[1]["response"])
    assert again.endswith("answer the question again. sum 0?")


def test_a_criticism_stands_before_the_correction_and_is_no_sample() -> None:
    def says(chat: Sequence[Message], n: int) -> str:
        return "a digit is wrong" if "Check your answer" in chat[-1]["content"] else f"r{n}"

    rows = drawn(self_correction, SelfCorrection(first_answers=1, corrections=1, criticised=True), says)
    assert [row["response"] for row in rows] == ["r1", "r3"]
    assert rows[1]["parent_sample_id"] == rows[0]["sample_id"]
    assert texts(rows[1])[1::2] == ["r1", "a digit is wrong"]


def test_a_chain_of_corrections_goes_on_from_the_first_of_each_answer() -> None:
    rows = drawn(
        self_correction, SelfCorrection(first_answers=1, corrections=2, turns=2), lambda chat, n: f"r{n}"
    )
    assert [row["parent_sample_id"] for row in rows] == [None, "s1", "s1", "s2", "s2"]
    assert texts(rows[3])[1::2] == ["r1", "r2"]


def test_from_silence_nothing_goes_on() -> None:
    silent = lambda chat, n: " "  # noqa: E731
    assert len(drawn(self_correction, SelfCorrection(first_answers=2), silent)) == 2
    assert len(drawn(reflect_retry, ReflectRetry(), silent)) == 1
    assert len(drawn(debating, Debating(agents=2), silent)) == 2
    assert len(drawn(pipeline, Pipeline(trajectories=2), silent)) == 2


def test_only_tasks_that_failed_are_reflected_on_and_tried_again() -> None:
    def says(chat: Sequence[Message], n: int) -> str:
        if "mistake" in chat[-1]["content"]:
            return f"note {n}"
        return "0" if chat[0]["content"] == "sum 0?" or len(chat) > 1 else "wrong"

    rows = drawn(reflect_retry, ReflectRetry(reflections=2), says, tasks=2)
    assert [(row["task_id"], row["generation"], row["parent_sample_id"]) for row in rows] == [
        ("sum-0", "SE", None),
        ("sum-1", "SE", None),
        ("sum-1", "R", "s2"),
        ("sum-1", "R", "s2"),
        ("sum-1", "R", "s3"),
        ("sum-1", "R", "s4"),
    ]
    assert rows[2]["messages"] == rows[3]["messages"], "reflections of one task are one group"
    assert texts(rows[5])[3] == "note 4"
    assert not any("right answer" in text for row in rows for text in texts(row))


def test_agents_see_each_others_answers_and_not_their_own_among_them() -> None:
    rows = drawn(debating, Debating(agents=3, rounds=2), lambda chat, n: f"r{n}", tasks=2)
    assert [row["parent_sample_id"] for row in rows] == [None] * 6 + [f"s{n}" for n in range(1, 13)]
    assert [row["generation"] for row in rows] == ["SE"] * 6 + ["I"] * 12
    told = texts(rows[7])[-1]
    assert "- r1\n- r3\n" in told
    assert told.endswith("sum 0?")
    assert "r2" not in told
    assert texts(rows[13])[1::2] == ["r2", "r8"]
    assert "- r7\n- r9" in texts(rows[13])[-1]


def test_who_says_nothing_leaves_the_debate() -> None:
    rows = drawn(debating, Debating(agents=3), lambda chat, n: "" if n == 2 else f"r{n}")
    assert [row["parent_sample_id"] for row in rows[3:]] == ["s1", "s3"]
    assert "- r3\n" in texts(rows[3])[-1]


def test_each_role_sees_its_own_chat_with_what_was_handed_on() -> None:
    rows = drawn(
        pipeline,
        Pipeline(roles=("Plan.", "Solve.", "Check."), trajectories=2, augmented=False),
        lambda chat, n: f"r{n}",
    )
    assert [row["parent_sample_id"] for row in rows] == [None, None, "s1", "s2", "s3", "s4"]
    assert {row["generation"] for row in rows} == {"I"}
    assert texts(rows[0]) == ["Plan.\n\nsum 0?"]
    assert texts(rows[5]) == ["Check.\n\nWhat another agent worked out before you:\nr4\n\nsum 0?"]


@pytest.mark.parametrize("solved", [True, False])
def test_what_failed_is_told_again_with_the_answer_shown_to_the_first_role_alone(solved: bool) -> None:
    def says(chat: Sequence[Message], n: int) -> str:
        return f"plan {n}" if "Plan" in chat[-1]["content"] else "0" if solved or n > 4 else "1"

    rows = drawn(pipeline, Pipeline(roles=("Plan.", "Solve."), trajectories=2), says)
    if solved:
        assert len(rows) == 4
        return
    again, end = rows[4:]
    assert (again["generation"], again["parent_sample_id"]) == ("R", "s1")
    assert "the right one is 0" in texts(again)[-1]
    assert (end["response"], end["parent_sample_id"]) == ("0", again["sample_id"])
    assert texts(end) == ["Solve.\n\nWhat another agent worked out before you:\nplan 5\n\nsum 0?"]
    (trained,) = trained_chats(Pipeline(), [again["messages"]], [[]])
    assert [message["content"] for message in trained] == ["Plan.\n\nsum 0?"], "as if it had not been shown"


def test_the_chat_that_a_sample_is_trained_on_in() -> None:
    plain: list[Message] = [{"role": "user", "content": "2+2?"}]
    dialogue: list[Message] = [
        {"role": "system", "content": "Be brief."},
        *plain,
        {"role": "assistant", "content": "5"},
        {"role": "user", "content": "Sure?"},
    ]
    assert trained_chats(SelfCorrection(trained_in="task"), [dialogue], [plain]) == [plain]
    assert trained_chats(SelfCorrection(), [dialogue], [plain]) == [dialogue]
    assert trained_chats(ReflectRetry(), [dialogue], [plain]) == [dialogue]
    assert trained_chats(Pipeline(), [dialogue], [plain]) == [dialogue[:2]]
