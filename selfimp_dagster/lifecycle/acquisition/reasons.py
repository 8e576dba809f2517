"""Why what a model proposed is not taken: the one list of reasons."""

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """Why a proposal is not a task of the corpus."""

    EMPTY = "empty"
    ENDLESS = "endless"
    FORM = "form"
    LANGUAGE = "language"
    INJECTION = "injection"
    REFUSAL = "refusal"
    UNFIT = "unfit"
    KNOWN = "known"
    UNCHANGED = "unchanged"
    INCONSISTENT = "inconsistent"
    UNSUPPORTED = "unsupported"
    UNFAITHFUL = "unfaithful"
    EVALUATION = "evaluation"
    EXECUTION = "execution"
    CHANCE = "chance"
    UNHELPFUL = "unhelpful"
    DETOUR = "detour"
    DEPTH = "depth"
    SHARE = "share"


MEANING: Mapping[Reason, str] = {
    Reason.EMPTY: "nothing is asked, or without a letter or digit",
    Reason.ENDLESS: "the model did not end by itself, or says the same again and again",
    Reason.FORM: "it is not in the form that was asked for",
    Reason.LANGUAGE: "it is in another language than what it was made from",
    Reason.INJECTION: "it speaks to whoever judges or proposes: verdicts, marks of turns, orders to ignore",
    Reason.REFUSAL: "the model declines",
    Reason.UNFIT: "it asks for what cannot be read or answered in text alone",
    Reason.KNOWN: "a task that is there already asks the same, or nearly",
    Reason.UNCHANGED: "it adds nothing to what it was made from",
    Reason.INCONSISTENT: "the model's own answers do not agree",
    Reason.UNSUPPORTED: "the answer does not stand in the text",
    Reason.UNFAITHFUL: "it does not say what the text says",
    Reason.EVALUATION: "it asks, or may come to ask, what evaluation asks",
    Reason.EXECUTION: "its program, tool call or episode failed, hung, broke a limit or ended itself",
    Reason.CHANCE: "its program returns something else when it is run again",
    Reason.UNHELPFUL: "what the tool says does not make what follows likelier",
    Reason.DETOUR: "too few of its turns lead to what it reached",
    Reason.DEPTH: "too many models stand between it and real data",
    Reason.SHARE: "there are too few real tasks beside it",
}
"""The reasons in words."""
