"""What is right on the testbed, worked out from prompts alone: for judges, and to measure what is true."""

from selfimp_dagster.tasks.strings import SIGNS

_OPERATIONS = {sign: operation for operation, sign in SIGNS.items()}


def solve(prompt: str) -> str:
    """The answer to a prompt of `tasks.strings`.

    Raises:
        ValueError: it is none.
    """
    match _OPERATIONS.get(prompt[:1]), prompt[1:]:
        case "copy", text if text.isalpha():
            return text
        case "reverse", text if text.isalpha():
            return text[::-1]
        case "addition", text if text.isdecimal() and len(text) % 2 == 0:
            first, second = text[::2], text[1::2]
            # What a column comes to is the sum of all places so far, less what lower columns keep of it.
            return "".join(
                f"{(_value(first[:place]) + _value(second[:place])) // 10 ** (place - 1):02}"
                for place in range(1, len(first) + 1)
            )
    raise ValueError(f"{prompt!r} is no task of strings")


def paraphrase(prompt: str) -> str:
    """Another prompt with the same answer: summands exchanged, a copy asked as a reversal or the other way.

    Sums of equal numbers and palindromes have none: they come back as they are.

    Raises:
        ValueError: it is no prompt of `tasks.strings`.
    """
    solve(prompt)
    operation, text = _OPERATIONS[prompt[:1]], prompt[1:]
    if operation == "addition":
        pairs = zip(text[::2], text[1::2], strict=True)
        return SIGNS[operation] + "".join(second + first for first, second in pairs)
    if text == text[::-1]:
        return prompt
    return SIGNS["reverse" if operation == "copy" else "copy"] + text[::-1]


def _value(lowest_place_first: str) -> int:
    return int(lowest_place_first[::-1])
