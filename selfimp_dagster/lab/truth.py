"""What is right on the testbed, worked out from prompts alone: for judges, and to measure what is true."""

from selfimp_dagster.tasks.strings import SIGNS

_OPERATIONS = {sign: operation for operation, sign in SIGNS.items()}


def solve(prompt: str) -> str:
    """The answer to a prompt of `tasks.strings`.

    Raises:
        ValueError: it is none.
    """
    operation, digits = _OPERATIONS.get(prompt[:1]), prompt[1:]
    if not digits.isdecimal() or (operation == "addition" and len(digits) % 2):
        raise ValueError(f"{prompt!r} is no task of strings")
    if operation == "copy":
        return digits
    if operation == "reverse":
        return digits[::-1]
    if operation == "addition":
        first, second = (int(digits[place::2][::-1]) for place in (0, 1))
        return str(first + second)[::-1]
    raise ValueError(f"{prompt!r} is no task of strings")


def paraphrase(prompt: str) -> str:
    """Another prompt with the same answer: summands exchanged, a copy asked as a reversal or the other way.

    Sums of equal numbers and palindromes have none: they come back as they are.

    Raises:
        ValueError: it is no prompt of `tasks.strings`.
    """
    solve(prompt)
    operation, digits = _OPERATIONS[prompt[:1]], prompt[1:]
    if operation == "addition":
        pairs = zip(digits[::2], digits[1::2], strict=True)
        return SIGNS[operation] + "".join(second + first for first, second in pairs)
    if digits == digits[::-1]:
        return prompt
    return SIGNS["reverse" if operation == "copy" else "copy"] + digits[::-1]
