"""How much two texts have in common, by ROUGE-L (Lin, 2004)."""

import re
from collections.abc import Sequence


def words(text: str) -> list[str]:
    """The words and numbers of a text in lower case: what ROUGE counts."""
    return re.findall(r"\w+", text.casefold())


def rouge_l(one: Sequence[str], other: Sequence[str]) -> float:
    """The F-measure of the longest common subsequence of two lists of words; 0 if one is empty."""
    from rapidfuzz.distance import LCSseq

    if not one or not other:
        return 0.0
    return 2 * LCSseq.similarity(one, other) / (len(one) + len(other))
