"""What models propose as tasks: what is wrong with a proposal, and what becomes of the others.

Whatever a model says when it is asked for a task is data of unknown worth. It becomes a task of the corpus or
is rejected for one of a fixed list of reasons; both stand in the table `proposals` of the round.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import polars as pl

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.acquisition.reasons import Reason
from selfimp_dagster.lifecycle.rewards.verdicts import TURNS
from selfimp_dagster.lifecycle.rouge import rouge_l, words
from selfimp_dagster.records import PROPOSALS, TASKS, canonical_json, content_id, frame, task_id
from selfimp_dagster.tasks.pools import prompt_key
from selfimp_dagster.tasks.verifiers import UNVERIFIED

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

ACQUIRED = "acquired"
"""The pool of tasks that acquisition made; those that it drew are of the pool train."""


JUDGEMENT = "judgement"
"""What a method needs that makes tasks to which nobody knows the answer: a reward that does not ask it."""

Fault = tuple[Reason, str]
"""What is wrong with a text, and the numbers or words behind that."""


@dataclass(frozen=True)
class Origin:
    """What stood before a model when it wrote something: a task, a document or a sample."""

    id: str
    depth: int = 0


def depth_of(origins: Iterable[Origin]) -> int:
    """The depth of what a model wrote with these in sight: one more than the deepest; 1 without any."""
    return 1 + max((origin.depth for origin in origins), default=0)


def task_origins(tasks: Iterable[Mapping[str, Any]]) -> tuple[Origin, ...]:
    """Tasks (rows of records.TASKS) as origins."""
    return tuple(Origin(task["task_id"], task["generation_depth"]) for task in tasks)


def acquired_task(
    *,
    source: str,
    skill: str,
    prompt: str,
    parents: Sequence[str],
    depth: int,
    difficulty: float = 1.0,
    answer: str | None = None,
    verifier: str = UNVERIFIED,
    claimed: str | None = None,
    entry: Mapping[str, Any] | None = None,
    chat: Sequence[Message] | None = None,
    numeric: bool = False,
) -> dict[str, Any]:
    """A task that acquisition made, as a row of records.TASKS.

    `answer` is a verified one, with the verifier that compares with it. Without it the task is unverified:
    the reward `answer` measures nothing of it, and `claimed` is what a model says the answer is; where no
    model says, `numeric` tells that it is a number, so that votes count numbers. Other verifiers need no
    answer, but an `entry`. `chat` asks the task in place of the campaign's way.
    """
    told = dict(entry or {})
    if claimed is not None:
        told["claimed"] = claimed
    elif numeric:
        told["numeric"] = True
    return {
        "task_id": task_id(skill, prompt, answer),
        "pool": ACQUIRED,
        "skill": skill,
        "suite": f"acquired:{source}",
        "difficulty": difficulty,
        "prompt": prompt,
        "chat": None if chat is None else list(chat),
        "answer": answer,
        "verifier": verifier,
        "entry": canonical_json(told) if told else None,
        "source": source,
        "parent_ids": list(parents),
        "generation_depth": depth,
    }


@dataclass(frozen=True)
class Proposal:
    """A task that is proposed. `fault` is what its method already found wrong with it.

    `written`: by a model; what a rule makes from real data is as deep as that. `ended`: whether the model
    ended by itself. `claimed` is its answer as the model says, `numeric` that it is a number where the model
    does not say, `answer` a verified one with its `verifier`.
    """

    method: str
    skill: str
    prompt: str
    origins: tuple[Origin, ...] = ()
    difficulty: float = 1.0
    claimed: str | None = None
    numeric: bool = False
    answer: str | None = None
    verifier: str = UNVERIFIED
    entry: Mapping[str, Any] | None = None
    chat: tuple[Message, ...] | None = None
    draft_id: str | None = None
    ended: bool = True
    written: bool = True
    fault: Fault | None = None

    @property
    def depth(self) -> int:
        """How deep its task would be."""
        return depth_of(self.origins) if self.written else max((o.depth for o in self.origins), default=0)

    def rejected(self, reason: Reason, detail: str = "") -> "Proposal":
        """The same, rejected by its method."""
        return replace(self, fault=(reason, detail))

    def formless(self, form: str) -> "Proposal":
        """The same, in which the form was not found: rejected for that unless worse is wrong with it."""
        return self.rejected(*(text_fault(self.prompt, ended=self.ended) or (Reason.FORM, f"not {form}")))


@dataclass(frozen=True)
class Rules:
    """What every proposal of a round must fulfil.

    `reserved` says why evaluation may ask a prompt (none: it does not); `languages` are those that texts may
    have, any if there are none.
    """

    reserved: Callable[[str], str | None] = lambda prompt: None
    most_depth: int | None = None
    languages: frozenset[str] = frozenset()


class Known:
    """The prompts that are there already; with `most` also what is nearly one of them.

    Nearness is ROUGE-L: the F-measure of the longest common subsequence of words (Lin, 2004).
    """

    def __init__(self, prompts: Iterable[str], most: float | None = None) -> None:
        self._most = most
        self._keys: set[str] = set()
        self._words: list[list[str]] = []
        for prompt in prompts:
            self.add(prompt)

    def add(self, prompt: str) -> None:
        """One more prompt that is there."""
        self._keys.add(prompt_key(prompt))
        self._words.append(words(prompt))

    def fault(self, prompt: str) -> Fault | None:
        """Whether the prompt is there already, or one that is nearly it."""
        if prompt_key(prompt) in self._keys:
            return Reason.KNOWN, "the same prompt"
        if self._most is not None:
            own = words(prompt)
            nearest = max((rouge_l(own, other) for other in self._words), default=0.0)
            if nearest >= self._most:
                return Reason.KNOWN, f"ROUGE-L {nearest:.2f}, less than {self._most:g} is new"
        return None


@dataclass(frozen=True)
class Decided:
    """The tasks that proposals became (records.TASKS), and what became of all (records.PROPOSALS)."""

    tasks: pl.DataFrame = field(default_factory=TASKS.to_frame)
    proposals: pl.DataFrame = field(default_factory=PROPOSALS.to_frame)


def decide(proposals: Iterable[Proposal], rules: Rules, known: Known) -> Decided:
    """Accepts or rejects proposals in their order; each accepted one is known to those after it."""
    tasks, rows = [], []
    for position, proposal in enumerate(proposals):
        fault = proposal.fault or fault_of(proposal, rules) or known.fault(proposal.prompt)
        accepted = None
        if fault is None:
            known.add(proposal.prompt)
            task = acquired_task(
                source=proposal.method,
                skill=proposal.skill,
                prompt=proposal.prompt.strip(),
                parents=[origin.id for origin in proposal.origins],
                depth=proposal.depth,
                difficulty=proposal.difficulty,
                answer=proposal.answer,
                verifier=proposal.verifier,
                claimed=proposal.claimed,
                entry=proposal.entry,
                chat=proposal.chat,
                numeric=proposal.numeric,
            )
            tasks.append(task)
            accepted = task["task_id"]
        rows.append(proposal_row(replace(proposal, fault=fault), position, accepted))
    return Decided(frame(tasks, TASKS), frame(rows, PROPOSALS))


def proposal_row(proposal: Proposal, position: int, task_id: str | None) -> dict[str, Any]:
    """What became of a proposal, as a row of records.PROPOSALS; `position` tells like ones apart."""
    parents = [origin.id for origin in proposal.origins]
    reason, detail = proposal.fault or (None, None)
    return {
        "proposal_id": content_id(
            "proposal", proposal.method, proposal.draft_id, parents, proposal.prompt, position
        ),
        "method": proposal.method,
        "draft_id": proposal.draft_id,
        "prompt": proposal.prompt,
        "answer": proposal.answer if proposal.claimed is None else proposal.claimed,
        "parent_ids": parents,
        "generation_depth": proposal.depth,
        "task_id": task_id,
        "reason": None if reason is None else reason.value,
        "detail": detail,
    }


def fault_of(proposal: Proposal, rules: Rules) -> Fault | None:
    """What is wrong with a proposal by itself, whatever method made it."""
    fault = text_fault(proposal.prompt, ended=proposal.ended, languages=rules.languages)
    if fault is None and proposal.claimed is not None:
        fault = text_fault(proposal.claimed, languages=frozenset())
    if fault is not None:
        return fault
    if rules.most_depth is not None and proposal.depth > rules.most_depth:
        return Reason.DEPTH, f"{proposal.depth}, at most {rules.most_depth}"
    if why := rules.reserved(proposal.prompt):
        return Reason.EVALUATION, why
    return None


def text_fault(text: str, *, ended: bool = True, languages: Collection[str] = ()) -> Fault | None:
    """What is wrong with a text that a model wrote, wherever it is to go; None: nothing that shows."""
    if not any(character.isalnum() for character in text):
        return Reason.EMPTY, ""
    if not ended:
        return Reason.ENDLESS, "cut off at the token limit"
    if (distinct := _distinct(words(text))) < _LEAST_DISTINCT:
        return Reason.ENDLESS, f"{distinct:.2f} of its four-word runs are distinct"
    if match := _INJECTION.search(unicodedata.normalize("NFKC", text)) or TURNS.search(text):
        return Reason.INJECTION, match[0].strip()[:80]
    if match := _REFUSAL.search(text):
        return Reason.REFUSAL, match[0].strip()[:80]
    if languages and (likely := _likely_languages(text)):
        mass = sum(likely.get(code, 0.0) for code in languages)
        if mass < 1 - _SURE:
            found = max(likely, key=likely.__getitem__)
            return Reason.LANGUAGE, f"{found}, not {' or '.join(sorted(languages))}"
    return None


_LEAST_DISTINCT = 0.3
_RUN = 4
_LETTERS = 24  # bytes of letters below which nobody can tell a language
_SURE = 0.95
_INJECTION = re.compile(
    r"^[\s>*_`#-]*(?:grade|verdict)\s*:\s*(?:\d+|a|b|tie)\b"
    r"|\b(?:ignore|disregard|forget)\s+(?:all\s+|any\s+)?(?:the\s+|of\s+the\s+|your\s+|these\s+)?"
    r"(?:previous|prior|above|earlier|preceding)\s+\w+"
    r"|\b(?:give|assign|award)\s+(?:this|it|the\s+answer|me)\s+(?:the\s+|a\s+)?"
    r"(?:highest|best|full|maximum|top|perfect)\s+(?:grade|score|mark|rating)",
    re.IGNORECASE | re.MULTILINE,
)
_REFUSAL = re.compile(
    r"\bas an ai (?:language )?model\b|\bi(?:'m| am) (?:sorry|unable|not able)\b"
    r"|\bi (?:cannot|can't) (?:help|assist)\b",
    re.IGNORECASE,
)


def language(text: str) -> str | None:
    """The language of a text, an ISO 639-1 code; None where it has too few letters or two are likely."""
    likely = _likely_languages(text)
    return next((code for code, probability in likely.items() if probability >= _SURE), None)


def languages_of(texts: Iterable[str]) -> frozenset[str]:
    """The languages of texts, without those of less than a tenth of them; none where none can be told."""
    found = [code for text in texts if (code := language(text)) is not None]
    return frozenset(code for code in set(found) if 10 * found.count(code) >= len(found))


def _likely_languages(text: str) -> dict[str, float]:
    """The probability of each language, from the words alone; nothing where these are too few to tell."""
    plain = " ".join(re.findall(r"[^\W\d_]{2,}", text))
    if len(plain.encode(errors="replace")) < _LETTERS:
        return {}
    return {str(code): float(probability) for code, probability in _identifier().rank(plain)}


def _distinct(tokens: Sequence[str]) -> float:
    """The share of distinct ones among the runs of four words; 1 for short texts."""
    runs = [tuple(tokens[start : start + _RUN]) for start in range(len(tokens) - _RUN + 1)]
    return len(set(runs)) / len(runs) if len(runs) >= 2 * _RUN else 1.0


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
