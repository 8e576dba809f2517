"""Operations on strings of digits: tasks whose difficulty is a length, for models that are made from nothing.

Numbers are written with the lowest place first, and the operands of a sum digit by digit in turn, so that
what belongs together stands together: `+1792` asks for 19 + 72, and `19` (91) is the answer. Small
transformers learn sums in this order far sooner (arXiv:2307.03381).
"""

import random
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal, get_args

Operation = Literal["addition", "copy", "reverse"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

SIGNS: dict[Operation, str] = {"addition": "+", "copy": "c", "reverse": "r"}
"""What a prompt begins with."""

ALPHABET = "0123456789" + "".join(SIGNS.values())
"""Every character of prompts and answers."""


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
    """A prompt of that length and its answer; both operands of a sum have that many digits."""
    if operation == "addition":
        first, second = (_number(length, chosen) for _ in range(2))
        places = zip(str(first)[::-1], str(second)[::-1], strict=True)
        return SIGNS[operation] + "".join(chain.from_iterable(places)), str(first + second)[::-1]
    digits = "".join(chosen.choices("0123456789", k=length))
    return SIGNS[operation] + digits, digits if operation == "copy" else digits[::-1]


def _number(length: int, chosen: random.Random) -> int:
    return chosen.randrange(10 ** (length - 1) if length > 1 else 0, 10**length)
