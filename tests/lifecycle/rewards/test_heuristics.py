"""Form, length, novelty and proof: what each reward says of responses made by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.judging import Reward, check_rewards, judge_samples
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame
from selfimp_dagster.registry import find_method


def judge(
    name: str,
    responses: Sequence[str],
    *,
    answer: str | None = "7",
    verifier: str = "exact",
    rewards: pl.DataFrame | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    **parameters: Any,
) -> list[dict[str, Any]]:
    """The judgements of responses to one task, in their order; `columns` are further ones of the samples."""
    task = {**dict.fromkeys(TASKS), "task_id": "t", "prompt": "p", "answer": answer, "verifier": verifier}
    rows = [
        {
            **dict.fromkeys(SAMPLES),
            "sample_id": f"s{place}",
            "task_id": "t",
            "response": response,
            "generation": "SE",
            "finish_reason": "stop",
            **{name: values[place] for name, values in (columns or {}).items()},
        }
        for place, response in enumerate(responses)
    ]
    before = REWARDS.to_frame() if rewards is None else rewards
    context = RewardContext(frame([task], TASKS), frame(rows, SAMPLES), before, 0)
    method = find_method("reward", name)
    judged: pl.DataFrame = method.function(context, method.parameters.model_validate(parameters))
    assert judged.schema == REWARDS
    assert judged["sample_id"].to_list() == [row["sample_id"] for row in rows]
    return judged.to_dicts()


def answered(*values: float | None) -> pl.DataFrame:
    told = {"reward": "answer", "kind": "V", "confidence": 0.9, "evidence": ""}
    return frame(({"sample_id": f"s{n}", "value": value, **told} for n, value in enumerate(values)), REWARDS)


def values(judged: list[dict[str, Any]]) -> list[float | None]:
    return [row["value"] for row in judged]


def test_a_response_has_the_form_of_its_task() -> None:
    finished = {"finish_reason": ["stop", "length", "stop", "stop"]}
    judged = judge("format", ["It is 12", "12", "none", " "], columns=finished)
    assert values(judged) == [1, 0, 0, 0]
    assert [row["evidence"] for row in judged] == [
        "has an answer of the task's kind",
        "cut off at the token limit",
        "does not have an answer of the task's kind",
        "empty response",
    ]
    cut_off = {"finish_reason": ["stop", "length"]}
    assert values(judge("format", ["12", "12"], columns=cut_off, ended=False)) == [1, 1]


def test_a_pattern_must_match_the_whole_response() -> None:
    pattern = "<think>.*</think>[0-9]+|[0-9]"
    said = ["<think>a\nb</think>12", "7", "77", "x<think></think>1", "<think></think>1\n"]
    assert values(judge("format", said, pattern=pattern)) == [1, 1, 0, 0, 0]


def test_no_response_makes_a_pattern_slow() -> None:
    assert values(judge("format", ["a" * 20_000 + "!"], pattern="(a|aa)+")) == [0]


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"pattern: regex .*unclosed group"):
        find_method("reward", "format").parameters(pattern="(")


def test_short_responses_gain_and_long_ones_lose_as_in_kimi() -> None:
    lengths = {"completion_tokens": [10, 20, 30, 10, 30, 30]}
    judged = judge(
        "length_controlled",
        [""] * 6,
        rewards=answered(1, 1, 1, 0, 0, None),
        columns=lengths,
        weight=0.2,
    )
    assert values(judged) == pytest.approx([1.1, 1.0, 0.9, 0.0, -0.1, None])
    assert [row["confidence"] for row in judged] == [0.9] * 5 + [0]
    assert '"abstains":"answer gave it no value"' in judged[-1]["evidence"]


def test_equal_lengths_leave_the_reward_as_it_is() -> None:
    same = {"completion_tokens": [4, 4]}
    assert values(judge("length_controlled", ["", ""], rewards=answered(1, 0.5), columns=same)) == [1, 0.5]


def test_demonstrations_have_no_length() -> None:
    columns = {"completion_tokens": [0, 10, 20], "generation": ["D", "SE", "SE"]}
    judged = judge("length_controlled", [""] * 3, rewards=answered(1, 1, 1), columns=columns, weight=1)
    assert values(judged) == [1, 1.5, 0.5]


def test_length_needs_the_reward_before_it() -> None:
    method = find_method("reward", "length_controlled")
    controlled = Reward(method, method.parameters())
    answer = find_method("reward", "answer")
    check_rewards([Reward(answer, answer.parameters()), controlled])
    with pytest.raises(SelfimpError, match="made of answer, which does not stand before it"):
        check_rewards([controlled])


def test_novelty_is_one_minus_the_precision_of_n_grams() -> None:
    judged = judge("novelty", ["a b c", "A b d", "x y"], longest=2)
    # "a b c": 2 of 3 words and 1 of 2 pairs stand in the others; "x y": nothing does.
    assert values(judged) == pytest.approx([1 - (2 / 3 + 1 / 2) / 2, 1 - (2 / 3 + 1 / 2) / 2, 1])


def test_a_repeated_word_counts_as_often_as_another_response_has_it() -> None:
    # The example of Papineni et al.: "the" seven times against references that have it twice and once.
    said = ["the the the the the the the", "The cat is on the mat", "There is a cat on the mat"]
    assert values(judge("novelty", said, longest=1))[0] == pytest.approx(1 - 2 / 7)


def test_nothing_is_novel_without_words_or_without_others() -> None:
    assert values(judge("novelty", ["7"])) == [None]
    assert values(judge("novelty", [" ", "7"])) == [None, 1]


@pytest.mark.parametrize(
    ("expected", "response", "value"),
    [
        ("1/2", "It is 0.5", 1),
        ("1/3", "0.333333333", 0),
        ("$\\sqrt{6}$", "$\\sqrt{2}\\sqrt{3}$", 1),
        ("$(x+1)^2$", "$x^2+2x+1$", 1),
        ("$(x+1)^2$", "$x^2+2x$", 0),
        ("x + 1", "1 + x", 1),
        ("7", "no idea", 0),
        ("7", "", 0),
        ("Friday", "Saturday", None),
        ("7", "9**9**9**9", None),
    ],
)
def test_a_proof_a_refutation_or_neither(expected: str, response: str, value: float | None) -> None:
    (row,) = judge("proof", [response], answer=expected, verifier="math")
    assert row["value"] == value
    assert row["confidence"] == (value is not None)
    assert ("undecided" in row["evidence"]) == (value is None)


def test_a_task_without_an_answer_is_not_decided() -> None:
    assert values(judge("proof", ["7"], answer=None)) == [None]


def test_the_rewards_compose() -> None:
    chain = [("answer", {}), ("format", {}), ("weighted", {"parts": {"answer": 1, "format": 1}})]
    methods = [(find_method("reward", name), given) for name, given in chain]
    rewards = [Reward(method, method.parameters.model_validate(given)) for method, given in methods]
    check_rewards(rewards)
    task = {**dict.fromkeys(TASKS), "task_id": "t", "prompt": "p", "answer": "7", "verifier": "exact"}
    sample = {
        **dict.fromkeys(SAMPLES),
        "sample_id": "s",
        "task_id": "t",
        "response": "8",
        "finish_reason": "stop",
    }
    context = RewardContext(frame([task], TASKS), frame([sample], SAMPLES), REWARDS.to_frame(), 0)
    judged = judge_samples(rewards, context)
    assert dict(judged.select("reward", "value").iter_rows()) == {"answer": 0, "format": 1, "weighted": 0.5}
