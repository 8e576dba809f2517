"""The same persons under other names."""

import random
import re

from selfimp_dagster.records import derive_seed
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.transformations.names import FEMALE, MALE
from selfimp_dagster.tasks.transformations.twin import judged_by_answer, twin

_OF_ITS_GENDER = {name: names for names in (FEMALE, MALE) for name in names}
_PRONOUNS = {FEMALE: {"she", "her", "She", "Her"}, MALE: {"he", "him", "his", "He", "His"}}
_WORD = re.compile(r"[^\W\d_]+")
_SPELLING = re.compile(
    r"\b(?:letters?|alphabet\w*|spell\w*|vowels?|consonants?|initials?|syllables?|words?|rhymes?|named?|names|"
    r"palindromes?|anagrams?|characters?|San|Santa|Saint|St)\b|\b[B-HJ-Z]\b",
)
"""What a text says that may be about how a name is written, or in which a name may not be a person's."""


def renamed(task: Task, seed: int) -> Task | None:
    """The persons of the prompt under other first names of the same gender (`names.py`).

    Only whole words are exchanged, all of one name for one that the prompt does not have. The answer may hold
    no name, and the prompt may not be about letters and words, nor have a single letter or an abbreviation
    that may stand for a name.
    """
    if not judged_by_answer(task) or _SPELLING.search(task.prompt):
        return None
    words = set(_WORD.findall(task.prompt))
    present = sorted(words & _OF_ITS_GENDER.keys())
    genders = {_OF_ITS_GENDER[name] for name in present}
    if (
        len(genders) == 1
        and not words & _PRONOUNS[genders.pop()]
        and words & (_PRONOUNS[FEMALE] | _PRONOUNS[MALE])
    ):
        return None  # then the name is borne by the other gender here
    if not present or any(_alike(name, word) for name in present for word in words - {name}):
        return None
    chosen = random.Random(derive_seed("renamed", task.task_id, seed))
    exchanged: dict[str, str] = {}
    for name in present:
        taken = words | set(exchanged.values())
        exchanged[name] = chosen.choice(
            [other for other in _OF_ITS_GENDER[name] if not any(_alike(other, word) for word in taken)]
        )
    if set(_WORD.findall(task.answer or "")) & {*exchanged, *exchanged.values()}:
        return None

    def other(match: re.Match[str]) -> str:
        name, apostrophe = match.groups()
        return exchanged[name] + ("'s" if apostrophe and name.endswith("s") else apostrophe or "")

    names = re.compile(rf"\b({'|'.join(present)})\b(['\u2019](?!\w))?")
    return twin("renamed", task, names.sub(other, task.prompt), task.answer)


def _alike(name: str, word: str) -> bool:
    """Whether the word could be a short or long form of the name."""
    return word[:1].isupper() and word[:3].casefold() == name[:3].casefold()
