"""The reward `novelty`: how little of a response the other responses to its task have said."""

from collections import Counter
from collections.abc import Sequence

import polars as pl
from pydantic import Field

from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.parameters import NamedParameters
from selfimp_dagster.records import REWARDS, canonical_json, frame
from selfimp_dagster.registry import method

_NAME = "novelty"


class Novelty(NamedParameters):
    """Parameters of `novelty`."""

    longest: int = Field(default=4, ge=1, le=8, description="Words of the longest n-grams.")


@method("reward", _NAME, parameters=Novelty, section="4.3", paper="arXiv:2402.19464")
def novelty(context: RewardContext, parameters: Novelty) -> pl.DataFrame:
    """How little of a response stands in the other responses to its task: 1 nothing, 0 all (kind H).

    In: all samples of a task; signal: BLEU's modified n-gram precisions of a response against the others
    (self-BLEU, one of the novelty rewards of curiosity-driven red-teaming, Hong et al., section 3.2); out: 1
    minus the mean of the precisions of n = 1 to `longest`, as far as the response has so many words. BLEU
    takes their geometric mean and a brevity penalty, and is 0 for answers of a few words. Words are compared
    without case. A response without words, or the only one to its task, has no value.
    """
    rows = []
    for samples in context.samples.partition_by("task_id", maintain_order=True):
        said = [response.casefold().split() for response in samples["response"]]
        for place, (id_, words) in enumerate(zip(samples["sample_id"], said, strict=True)):
            others = said[:place] + said[place + 1 :]
            known = precisions(words, others, parameters.longest)
            silent = not others or not known
            told = {"abstains": "no words, or no others"} if silent else {"precisions": known}
            rows.append(
                {
                    "sample_id": id_,
                    "reward": parameters.name or _NAME,
                    "kind": "H",
                    "value": None if silent else 1 - sum(known) / len(known),
                    "confidence": 0.0 if silent else 1.0,
                    "evidence": canonical_json(told),
                }
            )
    return frame(rows, REWARDS)


def precisions(words: Sequence[str], others: Sequence[Sequence[str]], longest: int) -> list[float]:
    """The share of the n-grams of `words` that the others have, for n = 1 to `longest`, as far as there are.

    An n-gram counts at most as often as the one of the others that has it most often (Papineni et al. 2002,
    section 2.1.1).
    """
    found = []
    for n in range(1, min(longest, len(words)) + 1):
        own = _grams(words, n)
        most: Counter[tuple[str, ...]] = Counter()
        for other in others:
            most |= _grams(other, n)
        found.append(sum((own & most).values()) / sum(own.values()))
    return found


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
