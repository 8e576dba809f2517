"""Calling tools where they help (survey 2.3)."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus
from selfimp_dagster.lifecycle.acquisition.proposals import (
    Fault,
    Proposal,
    proposal_row,
    task_origins,
    text_fault,
)
from selfimp_dagster.lifecycle.acquisition.reasons import Reason
from selfimp_dagster.lifecycle.sampling import SampleRequest, asked
from selfimp_dagster.records import PROPOSALS, SAMPLES, canonical_json, content_id, derive_seed, frame
from selfimp_dagster.registry import method
from selfimp_dagster.tools.calculator import calculated
from selfimp_dagster.tools.python import executed

Tool = Literal["calculator", "python"]

_TOOLS: Mapping[Tool, tuple[str, str, Callable[[str], str]]] = {
    "calculator": ("an arithmetic expression", "3 * (4 + 5)", calculated),
    "python": ("one line of Python, an expression", "sum(range(1, 11))", executed),
}
"""What each takes, an example, and what runs it."""

_ERROR = "error:"
_CALL = re.compile(r"\b(calculator|python)\s*\[(.*)\]", re.IGNORECASE)
_MARK = " ["
"""What a call begins with: where the policy finds it likely, a call is tried."""

_FADES = 0.2
"""By how much less each further token counts: five tokens count in all."""


class ToolUse(BaseModel):
    """Parameters of `tool_use`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tools: tuple[Tool, ...] = Field(
        default=("calculator", "python"), min_length=1, description="The tools that may be called."
    )
    positions: int = Field(default=3, ge=1, description="Places in a text at most where calls are tried.")
    least_probability: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Probability that a call begins there, below which none is tried.",
    )
    calls: int = Field(default=2, ge=1, description="Calls of each tool that are drawn for a place.")
    least_gain: float = Field(
        default=0.5,
        description="By how many nats at least the result must make what follows likelier, weighted: more "
        "than no call does, and more than the call without its result.",
    )
    sampling: Sampling = Field(
        default=Sampling(max_new_tokens=64), description="How the texts are drawn that calls are put into."
    )
    call_sampling: Sampling = Field(
        default=Sampling(max_new_tokens=32), description="How the calls are drawn."
    )


@dataclass(frozen=True)
class _Text:
    """A response of the policy to a task, and how the task is asked."""

    task: Mapping[str, Any]
    chat: tuple[Message, ...]
    sample: Mapping[str, Any]

    @property
    def words(self) -> str:
        return str(self.sample["response"]).strip()


@dataclass(frozen=True)
class _Call:
    """A call that the policy proposed for a place in a text."""

    text: _Text
    place: int
    tool: Tool
    draft: Mapping[str, Any]
    argument: str = ""
    result: str = ""
    gain: float = 0.0
    fault: Fault | None = None

    def written(self, result: str | None) -> str:
        """The call as it stands in a text, with its result or without."""
        shown = "" if result is None else f" -> {result}"
        return f"[{self.tool}({self.argument}){shown}]"


@method(
    "acquisition",
    "tool_use",
    parameters=ToolUse,
    section="2.3",
    paper="arXiv:2302.04761",
    needs=frozenset({"logprobs"}),
)
def tool_use(context: AcquisitionContext, parameters: ToolUse) -> Corpus:
    """Calls of tools stay in the policy's texts where their results make what follows likelier (Toolformer).

    In: the policy's responses to train tasks; signal: L- - L+, in nats, where L+ is the loss of the tokens
    that follow the place with the call and its result put in front of the text, and L- the smaller one of the
    losses without a call and with the call alone; the tokens' weights fall from 1 by 0.2 each and add up to
    one. Calls are tried where the policy finds the opening bracket likeliest. Out: responses with the calls
    and results that gained enough (generation I), drawn by nobody as they stand. The paper lets the model
    continue its text with a call; a chat is asked for it instead.
    """
    tasks = context.draw(context.size, context.skill_weights)
    texts = _texts(context, parameters, tasks.to_dicts())
    rows: list[dict[str, Any]] = []
    sound: list[_Text] = []
    for text in texts:
        fault = text_fault(text.words, ended=text.sample["finish_reason"] != "length")
        if fault is None:
            sound.append(text)
        else:
            rows.append(
                proposal_row(_proposal(text, text.sample, text.words).rejected(*fault), len(rows), None)
            )
    places = _places(context, parameters, sound)
    drawn, drafts = _draw_calls(context, parameters, places)
    judged = _judged(context, parameters, [_ran(call) for call in drawn])
    made = []
    for text in sound:
        own = [call for call in judged if call.text is text]
        best = _best(own)
        for call in own:
            fault = call.fault
            if fault is None and call not in best:
                fault = (Reason.KNOWN, "a better call stands in the same place")
            proposal = _proposal(text, call.draft, f"{text.words[: call.place]} {call.written(call.result)}")
            if fault is not None:
                proposal = proposal.rejected(*fault)
            accepted = None if fault is not None else text.task["task_id"]
            rows.append(proposal_row(proposal, len(rows), accepted))
        if best:
            made.append(_with_calls(text, best))
    samples = frame(made, SAMPLES)
    return Corpus(
        tasks=tasks.join(samples, on="task_id", how="semi", maintain_order="left"),
        samples=samples,
        proposals=frame(rows, PROPOSALS),
        drafts=frame([*(text.sample for text in texts), *drafts], SAMPLES),
    )


def weighted_loss(logprobs: Sequence[float]) -> float:
    """The loss of the tokens that follow a place, in nats: the first counts most, the sixth nothing.

    The weight of token t, from 0, is max(0, 1 - 0.2 t), over the sum of all weights.
    """
    weights = [max(0.0, 1 - _FADES * number) for number in range(len(logprobs))]
    return -sum(weight * logprob for weight, logprob in zip(weights, logprobs, strict=True)) / sum(weights)


def _texts(
    context: AcquisitionContext, parameters: ToolUse, tasks: Sequence[Mapping[str, Any]]
) -> list[_Text]:
    chats = [asked(task, context.messages) for task in tasks]
    requests = [
        SampleRequest(task["task_id"], chat, derive_seed(context.seed, "text", task["task_id"]))
        for task, chat in zip(tasks, chats, strict=True)
    ]
    drawn = context.sample(requests, parameters.sampling, generation="SE", label="texts")
    return [_Text(task, chat, row) for task, chat, row in zip(tasks, chats, drawn.to_dicts(), strict=True)]


def _places(
    context: AcquisitionContext, parameters: ToolUse, texts: Sequence[_Text]
) -> list[tuple[_Text, int]]:
    """Where calls are tried: behind words, where the policy finds the opening bracket likeliest."""
    candidates = [(text, match.start()) for text in texts for match in re.finditer(r"\s+(?=\S)", text.words)]
    pairs = [(_invited(text, parameters), text.words[:place] + _MARK) for text, place in candidates]
    likely = [math.exp(found[-1]) for found in context.logprobs(pairs)]
    places = []
    for text in texts:
        own = sorted(
            (-probability, place)
            for (of, place), probability in zip(candidates, likely, strict=True)
            if of is text and probability >= parameters.least_probability
        )
        places += [(text, place) for _, place in own[: parameters.positions]]
    return places


def _invited(text: _Text, parameters: ToolUse) -> tuple[Message, ...]:
    """The task, with the tools that may be called in the answer."""
    told = "\n".join(_described(tool) for tool in parameters.tools)
    content = (
        f"{text.task['prompt']}\n\nAnswer the question. Before a number that you cannot know by heart, call "
        f"a tool in square brackets:\n{told}"
    )
    return ({"role": "user", "content": content},)


def _described(tool: Tool) -> str:
    takes, example, _ = _TOOLS[tool]
    return f"{tool}[{example}] - takes {takes}"


def _draw_calls(
    context: AcquisitionContext, parameters: ToolUse, places: Sequence[tuple[_Text, int]]
) -> tuple[list[_Call], list[dict[str, Any]]]:
    wanted = [
        (text, place, tool, number)
        for text, place in places
        for tool in parameters.tools
        for number in range(parameters.calls)
    ]
    requests = [
        SampleRequest(
            text.task["task_id"],
            _asked_for_call(text, place, tool),
            derive_seed(context.seed, "call", text.task["task_id"], place, tool, number),
            text.sample["sample_id"],
        )
        for text, place, tool, number in wanted
    ]
    rows = context.sample(requests, parameters.call_sampling, generation="I", label="calls").to_dicts()
    calls = [
        _read(_Call(text, place, tool, row)) for (text, place, tool, _), row in zip(wanted, rows, strict=True)
    ]
    return calls, rows


def _asked_for_call(text: _Text, place: int, tool: Tool) -> tuple[Message, ...]:
    content = (
        f"A question:\n{text.task['prompt']}\n\nThe answer begins:\n{text.words[:place]}\n\n"
        f"Which call of the tool {tool} finds what comes next? The tool: {_described(tool)}. "
        f"Write the call and nothing else."
    )
    return ({"role": "user", "content": content},)


def _read(call: _Call) -> _Call:
    """The call with its argument, or with what is wrong with what the policy said.

    What it says beside its call is left out.
    """
    said = str(call.draft["response"])
    match = _CALL.search(said)
    if match is None or match[1].lower() != call.tool or not match[2].strip():
        fault = text_fault(said, ended=call.draft["finish_reason"] != "length")
        return replace(call, fault=fault or (Reason.FORM, f"no {call.tool}[...]"))
    return replace(call, argument=match[2].strip(), fault=text_fault(match[2]))


def _ran(call: _Call) -> _Call:
    """The call with what its tool says; an error is a fault."""
    if call.fault is not None:
        return call
    result = _TOOLS[call.tool][2](call.argument)
    fault = (Reason.EXECUTION, result.removeprefix(_ERROR).strip()) if result.startswith(_ERROR) else None
    return replace(call, result=result, fault=fault)


def _judged(context: AcquisitionContext, parameters: ToolUse, calls: Sequence[_Call]) -> list[_Call]:
    """The calls, those rejected whose results do not help enough."""
    running = [call for call in calls if call.fault is None]
    fronts = [
        front for call in running for front in ("", f"{call.written(None)} ", f"{call.written(call.result)} ")
    ]
    pairs = [
        (call.text.chat, front + call.text.words)
        for call, front in zip([c for c in running for _ in range(3)], fronts, strict=True)
    ]
    before = [(call.text.chat, call.text.words[: call.place]) for call in running]
    logprobs = context.logprobs([*pairs, *before])
    gains = {}
    for number, call in enumerate(running):
        plain, alone, helped = logprobs[3 * number : 3 * number + 3]
        follow = len(plain) - len(logprobs[len(pairs) + number])
        losses = [weighted_loss(found[-follow:]) for found in (plain, alone, helped)]
        gains[call.draft["sample_id"]] = min(losses[:2]) - losses[2]
    return [_with_gain(call, gains.get(call.draft["sample_id"]), parameters) for call in calls]


def _with_gain(call: _Call, gain: float | None, parameters: ToolUse) -> _Call:
    if gain is None:
        return call
    if gain >= parameters.least_gain:
        return replace(call, gain=gain)
    return replace(call, fault=(Reason.UNHELPFUL, f"{gain:.2f} nats, at least {parameters.least_gain:g}"))


def _best(calls: Sequence[_Call]) -> list[_Call]:
    """The call of each place that gained most, in the order of the places."""
    places: dict[int, _Call] = {}
    for call in sorted(calls, key=lambda call: -call.gain):
        if call.fault is None:
            places.setdefault(call.place, call)
    return [places[place] for place in sorted(places)]


def _with_calls(text: _Text, calls: Sequence[_Call]) -> dict[str, Any]:
    """The text with these calls and their results, as a row of records.SAMPLES that nobody drew."""
    words, start, parts = text.words, 0, []
    for call in calls:
        parts += [words[start : call.place], " ", call.written(call.result)]
        start = call.place
    response = "".join([*parts, words[start:]])
    return {
        **text.sample,
        "sample_id": content_id("with calls", text.sample["sample_id"], response),
        "policy_hash": None,
        "generation": "I",
        "response": response,
        "sum_logprob": None,
        "mean_logprob": None,
        "sampling": canonical_json({}),
        "parent_sample_id": text.sample["sample_id"],
    }


def _proposal(text: _Text, draft: Mapping[str, Any], words: str) -> Proposal:
    return Proposal(
        method="tool_use",
        skill=text.task["skill"],
        prompt=words,
        origins=task_origins([text.task]),
        draft_id=draft["sample_id"],
    )
