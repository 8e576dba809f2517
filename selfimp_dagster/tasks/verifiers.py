"""Judging a response: what its answer is, and whether it is right."""

import json
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from selfimp_dagster.tasks import families, programs, scoring
from selfimp_dagster.tasks.isolation import scoring_process
from selfimp_dagster.tasks.suites import Task

TIME_LIMIT = 5.0
"""Seconds that the judging of one response may take."""

UNVERIFIED = "unverified"
"""The verifier of a task of which nobody knows the right answer: its responses are not judged."""

PROPOSING = "proposing"
"""The verifier of a task to propose tasks: no response to it is right or wrong by itself."""

EPISODE = "episode"
"""The verifier of a turn in an environment: judged by the outcome of the episode that it belongs to."""

FORMAT_CREDIT = 0.1
"""Scores up to this one are what reasoning-gym's scorers give a wrong answer for being well-formed."""

# A minus after a digit, a letter or a closing bracket subtracts. Exponents are kept short, since
# 1e99999999 is cheap to write and expensive to expand.
_NUMBER = re.compile(
    r"(?P<sign>(?<![A-Za-z0-9_)\]}])[-+](?=\$?[0-9.]))?\$?"
    r"(?P<digits>(?<![A-Za-z0-9_])(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\.)\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,3}(?![A-Za-z0-9_]))?)"
)
_DASHES = str.maketrans({"\u2212": "-", "\u2013": "-"})
_LEAD_IN = re.compile(r"(?:the\s+)?(?:final\s+)?answer(?:\s+is\b\s*:?|\s*[:=])\s*", re.IGNORECASE)
_WRAPPING = "*`\"' \t"


@dataclass(frozen=True)
class Judgement:
    """How good a response is, from 0 to 1, and why.

    `extracted` is the answer read from the response. `error`: the verifier raised or was too slow;
    the response then counts as wrong. The evidence does not state the expected answer.
    """

    value: float
    extracted: str | None
    evidence: str
    error: bool = False


def verify(task: Task, response: str, time_limit: float = TIME_LIMIT) -> Judgement:
    """Judges a response by the task's verifier. Never raises; callable from any thread.

    Args:
        time_limit: seconds after which a verifier that may hang is ended.
    """
    if not response.strip():
        return Judgement(0.0, None, "empty response")
    extracted = _extract(task, response)
    try:
        match task.verifier:
            case "reasoning_gym":
                return _judge_by_family(task, extracted, time_limit)
            case "math":
                return _judge_by_math(task, response, time_limit)
            case "exact":
                return _judge_by_equality(task, response)
            case "verbatim":
                return _judge_verbatim(task, response)
            case "contains":
                return _judge_by_containment(task, response)
            case verifier if verifier in programs.PROGRAM_VERIFIERS:
                return _judge_about_program(task, response)
            case unknown:
                raise ValueError(f"there is no verifier {unknown!r}")
    except Exception as error:
        return Judgement(0.0, extracted, f"{type(error).__name__}: {error}", error=True)


def prove(task: Task, response: str, time_limit: float = TIME_LIMIT) -> Judgement:
    """Whether sympy proves that a response's answer is the task's own (1), or refutes it (0). Never raises.

    An `error` says that it did neither; the evidence says why.

    Args:
        time_limit: seconds that it may look for a proof.
    """
    if not response.strip():
        return Judgement(0.0, None, "empty response")
    if task.answer is None:
        return Judgement(0.0, None, "undecided: the task has no answer of its own", error=True)
    request = {"call": "proof", "expected": task.answer, "response": response}
    try:
        value, found = scoring_process().call(request, time_limit)
    except Exception as error:
        return Judgement(0.0, None, f"undecided: {error}", error=True)
    return Judgement(value, found, "no answer found" if found is None else "proved" if value else "refuted")


def extract_answer(response: str, expected_numeric: bool, several_lines: bool = False) -> str | None:
    """The final answer within a response; None if there is none.

    Where a number is expected: the last number, without thousands separators, currency and plus sign
    ("= 1,234." gives "1234", "10-3" gives "3", "is -4" gives "-4"). Else the last line with text on
    it, or the whole response where the expected answer has several lines.
    """
    if expected_numeric:
        numbers = list(_NUMBER.finditer(response.translate(_DASHES)))
        return _number_text(numbers[-1]) if numbers else None
    text = response.strip()
    if several_lines or not text:
        return text or None
    return text.splitlines()[-1].strip()


def comparable_answer(task: Task, response: str) -> str | None:
    """The answer in a form in which equal answers are equal strings, for counting votes.

    "007" and "7", "1,234" and "1234", "3.0" and "3" become the same; text loses differences in case,
    spacing, Unicode form and wrapping ("**Friday**." and "friday"). What is judged verbatim stays as it is.
    None if there is no answer.
    """
    if task.verifier == "verbatim":
        return response.strip() or None
    extracted = _extract(task, response)
    return None if extracted is None else _canonical(extracted)


def claimed_answer(task: Task) -> str | None:
    """What whoever wrote an unverified task says its answer is; None: nothing."""
    claimed: str | None = _unchecked(task).get("claimed")
    return claimed


def _expects_number(task: Task) -> bool:
    """Whether an unverified task of which nobody says the answer asks for a number."""
    return bool(_unchecked(task).get("numeric"))


def _unchecked(task: Task) -> dict[str, Any]:
    """What an unverified task carries in place of an answer."""
    if task.verifier != UNVERIFIED or task.entry is None:
        return {}
    unchecked: dict[str, Any] = json.loads(task.entry)
    return unchecked


def _extract(task: Task, response: str) -> str | None:
    if task.verifier == "verbatim":
        return response.strip() or None
    expected = claimed_answer(task) if task.answer is None else task.answer
    several_lines = expected is None or "\n" in expected
    return extract_answer(response, is_number(expected) or _expects_number(task), several_lines)


def _judge_by_family(task: Task, extracted: str | None, time_limit: float) -> Judgement:
    if task.entry is None:
        raise ValueError("the task has no entry for its family's scorer")
    numeric = is_number(task.answer)
    if extracted is None:
        return Judgement(0.0, None, "no number in the response")
    family = families.decode_item(task.entry)[0]
    if numeric:
        assert task.answer is not None
        # Some scorers compare text: the same number written otherwise is passed as the scorer knows it.
        same = _canonical(extracted) == _canonical(task.answer)
        # A number that was read out of a response is harmless input, so no process of its own is needed.
        score, _ = scoring.family_score(task.entry, [task.answer if same else extracted])
    else:
        request = {"call": "family", "entry": task.entry, "answers": [extracted, _trimmed(extracted)]}
        score, _ = scoring_process().call(request, time_limit)
    if numeric or not families.is_graded(family):
        value = 1.0 if score >= 1 else 0.0
    else:
        value = min(score, 1.0) if score > FORMAT_CREDIT else 0.0
    return Judgement(value, extracted, f"{family} scorer: {score:g}")


def _judge_by_math(task: Task, response: str, time_limit: float) -> Judgement:
    request = {"call": "math", "expected": task.answer, "response": response}
    value, found = scoring_process().call(request, time_limit)
    verdict = "no answer found" if found is None else "equal" if value else "not equal"
    return Judgement(value, found, f"math-verify: {verdict}")


def _judge_by_equality(task: Task, response: str) -> Judgement:
    if task.answer is None:
        raise ValueError("the task has no answer to compare with")
    extracted = _extract(task, response)
    equal = extracted is not None and _canonical(extracted) == _canonical(task.answer)
    return Judgement(float(equal), extracted, "equal" if equal else "not equal")


def _judge_verbatim(task: Task, response: str) -> Judgement:
    if task.answer is None:
        raise ValueError("the task has no answer to compare with")
    equal = response.strip() == task.answer
    return Judgement(float(equal), _extract(task, response), "equal" if equal else "not equal")


def _judge_by_containment(task: Task, response: str) -> Judgement:
    if task.answer is None:
        raise ValueError("the task has no answer to look for")
    words = rf"(?<!\w){re.escape(_canonical(task.answer))}(?!\w)"
    found = re.search(words, _canonical(response)) is not None
    return Judgement(float(found), _extract(task, response), "contained" if found else "not contained")


def _judge_about_program(task: Task, response: str) -> Judgement:
    if task.entry is None:
        raise ValueError("the task has no program")
    right, answer, evidence = programs.judge_program_task(task.verifier, task.entry, response)
    return Judgement(float(right), answer, evidence)


def is_number(text: str | None) -> bool:
    """Whether an answer is a number and nothing else."""
    return text is not None and _NUMBER.fullmatch(text.strip().translate(_DASHES)) is not None


def _number_text(match: re.Match[str]) -> str:
    sign = "-" if match["sign"] == "-" else ""
    return sign + match["digits"].replace(",", "")


def _trimmed(text: str) -> str:
    """The text without a lead-in ("The answer is"), wrapping marks and a full stop at its end."""
    bare = text.strip(_WRAPPING)
    lead_in = _LEAD_IN.match(bare)
    if lead_in:
        bare = bare[lead_in.end() :]
    return bare.strip(_WRAPPING).removesuffix(".").strip(_WRAPPING)


def _canonical(text: str) -> str:
    bare = _trimmed(text).translate(_DASHES)
    match = _NUMBER.fullmatch(bare)
    if match is None:
        return " ".join(unicodedata.normalize("NFKC", bare).casefold().split())
    digits = format(Decimal(_number_text(match)), "f")
    if "." in digits:
        digits = digits.rstrip("0").rstrip(".")
    return "0" if digits in ("-0", "0") else digits
