"""The same parts in another order."""

import random
import re
from collections.abc import Sequence
from itertools import pairwise
from math import prod

from selfimp_dagster.records import derive_seed
from selfimp_dagster.tasks import families
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.transformations.twin import judged_by_answer, twin

_ARITHMETIC = re.compile(r"(?<![\w.+*/-])\d+(?: [+*-] \d+)+(?![\w/]|\.\d)")
_TERM = re.compile(r"(?:([+-]) )?(\d+(?: \* \d+)*)")

_ORDERS = 8
"""Orders that are tried for one that is another."""

_OPTION = re.compile(r"^(\s*\(?)([A-Z])([).:]\s+)(.*\S)\s*$")
_REFERS_TO_OPTIONS = re.compile(r"\b(?:above|below|both|all|none|neither|either|[A-Z] and [A-Z])\b", re.I)

_SENTENCE = re.compile(r"\S.*?[.!?](?=\s|$)", re.DOTALL)
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|No|vs|etc|lbs?|oz|ft|in|a\.m|p\.m)\.")
_STATES = re.compile(
    r"\b(?:is|are|has|have|costs?|weighs?|contains?|holds?|needs?|sells?|earns?|makes?|charges?|takes?|"
    r"produces?|uses?|reads?|eats?|drinks?|works?|pays?|lives?)\b"
)
_HAPPENS = re.compile(
    r"\b(?:\w+ed|was|were|had|did|will|would|gave|gives?|bought|buys?|ate|sold|went|goes|took|found|finds?|lost|"
    r"loses?|spent|spends?|made|got|gets?|came|comes?|began|begins?|starts?|left|leaves?|put|puts|paid|adds?|"
    r"removes?|receives?|kept|keeps?|drove|ran|wrote|read|won|wins|brought|brings?|grew|grows?|saw|threw|caught|"
    r"becomes?|became|decides?|plans?|wants?)\b",
    re.I,
)
_REFERS = re.compile(
    r"\b(?:he|she|it|they|him|her|hers|his|its|their|theirs|them|this|these|those|that|then|also|too|another|"
    r"others?|same|both|each other|remaining|rest|next|after|before|later|first|second|third|last|finally|"
    r"now|still|again|so|because|but|however|if|when|while|instead|such|there(?! (?:is|are))|total|until|yet|"
    r"as well|former|latter|average|previous|extra|additional|i|we|you|my|our|your|who|except|only|already)\b"
    r"|\bas (?:many|much)\b(?!(?: [\w-]+)+ as\b)|\b(?:more|fewer|less) than\b|"
    r"\b(?:more|fewer|less)\b(?!.*\bthan\b)",
    re.I,
)
_REFERS_BACK = re.compile(
    r"\b(?:he|she|it|him|her|hers|his|its|this|these|those|that|then|another|others?|same|both|remaining|rest|"
    r"former|latter|one|ones)\b",
    re.I,
)
"""What in the sentence behind exchanged ones may stand for something in the last of them."""
_QUANTITY = re.compile(r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twice|half|dozen)\b", re.I)
_ENDS_IN_A_NUMBER = re.compile(
    r"(?:(?<![$£€\d.,])\d[\d.,]*|\b(?:one|two|three|four|five|six|seven|eight|nine|ten))[.!]$", re.I
)


def reordered(task: Task, seed: int) -> Task | None:
    """Options of a choice, operands of a sum or product, or premises, in another order.

    The right option is followed to its new letter. Arithmetic is evaluated before and after, and must be the
    answer both times. Premises are exchanged if they stand side by side, state in the present tense how much
    there is of something, and refer to nothing outside themselves.
    """
    chosen = random.Random(derive_seed("reordered", task.task_id, seed))
    if task.verifier == "reasoning_gym":
        return _operands(task, chosen)
    if not judged_by_answer(task):
        return None
    return _options(task, chosen) or _operands(task, chosen) or _premises(task, chosen)


def _options(task: Task, chosen: random.Random) -> Task | None:
    """The texts of the options under each other's letters."""
    lines = task.prompt.split("\n")
    options = {number: match for number, line in enumerate(lines) if (match := _OPTION.match(line))}
    letters = [match[2] for match in options.values()]
    texts = [match[4] for match in options.values()]
    consecutive = all(after == before + 1 for before, after in pairwise(options))
    in_order = letters == [chr(ord("A") + place) for place in range(len(letters))]
    if len(options) < 3 or len(set(texts)) < len(texts) or not consecutive or not in_order:
        return None
    if any(_REFERS_TO_OPTIONS.search(text) for text in texts):
        return None
    answer = task.answer or ""
    letter = re.fullmatch(r"(\(?)([A-Z])([).]?)", answer.strip())
    if not letter and answer.strip() not in texts:
        return None
    order = _other_order(len(texts), chosen)
    for place, (number, match) in enumerate(options.items()):
        lines[number] = f"{match[1]}{match[2]}{match[3]}{texts[order[place]]}"
    if letter:
        if letter[2] not in letters:
            return None
        answer = f"{letter[1]}{letters[order.index(letters.index(letter[2]))]}{letter[3]}"
    return twin("reordered", task, "\n".join(lines), answer)


def _operands(task: Task, chosen: random.Random) -> Task | None:
    """Terms with their signs, and factors within terms."""
    found = list(_ARITHMETIC.finditer(task.prompt))
    if len(found) != 1 or _value(found[0][0]) != _integer(task.answer):
        return None
    terms = [(sign or "+", factors.split(" * ")) for sign, factors in _TERM.findall(found[0][0])]
    expressions = (_reordered_terms(terms, chosen) for _ in range(_ORDERS))
    expression = next((other for other in expressions if other != found[0][0]), None)
    if expression is None or _value(expression) != _integer(task.answer):
        return None
    start, end = found[0].span()
    prompt = task.prompt[:start] + expression + task.prompt[end:]
    return twin("reordered", task, prompt, task.answer, _entry(task, prompt))


def _reordered_terms(terms: Sequence[tuple[str, list[str]]], chosen: random.Random) -> str:
    """The terms and their factors in any order, but with one first that is added: a minus begins nothing."""
    first = chosen.choice([place for place, (sign, _) in enumerate(terms) if sign == "+"])
    others = [place for place in range(len(terms)) if place != first]
    pieces = []
    for place in [first, *chosen.sample(others, len(others))]:
        sign, factors = terms[place]
        pieces += [sign, " * ".join(chosen.sample(factors, len(factors)))]
    return " ".join(pieces[1:])


def _entry(task: Task, prompt: str) -> str | None:
    """What the family's scorer is given, with the new prompt."""
    if task.verifier != "reasoning_gym" or task.entry is None:
        return None
    family, parameters, item = families.decode_item(task.entry)
    return families.encode_item(family, parameters, {**item, "question": prompt})


def _value(expression: str) -> int:
    return sum(
        (-1 if sign == "-" else 1) * prod(map(int, factors.split(" * ")))
        for sign, factors in _TERM.findall(expression)
    )


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text.strip()) else None


def _premises(task: Task, chosen: random.Random) -> Task | None:
    """One run of independent sentences before the question."""
    if _ABBREVIATION.search(task.prompt):  # its full stop ends no sentence
        return None
    sentences = list(_SENTENCE.finditer(task.prompt))
    asked = next((n for n, sentence in enumerate(sentences) if sentence[0].endswith("?")), 0)
    runs: list[list[int]] = [[]]
    for number in range(asked):
        if _independent(sentences[number][0]):
            runs[-1].append(number)
        else:
            runs.append([])
    runs = [run for run in runs if len(run) > 1 and not _REFERS_BACK.search(sentences[run[-1] + 1][0])]
    if not runs:
        return None
    run = chosen.choice(runs)
    order = _other_order(len(run), chosen)
    prompt, done = "", 0
    for place, number in enumerate(run):
        start, end = sentences[number].span()
        prompt += task.prompt[done:start] + sentences[run[order[place]]][0]
        done = end
    return twin("reordered", task, prompt + task.prompt[done:], task.answer)


def _independent(sentence: str) -> bool:
    return bool(
        sentence[0].isupper()
        and _QUANTITY.search(sentence)
        and _STATES.search(sentence)
        and not _HAPPENS.search(sentence)
        and not _REFERS.search(sentence)
        and not _ENDS_IN_A_NUMBER.search(sentence)
    )


def _other_order(length: int, chosen: random.Random) -> list[int]:
    """An order that is not the one there is."""
    while (order := chosen.sample(range(length), length)) == list(range(length)):
        pass
    return order
