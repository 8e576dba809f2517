"""Operations on strings: tasks whose difficulty is a length, for models that are made from nothing.

Copying and reversing take letters: `>abba` and `<abbc` ask for `abba` and `cbba`. Sums are written column by
column, the lowest place first, two digits a column. The question has both operands' digits of each column,
the answer what each column comes to, carry included: `+9217` asks for 19 + 72, and `1109` says that 9 + 2
makes 11, and 1 + 7 with the carry 09, hence 91. The lowest place comes first because a column can then be
written without looking ahead (arXiv:2307.03381); the carry is written down, as in a scratchpad
(arXiv:2112.00114).
"""

import random
from collections.abc import Iterator, Sequence
from typing import Literal, get_args

Operation = Literal["addition", "copy", "reverse"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

SIGNS: dict[Operation, str] = {"addition": "+", "copy": ">", "reverse": "<"}
"""What a prompt begins with."""

LETTERS = "abcdefghij"
"""What strings to be copied or reversed are made of."""

COLUMNS = tuple(f"{first}{second}" for first in range(10) for second in range(10))
"""What a column of a sum can be."""


def items(operation: Operation, lengths: Sequence[int], seed: int) -> Iterator[tuple[str, str, int]]:
    """Endless prompts with their answers and lengths, each length equally often, repetitions included.

    The stream depends on the arguments alone.
    """
    chosen = random.Random(seed)
    while True:
        length = chosen.choice(lengths)
        prompt, answer = item(operation, length, chosen)
        yield prompt, answer, length


def item(operation: Operation, length: int, chosen: random.Random) -> tuple[str, str]:
    """A prompt of that length and its answer; a sum has that many columns, zeros in front included."""
    if operation == "addition":
        columns = chosen.choices(COLUMNS, k=length)
        return SIGNS[operation] + "".join(columns), "".join(_added(columns))
    letters = "".join(chosen.choices(LETTERS, k=length))
    return SIGNS[operation] + letters, letters if operation == "copy" else letters[::-1]


def _added(columns: Sequence[str]) -> Iterator[str]:
    carry = 0
    for first, second in columns:
        total = int(first) + int(second) + carry
        yield f"{total:02}"
        carry = total // 10
