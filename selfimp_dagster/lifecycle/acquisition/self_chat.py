"""The policy talks with itself (survey 2.4.3)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus
from selfimp_dagster.lifecycle.acquisition.proposals import (
    JUDGEMENT,
    Fault,
    Known,
    Proposal,
    Rules,
    acquired_task,
    depth_of,
    fault_of,
    languages_of,
    proposal_row,
    task_origins,
    text_fault,
)
from selfimp_dagster.lifecycle.acquisition.reasons import Reason
from selfimp_dagster.lifecycle.sampling import SampleRequest, asked
from selfimp_dagster.records import PROPOSALS, SAMPLES, TASKS, derive_seed, frame
from selfimp_dagster.registry import method

_SOURCE = "self_chat"
_FIRST = "Ask me a question."
_ASK_ON = ("Now ask me another question, one that follows from this.", "Say nothing but the question.")
_ASKS = re.compile(r"[?\uff1f\u061f]")
_ROLES = re.compile(r"^\W*(?:user|assistant)\W*:", re.IGNORECASE | re.MULTILINE)


class SelfChat(BaseModel):
    """Parameters of `self_chat`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    turns: int = Field(default=3, ge=2, description="Questions of a chat at most, the first one included.")
    most_alike: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="ROUGE-L to an earlier question of the chat from which on a question is nothing new; "
        "likewise for answers.",
    )
    question_sampling: Sampling = Field(
        default=Sampling(max_new_tokens=48, temperature=0.8), description="How questions are drawn."
    )
    sampling: Sampling = Field(
        default=Sampling(max_new_tokens=128, temperature=0.8), description="How answers are drawn."
    )


@dataclass(frozen=True)
class _Chat:
    """A chat under way: its turns, and the rows that its answers are."""

    number: int
    messages: tuple[Message, ...]
    questions: tuple[str, ...]
    tasks: tuple[Mapping[str, Any], ...]
    answers: tuple[str, ...] = ()
    samples: tuple[Mapping[str, Any], ...] = ()

    @property
    def first(self) -> Mapping[str, Any]:
        """The task that it began with."""
        return self.tasks[0]


@method(
    "acquisition",
    _SOURCE,
    parameters=SelfChat,
    section="2.4.3",
    paper="arXiv:2304.01196",
    needs=frozenset({JUDGEMENT}),
)
def self_chat(context: AcquisitionContext, parameters: SelfChat) -> Corpus:
    """The policy answers, then asks on in the role of the user, and so on (Baize's self-chat).

    In: train tasks, which open the chats; signal: none but filters, so that a reward of the recipe has to
    judge; out: each question as a task, whose chat is the conversation so far, with the answer as its sample
    (generation I). Questions that follow are the policy's: a chat is one act of generation, so they are one
    deeper than the task that it began with. A chat ends at the first turn that is empty, endless, in another
    language, an injected instruction, a refusal, or nearly what was said before, or at a question without a
    question mark; that turn is rejected and recorded. Baize has one model write whole transcripts; here the
    two roles take turns, and the user sees the chat with the roles exchanged.
    """
    opened = context.draw(context.size, context.skill_weights).to_dicts()
    rules = replace(context.rules, languages=languages_of(task["prompt"] for task in opened))
    chats = [
        _Chat(number, asked(task, context.messages), (task["prompt"],), (task,))
        for number, task in enumerate(opened)
    ]
    done: list[_Chat] = []
    rows: list[dict[str, Any]] = []
    drafts: list[dict[str, Any]] = []
    for turn in range(parameters.turns):
        answered: list[_Chat] = []
        for chat, row in zip(chats, _answers(context, parameters, chats, turn), strict=True):
            fault = _answer_fault(chat, row, rules, parameters)
            if fault is None:
                answered.append(_with_answer(chat, row))
            else:
                drafts.append(row)
                rows.append(proposal_row(_proposal(chat, row).rejected(*fault), len(rows), None))
                done.append(chat)
        if turn + 1 == parameters.turns:
            done += answered
            break
        chats = []
        for chat, row in zip(answered, _questions(context, parameters, answered, turn), strict=True):
            drafts.append(row)
            proposal = _proposal(chat, row)
            fault = _question_fault(chat, proposal, rules, parameters)
            if fault is None:
                chats.append(_with_question(chat, row["response"].strip()))
                rows.append(proposal_row(proposal, len(rows), _task_id(chats[-1])))
            else:
                rows.append(proposal_row(proposal.rejected(*fault), len(rows), None))
                done.append(chat)
    tasks = {task["task_id"]: task for chat in done for task in chat.tasks}
    return Corpus(
        tasks=frame(tasks.values(), TASKS),
        samples=frame((row for chat in done for row in chat.samples), SAMPLES),
        proposals=frame(rows, PROPOSALS),
        drafts=frame(drafts, SAMPLES),
    )


def _answers(
    context: AcquisitionContext, parameters: SelfChat, chats: Sequence[_Chat], turn: int
) -> list[dict[str, Any]]:
    requests = [
        SampleRequest(
            _task_id(chat),
            chat.messages,
            derive_seed(context.seed, "answer", chat.number, turn),
            chat.samples[-1]["sample_id"] if chat.samples else None,
        )
        for chat in chats
    ]
    generation = "I" if turn else "SE"
    return context.sample(
        requests, parameters.sampling, generation=generation, label=f"answers {turn + 1}"
    ).to_dicts()


def _questions(
    context: AcquisitionContext, parameters: SelfChat, chats: Sequence[_Chat], turn: int
) -> list[dict[str, Any]]:
    requests = [
        SampleRequest(
            _task_id(chat),
            _as_user(chat),
            derive_seed(context.seed, "question", chat.number, turn),
            chat.samples[-1]["sample_id"],
        )
        for chat in chats
    ]
    label = f"questions {turn + 1}"
    return context.sample(requests, parameters.question_sampling, generation="I", label=label).to_dicts()


def _as_user(chat: _Chat) -> tuple[Message, ...]:
    """What the policy is asked in the role of the user: the chat with the roles exchanged."""
    turns: list[Message] = [{"role": "user", "content": _FIRST}]
    for question, answer in zip(chat.questions, chat.answers, strict=True):
        turns.append({"role": "assistant", "content": question})
        turns.append({"role": "user", "content": answer})
    *before, last = turns
    return (*before, {**last, "content": f"{last['content']}\n\n{' '.join(_ASK_ON)}"})


def _answer_fault(chat: _Chat, row: Mapping[str, Any], rules: Rules, parameters: SelfChat) -> Fault | None:
    ended = row["finish_reason"] != "length"
    fault = text_fault(row["response"], ended=ended, languages=rules.languages)
    return fault or _repeats(row["response"], chat.answers, parameters)


def _question_fault(chat: _Chat, proposal: Proposal, rules: Rules, parameters: SelfChat) -> Fault | None:
    if fault := fault_of(proposal, rules):
        return fault
    if match := _ROLES.search(proposal.prompt):
        return Reason.FORM, f"it speaks as both: {match[0].strip()}"
    if fault := _repeats(proposal.prompt, (*chat.questions, _FIRST, *_ASK_ON), parameters):
        return fault
    return None if _ASKS.search(proposal.prompt) else (Reason.FORM, "it asks nothing")


def _repeats(text: str, earlier: Sequence[str], parameters: SelfChat) -> Fault | None:
    return Known(earlier, most=parameters.most_alike).fault(text)


def _with_answer(chat: _Chat, row: Mapping[str, Any]) -> _Chat:
    return replace(
        chat,
        messages=(*chat.messages, {"role": "assistant", "content": row["response"]}),
        answers=(*chat.answers, row["response"]),
        samples=(*chat.samples, row),
    )


def _with_question(chat: _Chat, question: str) -> _Chat:
    asking = replace(
        chat,
        messages=(*chat.messages, {"role": "user", "content": question}),
        questions=(*chat.questions, question),
    )
    task = acquired_task(
        source=_SOURCE,
        skill=chat.first["skill"],
        prompt=_text(asking),
        parents=[chat.first["task_id"], chat.samples[-1]["sample_id"]],
        depth=depth_of(task_origins([chat.first])),
        chat=asking.messages,
    )
    return replace(asking, tasks=(*chat.tasks, task))


def _proposal(chat: _Chat, row: Mapping[str, Any]) -> Proposal:
    """A turn of the policy as what it proposes."""
    return Proposal(
        method=_SOURCE,
        skill=chat.first["skill"],
        prompt=row["response"],
        origins=task_origins([chat.first]),
        draft_id=row["sample_id"],
        ended=row["finish_reason"] != "length",
    )


def _task_id(chat: _Chat) -> str:
    """The id of the task that the last question of a chat is."""
    return str(chat.tasks[-1]["task_id"])


def _text(chat: _Chat) -> str:
    return "\n\n".join(message["content"] for message in chat.messages)
