"""The gold probe: a verifier that cannot tell right from wrong is caught."""

from itertools import islice
from pathlib import Path

import pytest

from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading
from selfimp_dagster.lifecycle.evaluation.monitors.rewards import verifier_errors
from selfimp_dagster.lifecycle.evaluation.monitors.rule import MonitorRule
from selfimp_dagster.lifecycle.evaluation.probe import (
    PROBED_ITEMS,
    Probe,
    corrupted_answer,
    probe_verifier,
)
from selfimp_dagster.records import task_id
from selfimp_dagster.tasks.suites import ReasoningGymSource, Task, stream_tasks
from selfimp_dagster.tasks.verifiers import Judgement, verify

LEVEL = 0.001


def reading(probe: Probe, **rule: float) -> Reading:
    return verifier_errors(probe, MonitorRule(**rule), LEVEL)


def task(number: int, answer: str | None, verifier: str = "exact", skill: str = "sums") -> Task:
    prompt = f"question {number}"
    return Task(
        task_id=task_id(skill, prompt, answer),
        skill=skill,
        suite="file:tasks.jsonl",
        difficulty=1.0,
        prompt=prompt,
        answer=answer,
        verifier=verifier,
        entry=None,
        source="file",
    )


SUMS = [task(number, str(number)) for number in range(40)]


def test_a_sound_verifier_accepts_right_answers_alone() -> None:
    probe = probe_verifier(SUMS)
    assert probe == Probe(right=40, right_accepted=40, corrupted=40, corrupted_accepted=0, errors=0)
    assert reading(probe).state == "quiet"


@pytest.mark.parametrize(
    ("name", "judge"),
    [
        ("accepts everything", lambda task, response: Judgement(1.0, response, "")),
        ("accepts nothing", lambda task, response: Judgement(0.0, response, "")),
        ("fails", lambda task, response: Judgement(0.0, None, "ValueError: broken", error=True)),
        ("is reversed", lambda task, response: Judgement(float(response != task.answer), response, "")),
        (
            "accepts every third wrong answer",
            lambda task, response: Judgement(
                float(response == task.answer or int(task.prompt.split()[1]) % 3 == 0), response, ""
            ),
        ),
    ],
)
def test_a_broken_verifier_sounds_an_alarm(name: str, judge: object) -> None:
    probe = probe_verifier(SUMS, judge)  # type: ignore[arg-type]
    alarm = reading(probe)
    assert (alarm.state, alarm.follows) == ("alarm", "stop"), name
    assert f"{probe.corrupted_accepted} of 40 corrupted ones" in alarm.sentence
    assert "monitors.verifier_floor" in alarm.action
    assert reading(probe, verifier_floor=0.0).state == "quiet"


def test_a_verifier_that_does_not_exist_is_an_error_and_an_alarm() -> None:
    probe = probe_verifier([task(number, str(number), verifier="oracle") for number in range(40)])
    assert (probe.right_accepted, probe.errors) == (0, 80)
    assert reading(probe).is_alarm


def test_nothing_to_probe_is_no_alarm() -> None:
    without_answer = [task(number, None) for number in range(5)]
    alike = [task(number, "noon") for number in range(5)]  # reversed it is the same, and nothing to exchange
    for tasks in ([], without_answer, alike):
        probe = probe_verifier(tasks)
        assert probe == Probe(0, 0, 0, 0, 0)
        assert reading(probe).state == "not measured"


def test_the_probe_is_bounded_and_hangs_on_no_order() -> None:
    many = [task(number, str(number)) for number in range(PROBED_ITEMS * 2)]
    probe = probe_verifier(many)
    assert probe.right == PROBED_ITEMS
    assert probe == probe_verifier(many[::-1])
    assert {corrupted_answer(SUMS[3], SUMS) for _ in range(3)} == {corrupted_answer(SUMS[3], SUMS)}


@pytest.mark.parametrize(
    ("answer", "verifier", "wrong"),
    [
        ("41", "exact", "83"),
        ("1.5", "exact", "4.0"),
        ("x + 1", "math", "x + 3"),
        ("12 apples", "exact", "25 apples"),
        ("Paris", "contains", "siraP"),
        ("x * y", "math", None),
        ("noon", "exact", None),
    ],
)
def test_an_answer_alone_is_altered_so_that_it_is_wrong(
    answer: str, verifier: str, wrong: str | None
) -> None:
    alone = task(0, answer, verifier)
    assert corrupted_answer(alone, [alone]) == wrong
    if wrong is not None:
        assert verify(alone, answer).value == 1.0
        assert verify(alone, wrong).value == 0.0


def test_answers_are_exchanged_within_a_skill_and_never_for_one_that_holds_the_other() -> None:
    capitals = [
        task(number, answer, "contains", skill="capitals")
        for number, answer in enumerate(["York", "New York", "Rome", "noon"])
    ]
    others = [*capitals, *SUMS]
    for one in capitals:
        wrong = corrupted_answer(one, others)
        assert wrong is not None
        assert verify(one, wrong).value == 0.0, (one.answer, wrong)


@pytest.mark.parametrize(
    "family", ["chain_sum", "products", "letter_counting", "spell_backward", "syllogism"]
)
def test_real_families_pass_the_probe(family: str) -> None:
    source = ReasoningGymSource(family=family)
    probe = probe_verifier(list(islice(stream_tasks(source, family, 0, Path()), 24)))
    assert probe.right_accepted == probe.right > 12
    assert probe.corrupted_accepted == probe.errors == 0


def test_a_real_scorer_that_accepts_everything_is_caught() -> None:
    # reasoning-gym 0.1.25 compares bool(answer), and bool("False") is true.
    source = ReasoningGymSource(family="game_of_life_halting")
    probe = probe_verifier(list(islice(stream_tasks(source, "halting", 0, Path()), 40)))
    assert (probe.right_accepted, probe.corrupted_accepted) == (40, 40)
    assert reading(probe).is_alarm
