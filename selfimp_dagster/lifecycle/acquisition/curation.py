"""Static curation (survey 2.2): good texts from local files, turned into tasks without a model's words."""

import random
import re
from dataclasses import replace

import polars as pl
from pydantic import Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus, answered
from selfimp_dagster.lifecycle.acquisition.documents import Documents, chosen_passages, passages_of
from selfimp_dagster.lifecycle.acquisition.drafting import dice
from selfimp_dagster.lifecycle.acquisition.proposals import Known, Origin, Proposal, decide
from selfimp_dagster.lifecycle.acquisition.reasons import Reason
from selfimp_dagster.lifecycle.rewards.context import Judge
from selfimp_dagster.lifecycle.rewards.sources import BaseWeights, JudgeSource
from selfimp_dagster.lifecycle.rewards.verdicts import question, quoted, read_choice
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import method

CURATION = "curation"

_WORDS = ("Yes", "No")
_GAP = "____"
_WORD = re.compile(r"(?<![\w.])(?:[A-Za-z][\w]{3,}|\d+(?:\.\d+)?)(?![\w.]*\w)")


class Curation(Documents):
    """Parameters of `curation`."""

    judge: JudgeSource = Field(default=BaseWeights(), description="Who says how good a passage is.")
    rubric: str = Field(
        default="Is this text informative and well written, and does it teach something that can be "
        "understood from the text alone?",
        description="What is asked of every passage, so that yes is good.",
    )
    candidates: int = Field(
        default=2,
        ge=1,
        description="Passages that are judged for each task of the round, if there are any.",
    )
    samples_per_task: int = Field(default=4, ge=1, description="Responses drawn for each task.")
    sampling: Sampling = Field(default=Sampling(), description="How the responses are drawn.")


@method("acquisition", CURATION, parameters=Curation, section="2.2", paper="arXiv:2402.09668")
def curation(context: AcquisitionContext, parameters: Curation) -> Corpus:
    """The passages that a model finds best become tasks: a word is left out, and has to be named.

    In: passages of local files or of Python's own documentation. Signal: the probability of yes when a model
    is asked whether a passage is informative (Ask-LLM, Sachdeva et al., section 3.1), offered in both orders;
    as many passages as the round has tasks are kept, the best first. Out: cloze tasks (Taylor 1953,
    doi:10.1177/107769905303000401) whose answer stands in the document, so that they are real tasks, of
    depth 0, with responses to each. A word that occurs once is left out, by chance. The paper trains on the
    passages as they are; here the passages ask something, for a round learns from judged responses.

    Raises:
        SelfimpError: no document can be read.
    """
    passages = chosen_passages(
        passages_of(context.folder, parameters),
        parameters.candidates * context.size,
        derive_seed(context.seed, CURATION),
    )
    scored = scored_passages(passages, context.judges(parameters.judge), parameters.rubric, context.size)
    read = scored.filter("kept")
    proposals = [
        _cloze(row, dice(context, CURATION, number)) for number, row in enumerate(read.iter_rows(named=True))
    ]
    decided = decide(proposals, context.rules, Known(()))
    samples = answered(decided.tasks, context, parameters.samples_per_task, parameters.sampling)
    return Corpus(decided.tasks, samples, decided.proposals, documents=scored)


def scored_passages(passages: pl.DataFrame, judge: Judge, rubric: str, keep: int) -> pl.DataFrame:
    """The passages (records.DOCUMENTS) with their scores; the best of them are kept.

    A passage about which the judge says neither word has no score, and is not kept.
    """
    orders = (_WORDS, _WORDS[::-1])
    choices = judge.choose(
        [
            question(0, f"A text:\n{quoted(text)}", f"{rubric} Reply with one word, {' or '.join(offered)}.")
            for text in passages["text"]
            for offered in orders
        ],
        _WORDS,
        label=f"{CURATION}: reading",
    )
    scores: list[float | None] = []
    for first, second in zip(choices[::2], choices[1::2], strict=True):
        read = [read_choice(choice) for choice in (first, second)]
        silent = any(why for _, why in read)
        scores.append(None if silent else sum(probability for probability, _ in read) / 2)
    place = pl.col("score").rank("ordinal", descending=True)
    return passages.with_columns(score=pl.Series(scores, dtype=pl.Float64)).with_columns(
        kept=(place <= keep).fill_null(False),
        reason=pl.when(pl.col("score").is_null())
        .then(pl.lit("the judge said neither yes nor no"))
        .when(place <= keep)
        .then(pl.lit(f"one of the best {keep}"))
        .otherwise(pl.lit(f"not one of the best {keep}")),
    )


def _cloze(row: dict[str, str], chance: random.Random) -> Proposal:
    """The passage with one word left out that occurs in it once."""
    text = row["text"]
    proposal = Proposal(
        CURATION, CURATION, text, origins=(Origin(row["document_id"]),), verifier="exact", written=False
    )
    once = [found for found in _WORD.finditer(text) if _times(found[0], text) == 1]
    if not once:
        return proposal.rejected(Reason.UNFIT, "no word occurs once")
    left_out = chance.choice(once)
    gap = text[: left_out.start()] + _GAP + text[left_out.end() :]
    asked = f"{gap}\n\nOne word of this text is left out. Which one? Answer with that word alone."
    return replace(proposal, prompt=asked, answer=left_out[0])


def _times(word: str, text: str) -> int:
    return len(re.findall(rf"\b{re.escape(word)}\b", text))
