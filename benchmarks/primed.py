"""A small model after it was shown how tasks are set, answers judged and mistakes corrected.

    python -m benchmarks.primed --out results/ [--model FOLDER]

Some papers begin with a model that can do these already, or teach it first (SELF, Self-Rewarding); one of 135
million weights cannot. Here every preset of DEMONSTRATED has its acquisition and its rewards run with a
demonstrator in the place of the model: a program that knows arithmetic and a few forms of tasks, and that
replies to exactly what the presets ask. What it said, chat by chat, is trained on once by the trainer of
`sft`, and the weights stand in `<out>/model`, the replies in `<out>/demonstrations.parquet`. Train tasks are
those of another seed (`--seed`), documents other modules than `benchmarks.presets` reads.
"""

import argparse
import ast
import json
import math
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import yaml
from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback
from trl import SFTConfig

from benchmarks.arithmetic import CAMPAIGN
from selfimp_dagster.campaign import load_campaign
from selfimp_dagster.engines.base import Completion, Message, Request, Sampling
from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.lifecycle.acquisition.stage import generate_corpus
from selfimp_dagster.lifecycle.optimization.sft_trainer import CompletionTrainer
from selfimp_dagster.lifecycle.optimization.training import fix_lower_layers
from selfimp_dagster.lifecycle.policy import start_round
from selfimp_dagster.lifecycle.workbench import Workbench
from selfimp_dagster.models.loading import load_model, load_tokenizer
from selfimp_dagster.models.source import resolve_model
from selfimp_dagster.progress import LogProgress
from selfimp_dagster.records import MESSAGES
from selfimp_dagster.round_key import RoundKey
from selfimp_dagster.store import ArtifactStore

KEY = RoundKey("arithmetic", 0)
DEMONSTRATED = (
    "r_zero",
    "spice",
    "crescent",
    "absolute_zero",
    "self_challenging",
    "self_rewarding",
    "meta_rewarding",
    "self",
    "sppo",
    "dte",
)
DOCUMENTS = ("python:random", "python:textwrap", "python:fractions", "python:calendar", "python:shutil")
RIGHT = 0.6  # share of the demonstrator's answers that are right, where they are there to be judged

_QUOTE = re.compile(r"((?:^> .*\n?|^>\n?)+)", re.MULTILINE)
_SUM = re.compile(r"(-?\d+) ([-+*]) (-?\d+)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--presets", nargs="+", default=list(DEMONSTRATED), choices=DEMONSTRATED)
    parser.add_argument("--tasks", type=int, default=48, help="of each preset")
    parser.add_argument("--rows", type=int, default=96, help="of each preset, at most")
    parser.add_argument("--model", type=Path, help="to begin with, in the place of the shipped campaign's")
    parser.add_argument("--upper-layers", type=int, help="that are trained; all unless given")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1000)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    models = arguments.out / "models"
    rows = demonstrations(arguments.presets, arguments.tasks, arguments.rows, arguments.seed, models)
    rows.write_parquet(arguments.out / "demonstrations.parquet")
    print(rows.group_by("preset", maintain_order=True).len())
    base = arguments.model or resolve_model(load_campaign(CAMPAIGN).model, models)
    train(base, rows, arguments.out / "model", arguments)


def demonstrations(presets: Sequence[str], tasks: int, most: int, seed: int, models: Path) -> pl.DataFrame:
    """What the demonstrator says in the rounds of the presets: `preset`, `messages`, `reply`."""
    found = []
    for name in presets:
        chance = random.Random(seed + DEMONSTRATED.index(name))
        demonstrator = Demonstrator(chance)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            shutil.copytree(CAMPAIGN.parent, folder / "campaigns")
            data = yaml.safe_load(CAMPAIGN.read_text()) | {"seed": seed}
            data["recipe"] = {"preset": name}
            if name == "spice":
                data["recipe"]["acquisition"] = {"documents": list(DOCUMENTS)}
            data["pools"]["train"] = tasks
            (folder / "campaigns" / CAMPAIGN.name).write_text(yaml.safe_dump(data, sort_keys=False))
            bench = Workbench(
                ArtifactStore(folder / "store"),
                cast(EnginePool, Demonstrators(demonstrator)),
                models,
                folder / "campaigns",
                LogProgress(print),
            )
            start_round(bench, KEY)
            generate_corpus(bench, KEY, {})
        said = list(dict.fromkeys(demonstrator.said))
        chance.shuffle(said)
        found += [
            {"preset": name, "messages": json.loads(chat), "reply": reply} for chat, reply in said[:most]
        ]
    return pl.DataFrame(found, schema={"preset": pl.String(), "messages": MESSAGES, "reply": pl.String()})


def train(base: Path, rows: pl.DataFrame, output: Path, told: argparse.Namespace) -> None:
    """Trains on the replies, once, in random order."""
    disable_progress_bars()
    model, tokenizer = load_model(base, dtype="float32"), load_tokenizer(base)
    if told.upper_layers is not None:
        fix_lower_layers(model, told.upper_layers)
    shuffled = rows.sample(fraction=1.0, shuffle=True, seed=told.seed)
    dataset = Dataset.from_list(
        [
            {"prompt": row["messages"], "completion": [{"role": "assistant", "content": row["reply"]}]}
            for row in shuffled.iter_rows(named=True)
        ]
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = CompletionTrainer(
            model=model,
            args=SFTConfig(
                output_dir=scratch,
                num_train_epochs=1,
                per_device_train_batch_size=told.batch_size,
                learning_rate=told.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=10,
                max_length=None,
                completion_only_loss=True,
                gradient_checkpointing=False,
                save_strategy="no",
                logging_steps=10,
                report_to="none",
                use_cpu=True,
                seed=told.seed,
            ),
            train_dataset=dataset,
            processing_class=tokenizer,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


class Demonstrators:
    """The demonstrator in the place of every engine."""

    def __init__(self, demonstrator: "Demonstrator") -> None:
        self._demonstrator = demonstrator

    def engine(self, folder: Path, policy_hash: str, dtype: str | None = None) -> "Demonstrator":
        self._demonstrator.policy_hash = policy_hash
        return self._demonstrator


class Demonstrator:
    """Says what is to be learnt; `said` has the chats, as JSON, with the replies that are worth learning."""

    policy_hash = ""

    def __init__(self, chance: random.Random) -> None:
        self.said: list[tuple[str, str]] = []
        self._chance = chance
        self._answers: dict[str, str] = {}  # to tasks that it set itself
        self._programs = {program.text: program for program in (Program.identity(),)}

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Completion]]:
        for request in requests:
            text, right = self._reply(request.messages)
            if right:
                self.said.append((json.dumps(request.messages), text))
            yield [Completion(request.request_id, text, 1, 1, -1.0, "stop")]

    def logprobs(
        self,
        pairs: Sequence[tuple[tuple[Message, ...], str]],
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> list[list[float]]:
        found = []
        for messages, option in pairs:
            told = self._choice(messages[-1]["content"])
            if told == option:
                self.said.append((json.dumps(messages), option))
            found.append([math.log(0.98 if told == option else 0.01)])
        return found

    def embed(
        self, texts: Sequence[str], on_tokens: Callable[[int], None] = lambda count: None
    ) -> np.ndarray:
        return np.ones((len(texts), 1))

    def prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        return 1

    def describe(self) -> dict[str, Any]:
        return {"engine": "demonstrator"}

    def _reply(self, messages: Sequence[Message]) -> tuple[str, bool]:
        """A reply, and whether it is one to learn from."""
        asked = messages[-1]["content"]
        for mark, demonstrate in (
            ("Set one new question for an expert", self._set_question),
            ("Set one hard question about a fact of the text", self._ask_of_text),
            ("Come up with a series of tasks", self._next_task),
            ("Write another `f`", self._set_program),
            ("different inputs that show together what it does", self._set_inputs),
            ("Try something out that a task", self._explore),
            ("Now set a task for somebody who has not seen this", self._challenge),
            ("You grade the answer to a question", self._grade),
            ("Two judges were asked the same", self._compare_judgements),
        ):
            if mark in asked:
                return demonstrate(asked), True
        if asked.startswith("Check your answer step by step"):
            return self._criticise(messages[-3]["content"], messages[-2]["content"]), True
        truth = self._truth(asked)
        if truth is None:
            return "I cannot tell.", False
        corrected = len(messages) > 2
        if corrected or self._chance.random() < RIGHT:
            return truth, True
        return self._wrong(truth), False

    def _truth(self, asked: str) -> str | None:
        """The answer to a task; None if it is not known."""
        for task, answer in self._answers.items():
            if task in asked:
                return answer
        found = _SUM.findall(asked)
        if not found:
            return None
        one, sign, other = found[-1]
        return str(_computed(int(one), sign, int(other)))

    def _wrong(self, truth: str) -> str:
        number = _number(truth)
        return "nothing" if number is None else str(number + self._chance.choice((-10, -2, -1, 1, 2, 10)))

    # Setting tasks

    def _set_question(self, asked: str) -> str:
        question, answer = self._question()
        return f"Question: {question}\nAnswer: {answer}"

    def _next_task(self, asked: str) -> str:
        number = re.findall(r"Write task (\d+)", asked)[0]
        question, answer = self._question()
        return f"Task {number}: {question}\nAnswer {number}: {answer}"

    def _question(self) -> tuple[str, str]:
        chance = self._chance
        who, other = chance.sample(_NAMES, 2)
        thing, place = chance.choice(_THINGS), chance.choice(_PLACES)
        a, b = chance.randint(11, 60), chance.randint(2, 10)
        question, answer = chance.choice(
            (
                (f"{who} has {a} {thing} and finds {b} more {place}. How many are that together?", a + b),
                (f"Of {a} {thing} {place}, {who} takes {b} away. How many are left?", a - b),
                (f"{b} boxes {place} hold {a} {thing} each. How many {thing} does {who} count?", a * b),
                (f"{who} gives {b} of {a} {thing} to {other} {place}. How many does {who} keep?", a - b),
                (f"What is {a} plus {b}, the number of {thing} that {who} and {other} saw {place}?", a + b),
                (f"How old is {who} in {b} years, who is {a} now and sells {thing} {place}?", a + b),
            )
        )
        self._answers[question] = str(answer)
        return question, str(answer)

    def _ask_of_text(self, asked: str) -> str:
        text = asked.partition("A text:\n\n")[2].partition("\n\nSet one hard question")[0]
        sentences = [" ".join(part.split()) for part in re.split(r"(?<=[.:])\s|\n\n", text)]
        usable = [one for one in sentences if 5 <= len(one.split()) <= 25] or [" ".join(text.split()[:20])]
        sentence = self._chance.choice(usable)
        words = [w for w in re.findall(r"[A-Za-z0-9]{4,}", sentence) if sentence.count(w) == 1]
        word = self._chance.choice(words or re.findall(r"\w+", sentence) or ["x"])
        question = f"Which word is left out: {re.sub(rf'{word}', '____', sentence, count=1)}"
        self._answers[question] = word
        return f"Question: {question}\nAnswer: {word}"

    def _set_program(self, asked: str) -> str:
        program = Program.drawn(self._chance)
        given = program.input(self._chance)
        self._programs[program.text] = program
        call, output = f"f({given!r})", program.run(given)
        shown = f"```python\n{program.text}\n```"
        self._answers[f"{shown}\n\nWhat does {call} return?"] = repr(output)
        self._answers[f"{shown}\n\nFor which input does f return {output!r}?"] = call
        return f"{shown}\n```input\n{given!r}\n```"

    def _set_inputs(self, asked: str) -> str:
        text = re.findall(r"```python\n(.*?)\n```", asked, re.DOTALL)[0]
        count = int(re.findall(r"Give (\d+) different inputs", asked)[0])
        program = self._programs[text]
        inputs = list(dict.fromkeys(repr(program.input(self._chance)) for _ in range(10 * count)))[:count]
        self._answers[f"Write a Python function `f`. {program.hint}"] = f"```python\n{text}\n```"
        blocks = "".join(f"```input\n{given}\n```\n" for given in inputs)
        return f"{blocks}```message\n{program.hint}\n```"

    def _explore(self, asked: str) -> str:
        return f"```python\nprint({self._expression()})\n```"

    def _expression(self) -> str:
        a, b = self._chance.randint(2, 30), self._chance.randint(2, 12)
        return self._chance.choice(
            (
                f"sum(range({a}))",
                f"{a} * {b} + {a + b}",
                f"len('{self._chance.choice(_THINGS)}') * {b}",
                f"max({a}, {b}) - min({a}, {b})",
                f"{a} ** 2 % {b}",
            )
        )

    def _challenge(self, asked: str) -> str:
        said = asked.partition("The interpreter says:\n")[2].partition("\n\nNow set a task")[0].strip()
        number = _number(said) or 0
        thing, name = self._chance.choice(_THINGS), self._chance.choice(_NAMES)
        rest = self._chance.randint(1, 9)
        instruction = f"{name} had {number - rest} {thing} and got {rest} more. How many is that?"
        self._answers[instruction] = str(number)
        failures = "".join(f"```failure\n{number + off}\n```\n" for off in (1, -1, 10))
        return (
            f"```instruction\n{instruction}\n```\n```python\ndef verify(answer):\n"
            f"    return answer.strip() == '{number}'\n```\n```solution\n{number}\n```\n{failures}"
        ).strip()

    # Judging

    def _grade(self, asked: str) -> str:
        task, answer = (_unquoted(part) for part in _QUOTE.findall(asked)[:2])
        right, why = self._judged(task, answer)
        return f"{why}\nGrade: {5 if right else 0}"

    def _judged(self, task: str, answer: str) -> tuple[bool, str]:
        truth = self._truth(task)
        right = truth is not None and _last_number(answer) == truth
        return right, f"The answer is {truth}, so {_last_number(answer)} is {'right' if right else 'wrong'}."

    def _choice(self, asked: str) -> str:
        if "Reply with one letter, A or B" in asked:
            task, first, second = (_unquoted(part) for part in _QUOTE.findall(asked)[:3])
            near, far = self._distance(task, first), self._distance(task, second)
            return "neither" if near == far else "A" if near < far else "B"
        task, answer = (_unquoted(part) for part in _QUOTE.findall(asked)[:2])
        return "Yes" if self._judged(task, answer)[0] else "No"

    def _distance(self, task: str, answer: str) -> float:
        truth, said = _number(self._truth(task) or ""), _number(_last_number(answer))
        return math.inf if truth is None or said is None else abs(truth - said)

    def _compare_judgements(self, asked: str) -> str:
        question, first, second = (_unquoted(part) for part in _QUOTE.findall(asked)[:3])
        task, answer = (_unquoted(part) for part in _QUOTE.findall(question)[:2])
        due = 5 if self._judged(task, answer)[0] else 0
        off = [abs(due - (_number(_last_number(said)) or 0)) for said in (first, second)]
        winner = "A" if off[0] <= off[1] else "B"
        return f"Judgement {winner} is nearer to the grade that is due.\nWinner: {winner}"

    def _criticise(self, task: str, answer: str) -> str:
        right, why = self._judged(task, answer)
        return "Nothing is wrong with it." if right else why


class Program:
    """A one-line function `f` with inputs to it, and what it does in words."""

    def __init__(self, body: str, hint: str, kind: str) -> None:
        self.text, self.hint, self._body, self._kind = f"def f(x):\n    return {body}", hint, body, kind

    @classmethod
    def identity(cls) -> "Program":
        return cls("x", "It returns what it is given.", "word")

    @classmethod
    def drawn(cls, chance: random.Random) -> "Program":
        a, b = chance.randint(2, 9), chance.randint(1, 20)
        return cls(
            *chance.choice(
                (
                    (f"x * {a} + {b}", f"It multiplies by {a} and adds {b}.", "number"),
                    (f"x - {b}", f"It takes {b} away.", "number"),
                    (f"[n + {b} for n in x]", f"It adds {b} to each.", "numbers"),
                    (f"sum(x) + {b}", f"It adds all up, and {b}.", "numbers"),
                    ("sorted(x)", "It sorts.", "numbers"),
                    (f"[n for n in x if n > {b}]", f"It keeps what is more than {b}.", "numbers"),
                    ("x[::-1]", "It turns the text around.", "word"),
                    (f"x * {a}", f"It says the text {a} times.", "word"),
                    (f"len(x) + {b}", f"It counts the letters and adds {b}.", "word"),
                )
            )
        )

    def input(self, chance: random.Random) -> Any:
        match self._kind:
            case "number":
                return chance.randint(1, 30)
            case "numbers":
                return [chance.randint(1, 30) for _ in range(chance.randint(2, 4))]
            case _:
                return chance.choice(_THINGS)

    def run(self, given: Any) -> Any:
        return eval(self._body, {"x": given, "sum": sum, "sorted": sorted, "len": len})


_NAMES = (
    "Ada",
    "Ben",
    "Cleo",
    "Dan",
    "Eva",
    "Finn",
    "Gina",
    "Hugo",
    "Ida",
    "Jon",
    "Kim",
    "Lea",
    "Max",
    "Nora",
)
_THINGS = ("apples", "books", "coins", "doves", "eggs", "flowers", "grapes", "hats", "keys", "lamps", "nuts")
_PLACES = (
    "in the garden",
    "at the market",
    "under the bridge",
    "on the table",
    "behind the school",
    "by the lake",
    "on the train",
    "in the attic",
)


def _computed(one: int, sign: str, other: int) -> int:
    return {"+": one + other, "-": one - other, "*": one * other}[sign]


def _number(text: str) -> int | None:
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return None
    return found if isinstance(found, int) else None


def _last_number(text: str) -> str:
    found = re.findall(r"-?\d+", text)
    return found[-1] if found else text.strip()[-40:] or "nothing"


def _unquoted(text: str) -> str:
    return "\n".join(line.removeprefix(">").removeprefix(" ") for line in text.strip("\n").split("\n"))


if __name__ == "__main__":
    main()
