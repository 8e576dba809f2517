"""How selection reads text: normalised strings, tokens, and the figures that make two problems differ."""

import polars as pl

# Scripts without spaces between words count one token per character.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}"
_NUMBER = r"\p{N}+(?:\.\p{N}+)?"
_TOKEN = rf"[{_UNSPACED}]|{_NUMBER}|[\p{{L}}\p{{M}}_--[{_UNSPACED}]]+|\S"
# With the signs for minus, times and divided by.
_FIGURE = rf"{_NUMBER}|[-\u2212+*\u00d7/\u00f7=<>^%]"


def normalised(text: pl.Expr) -> pl.Expr:
    """The text in Unicode form NFC, with every run of white space as one blank and none at the ends."""
    return text.str.normalize("NFC").str.replace_all(r"\s+", " ").str.strip_chars()


def tokens(text: pl.Expr) -> pl.Expr:
    """The text's words, numbers and single symbols, in lower case and Unicode form NFKC, as a list."""
    return text.str.normalize("NFKC").str.to_lowercase().str.extract_all(_TOKEN)


def figures(text: pl.Expr) -> pl.Expr:
    """The text's numbers and arithmetic operators in their order, separated by blanks."""
    return text.str.normalize("NFC").str.extract_all(_FIGURE).list.join(" ")


def numbers(text: pl.Expr) -> pl.Expr:
    """The text's numbers, each as a token of `tokens`, as a list."""
    return text.str.normalize("NFKC").str.extract_all(_NUMBER)
