"""The libraries' scorers, called as they are: they may raise, hang or eat memory.

`verifiers` is what the rest of the project calls.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any

from selfimp_dagster.tasks import families

_FORMULA = re.compile(r"[0-9+*/^=\\]")


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

    parse = _parsed

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


class Undecided(Exception):
    """Neither proved nor refuted."""


def proof_of_equality(expected: str, response: str) -> tuple[float, str | None]:
    """1.0 if sympy proves that the response's answer is the expected one, 0.0 if it refutes that; the answer.

    Decimal fractions are taken as the exact fractions that they write.

    Raises:
        Undecided: it does neither, or the expected answer is not mathematics.
        Exception: whatever math-verify and sympy raise.
    """
    import sympy

    def exact(text: str) -> Any:
        read = [found for found in _parsed(text) if isinstance(found, sympy.Basic)]
        if not read:
            return None
        return read[0].replace(lambda term: term.is_Float, lambda number: sympy.Rational(str(number)))

    def last_line(text: str) -> Any:
        # Bare symbols ("x + 1") are read as mathematics only between dollar signs; words would be, too.
        lines = text.strip().splitlines()
        return exact(f"${lines[-1]}$") if lines and _FORMULA.search(lines[-1]) else None

    gold = exact(expected)
    found = exact(response) if gold is not None else last_line(response)
    gold = last_line(expected) if gold is None else gold
    if gold is None:
        raise Undecided("the expected answer is not mathematics")
    if found is None:
        return 0.0, None
    if not (isinstance(gold, sympy.Expr) and isinstance(found, sympy.Expr)):
        if gold == found:
            return 1.0, str(found)
        raise Undecided(f"{found} is not written as the expected answer, and is no number or term")
    equal = gold.equals(found)
    if equal is None:
        raise Undecided(f"nothing was found for or against {found}")
    return float(equal), str(found)


def _parsed(text: str) -> list[Any]:
    """What math-verify reads in a text, the last answer first, as sympy's objects and as text."""
    import math_verify

    # Its own time limits are alarm signals, which only the main thread may set.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    parsed: list[Any] = math_verify.parse(text, parsing_timeout=None, raise_on_error=True)
    return parsed


def prepare(request: dict[str, Any]) -> None:
    """Imports and builds what a request needs, so that its time limit covers the judging alone."""
    if request["call"] in ("math", "proof"):
        import math_verify  # noqa: F401
    else:
        family, parameters, _ = families.decode_item(request["entry"])
        families.scorer(family, parameters)


def call(request: dict[str, Any]) -> tuple[float, str | None]:
    """Answers a request of `isolation`: `{"call": "math", "proof" or "family", ...arguments}`."""
    if request["call"] == "math":
        return math_score(request["expected"], request["response"])
    if request["call"] == "proof":
        return proof_of_equality(request["expected"], request["response"])
    return family_score(request["entry"], request["answers"])
