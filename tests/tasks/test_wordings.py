"""Other wordings of a question keep what its answer hangs on."""

from hypothesis import given
from hypothesis import strategies as st

from selfimp_dagster.tasks.wordings import wordings

text = st.text(min_size=1, max_size=40)


@given(prompt=text, instruction=text | st.just(""))
def test_prompt_and_instruction_stay_word_for_word_and_nothing_with_figures_is_added(
    prompt: str, instruction: str
) -> None:
    plain = f"{prompt}\n{instruction}" if instruction else prompt
    found = wordings(prompt, instruction)
    assert len(set(found.values()) - {plain}) == len(found) >= 3 or prompt == instruction
    for content in found.values():
        assert prompt in content
        assert instruction in content
        assert _figures(content) == _figures(plain)


def _figures(text: str) -> list[str]:
    return sorted(character for character in text if character.isdigit())


def test_an_instruction_may_come_first() -> None:
    found = wordings("What is 2 + 3?", "Answer with the number.")
    assert next(iter(found.values())) == "Answer with the number.\nWhat is 2 + 3?"
    assert "instruction_first" not in wordings("What is 2 + 3?", "")
