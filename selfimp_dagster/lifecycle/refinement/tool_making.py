"""Tool making: the policy writes a program for its tasks, and only a proven one is called (survey 5.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from pydantic import Field

from selfimp_dagster.engines.base import Message
from selfimp_dagster.lifecycle.evaluation.statistics import wilson
from selfimp_dagster.lifecycle.refinement.conversation import Conversation, Row, Turn, added, replied
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.registry import method
from selfimp_dagster.sandbox.functions import Called, call_function, program_in
from selfimp_dagster.tasks.pools import tasks_from_frame
from selfimp_dagster.tasks.suites import Task

_NAME = "solve"
_LONGEST = 300  # characters of a result; more is no answer
_MAKE = (
    "Write a Python function `solve(question)` that takes the text of a question like these, reads what it "
    "needs out of the text, and returns the answer as text. It must work for other questions of this kind. "
    "Use the standard library only.\n\n{examples}\n\nWrite the function in one ```python block."
)
_AGAIN = "That did not work: {why}. Write the whole function again in one ```python block."
_SAYS = "A program that was tested on questions of this kind returns: {value}"


class ToolMaking(RefinementParameters):
    """Parameters of `tool_making`."""

    shown: int = Field(default=3, ge=1, description="Solved tasks of the skill that the policy is shown.")
    practice: int = Field(default=24, ge=1, description="Tasks of the skill on which a tool is tried.")
    attempts: int = Field(default=3, ge=1, description="Times that the policy may write a tool of a skill.")
    tool_tokens: int = Field(default=256, ge=1, description="Tokens of a tool.")
    failures: int = Field(
        default=2, ge=1, description="Calls without a result after which a tool is called no more."
    )
    cpu_seconds: int = Field(
        default=5, ge=1, le=60, description="Seconds that all calls of a tool together may compute."
    )


@dataclass(frozen=True)
class Tool:
    """A program that was tried: of `tried` practice answers with its results in sight, `right` were right."""

    source: str
    right: float
    tried: int


@method("refinement", "tool_making", parameters=ToolMaking, section="5.4", paper="arXiv:2305.17126")
def tool_making(context: RefinementContext, parameters: ToolMaking) -> tuple[pl.DataFrame, list[Refined]]:
    """The policy writes a program for each skill; one that is proven on practice is called on the tasks.

    In: solved tasks of the skill; signal: the recipe's first reward of practice answers that were given with
    the program's result in sight; out: answers given so. A program is verified when the whole 95 % interval
    of its practice lies above the rate without it; one that is not is told what went wrong and written again
    (LATM, Cai et al., section 3.1, whose verification is a few unit tests). Programs run in the sandbox
    alone. One that fails on a task leaves the greedy answer, and after `failures` of them it is retired.
    `agreement` is the rate of the practice with the program, 0 without one. The paper's tool maker is a
    stronger model than its tool user, and a dispatcher chooses among tools; here the policy is both, and
    there is one tool for each skill.

    Raises:
        SelfimpError: no sandbox holds on this machine.
    """
    talk = Conversation(context)
    answers: dict[str, Row] = dict(talk.before)
    rates: dict[str, float] = {}
    for skill in sorted({task.skill for task in talk.tasks}):
        own = [task for task in talk.tasks if task.skill == skill]
        tool, fate = _made(skill, talk, context, parameters)
        told = {"verified": tool is not None, "why": fate}
        if tool is not None:
            results = _results(tool.source, own, parameters)
            called = usable([result is not None for result in results], parameters.failures)
            given = {
                task.task_id: result
                for task, result, use in zip(own, results, called, strict=True)
                if use and result is not None
            }
            rows = talk.ask(
                [Turn(task.task_id, _aided(talk, task, given)) for task in own if task.task_id in given],
                f"answering with the tool of {skill}",
                temperature=0,
                max_new_tokens=context.max_new_tokens,
                generation="R",
            )
            answers |= {row["task_id"]: row for row in rows if row["response"].strip()}
            rates |= dict.fromkeys(given, tool.right / tool.tried)
            told |= {
                "source": tool.source,
                "called": sum(called),
                "failed": sum(use and result is None for use, result in zip(called, results, strict=True)),
                "retired": not all(called),
            }
        context.note(f"tool of {skill}", told)
    shared = talk.shared_tokens()
    return talk.samples, [
        Refined(id_, row["sample_id"], rates.get(id_, 0.0), talk.tokens(id_) + shared)
        for id_, row in answers.items()
    ]


def verified(right: float, tried: int, plain: float) -> bool:
    """Whether a tool is proven: the whole interval of its practice lies above the rate without it."""
    return wilson(min(max(right, 0.0), tried), tried).low > plain


def usable(worked: Sequence[bool], failures: int) -> list[bool]:
    """Which calls are made, in their order: none after so many that failed."""
    made, failed = [], 0
    for ok in worked:
        made.append(failed < failures)
        failed += made[-1] and not ok
    return made


def _made(
    skill: str, talk: Conversation, context: RefinementContext, parameters: ToolMaking
) -> tuple[Tool | None, str]:
    """The verified tool of a skill, or none with the reason."""
    examples = context.solved.filter(pl.col("skill") == skill).head(parameters.shown)
    if examples.is_empty():
        return None, "no solved task to show"
    rest = context.practice.filter(pl.col("skill") == skill).join(examples, on="task_id", how="anti")
    practice = tasks_from_frame(rest.sort("task_id").head(parameters.practice))
    if not practice:
        return None, "no practice task to try a tool on"
    plain = talk.practised({task.task_id: talk.plain(task) for task in practice}, f"practising {skill}")
    solved = "\n\n".join(
        f"Question: {prompt}\nAnswer: {response}"
        for prompt, response in examples.select("prompt", "response").iter_rows()
    )
    chat: tuple[Message, ...] = ({"role": "user", "content": _MAKE.format(examples=solved)},)
    why = ""
    for attempt in range(1, parameters.attempts + 1):
        (row,) = talk.ask(
            [Turn(practice[0].task_id, chat)],
            f"writing a tool for {skill}, {attempt}",
            temperature=0,
            max_new_tokens=parameters.tool_tokens,
            generation="I",
        )
        source = program_in(row["response"])
        if source is None:
            why = "there was no program in it"
        else:
            calls = _calls(source, practice, parameters)
            results = {task.task_id: _text(call) for task, call in zip(practice, calls, strict=True)}
            if not any(results.values()):
                why = f"it returned no text; {calls[0].value}"
            else:
                aided = {task.task_id: _aided(talk, task, results) for task in practice}
                rate = talk.practised(aided, f"practising {skill} with tool {attempt}")
                tool = Tool(source, rate * len(practice), len(practice))
                if verified(tool.right, tool.tried, plain):
                    return tool, f"{rate:.2f} of the practice with it, {plain:.2f} without"
                why = f"{rate:.2f} of the answers with it were right, {plain:.2f} without it"
        chat = replied(chat, row["response"], _AGAIN.format(why=why))
    return None, why


def _calls(source: str, tasks: Sequence[Task], parameters: ToolMaking) -> list[Called]:
    questions = [[task.prompt] for task in tasks]
    return call_function(source, _NAME, questions, cpu_seconds=parameters.cpu_seconds)


def _results(source: str, tasks: Sequence[Task], parameters: ToolMaking) -> list[str | None]:
    return [_text(call) for call in _calls(source, tasks, parameters)]


def _text(call: Called) -> str | None:
    """What a call returned as one line of text; none where it failed or returned none."""
    if call.kind != "value" or not isinstance(call.value, str | int | float) or isinstance(call.value, bool):
        return None
    text = " ".join(str(call.value).split())
    return text if 0 < len(text) <= _LONGEST else None


def _aided(talk: Conversation, task: Task, results: Mapping[str, str | None]) -> tuple[Message, ...]:
    """The chat with the tool's result beside the question; the plain one where it has none."""
    value = results.get(task.task_id)
    return talk.plain(task) if value is None else added(talk.plain(task), _SAYS.format(value=value))
