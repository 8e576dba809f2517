"""One grammar for rounds, and nothing else passes."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.round_key import RoundKey

_FIRST = string.ascii_lowercase + string.digits
_CAMPAIGNS = st.builds(str.__add__, st.sampled_from(_FIRST), st.text(_FIRST + "-", max_size=40))


@given(_CAMPAIGNS, st.integers(0, 9999))
def test_a_key_reads_back_what_it_writes(campaign: str, number: int) -> None:
    key = RoundKey(campaign, number)
    assert RoundKey.parse(str(key)) == key


@given(st.text(max_size=50))
@example("tiny/0000\n")
@example("\ntiny/0000")
@example("../x")
@example("../x/0000")
@example("tiny/../0000")
@example("/0000")
@example("tiny/000")
@example("tiny/00000")
@example("tiny/-001")
@example("tiny/\u0660\u0661\u0662\u0663")  # Arabic-Indic digits
@example("tiny/\uff10\uff10\uff10\uff10")  # full-width digits
@example("Tiny/0000")
@example("-tiny/0000")
@example("tiny\\0000")
@example("tiny/0000/0000")
@example("")
def test_text_is_a_key_only_if_the_key_writes_exactly_that_text(text: str) -> None:
    try:
        key = RoundKey.parse(text)
    except SelfimpError as error:
        assert repr(text) in str(error)  # noqa: PT017  both outcomes are right, for other texts
    else:
        assert str(key) == text
        assert text.isascii()


@pytest.mark.parametrize(
    "text",
    ["tiny/0000\n", "../x", "tiny/\u0660\u0661\u0662\u0663", "tiny/\uff10\uff10\uff10\uff10", "a/b/0000"],
)
def test_what_could_leave_the_store_is_refused(text: str) -> None:
    with pytest.raises(SelfimpError, match="is not a round"):
        RoundKey.parse(text)


def test_the_next_round_sorts_after_this_one() -> None:
    key = RoundKey.parse("tiny/0009")
    assert str(key.next) == "tiny/0010"
    assert key < key.next
    assert str(key) < str(key.next)
