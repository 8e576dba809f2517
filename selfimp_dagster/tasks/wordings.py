"""Other wordings of a question that leave its answer as it is."""


def wordings(prompt: str, instruction: str) -> dict[str, str]:
    """Ways to ask the same, by name, none of them the plain one (prompt, then instruction).

    Prompt and instruction stand in each of them word for word, and what is added has neither figures nor
    content: whatever answers one of them answers all. Operands are not reordered and names not exchanged,
    since not every task keeps its answer then.
    """
    plain = f"{prompt}\n{instruction}" if instruction else prompt
    found = {
        "courteous": f"Please answer the following.\n{plain}",
        "question": f"Question: {plain}",
        "thanked": f"{plain}\nThank you.",
    }
    return {"instruction_first": f"{instruction}\n{prompt}", **found} if instruction else found
