"""The same said with other words."""

import random
import re
from functools import partial

from selfimp_dagster.records import derive_seed
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.transformations.twin import judged_by_answer, twin

_EXCHANGES = tuple(
    (re.compile(rf"\b{old}\b", re.IGNORECASE), new)
    for old, new in (
        (r"altogether", "in total"),
        (r"in (?:total|all)(?=[?.,;])", "altogether"),
        (r"every(?= (?:day|week|month|year|morning|evening|night|hour)\b)", "each"),
        (r"each(?= (?:day|week|month|year|morning|evening|night|hour)\b)", "every"),
        (r"bought", "purchased"),
        (r"purchased", "bought"),
        (r"purchases", "buys"),
        (r"bicycle", "bike"),
        (r"bicycles", "bikes"),
        (r"bike", "bicycle"),
        (r"bikes", "bicycles"),
        (r"mom", "mother"),
        (r"dad", "father"),
        (r"grandma", "grandmother"),
        (r"grandpa", "grandfather"),
        (r"movie", "film"),
        (r"movies", "films"),
        (r"photo", "photograph"),
        (r"photos", "photographs"),
        (r"TV", "television"),
        (r"TVs", "televisions"),
        (r"kids", "children"),
        (r"children", "kids"),
        (r"fridge", "refrigerator"),
        (r"twice as many", "two times as many"),
        (r"twice as much", "two times as much"),
        (r"isn't", "is not"),
        (r"aren't", "are not"),
        (r"wasn't", "was not"),
        (r"weren't", "were not"),
        (r"doesn't", "does not"),
        (r"don't", "do not"),
        (r"didn't", "did not"),
        (r"hasn't", "has not"),
        (r"haven't", "have not"),
        (r"can't", "cannot"),
        (r"couldn't", "could not"),
        (r"won't", "will not"),
    )
)


def reworded(task: Task, seed: int) -> Task | None:
    """The prompt with some of its words exchanged for others of the same meaning, contractions written out.

    What is exchanged is so wherever it stands, and only for what the prompt does not have; neither may stand
    in the answer. How an item is asked stays: other ways to ask are `tasks.wordings`.
    """
    if not judged_by_answer(task):
        return None
    answer = task.answer or ""
    possible = [
        (old, new)
        for old, new in _EXCHANGES
        if old.search(task.prompt)
        and not _has(task.prompt, new)
        and not (old.search(answer) or _has(answer, new))
    ]
    if not possible:
        return None
    chosen = random.Random(derive_seed("reworded", task.task_id, seed))
    prompt = task.prompt
    for old, new in chosen.sample(possible, chosen.randint(1, len(possible))):
        prompt = old.sub(partial(_cased_like, new), prompt)
    return twin("reworded", task, prompt, task.answer)


def _has(text: str, words: str) -> bool:
    return re.search(rf"\b{words}\b", text, re.IGNORECASE) is not None


def _cased_like(new: str, old: re.Match[str]) -> str:
    capitalised = old[0][0].isupper() and not old[0][1].isupper()
    return new[0].upper() + new[1:] if capitalised else new
