"""The libraries' scorers, called as they are: they may raise, hang or eat memory.

`verifiers` is what the rest of the project calls.
"""

import logging
from collections.abc import Sequence
from typing import Any

from selfimp_dagster.tasks import families


def family_score(entry: str, answers: Sequence[str]) -> tuple[float, str]:
    """The best score that the family's scorer gives to one of the answers, and that answer.

    Raises:
        Exception: whatever the scorer raises on a malformed answer.
    """
    family, parameters, _ = families.decode_item(entry)
    scorer = families.scorer(family, parameters)
    # Decoded anew for each answer: some scorers change the item they are given.
    scores = [float(scorer.score_answer(answer, families.decode_item(entry)[2])) for answer in answers]
    best = max(range(len(answers)), key=scores.__getitem__)
    return scores[best], answers[best]


def math_score(expected: str, response: str) -> tuple[float, str | None]:
    """1.0 if math-verify takes the response's answer for equal to the expected one, and what it read.

    Raises:
        ValueError: the expected answer is not mathematics.
        Exception: whatever math-verify raises.
    """
    import math_verify

    # Its own time limits are alarm signals, which only the main thread may set.
    logging.getLogger("math_verify").setLevel(logging.ERROR)

    def parse(text: str) -> list[Any]:
        parsed: list[Any] = math_verify.parse(text, parsing_timeout=None, raise_on_error=True)
        return parsed

    def equal(gold: list[Any], found: list[Any]) -> bool:
        return bool(math_verify.verify(gold, found, timeout_seconds=None, raise_on_error=True))

    found = parse(response)
    gold = parse(expected)
    if not gold:
        # Bare symbols ("x + 1") are read as mathematics only between dollar signs, on either side.
        gold = parse(f"${expected}$")
        if not gold:
            raise ValueError(f"math-verify cannot read the expected answer {expected!r}: use verifier exact")
        if not equal(gold, found):
            found = parse(f"${response.strip().splitlines()[-1]}$")
    return float(equal(gold, found)), str(found[-1]) if found else None


def prepare(request: dict[str, Any]) -> None:
    """Imports and builds what a request needs, so that its time limit covers the judging alone."""
    if request["call"] == "math":
        import math_verify  # noqa: F401
    else:
        family, parameters, _ = families.decode_item(request["entry"])
        families.scorer(family, parameters)


def call(request: dict[str, Any]) -> tuple[float, str | None]:
    """Answers a request of `isolation`: `{"call": "math" or "family", ...arguments}`."""
    if request["call"] == "math":
        return math_score(request["expected"], request["response"])
    return family_score(request["entry"], request["answers"])
