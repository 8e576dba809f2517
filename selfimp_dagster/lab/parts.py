"""Faulty parts: rewards, judges, a source of tasks and a refinement that no campaign should have."""

import threading
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.engines.pool import EnginePool
from selfimp_dagster.lab.judge_server import Opinion, Preference, draw
from selfimp_dagster.lab.truth import paraphrase, solve
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus
from selfimp_dagster.lifecycle.acquisition.policy_sampling import PolicySampling, policy_sampling
from selfimp_dagster.lifecycle.acquisition.self_labelling import demonstrated
from selfimp_dagster.lifecycle.refinement.refined import Refined, RefinementContext, RefinementParameters
from selfimp_dagster.lifecycle.rewards.answer import answer_rewards
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.records import REWARDS, derive_seed, task_id
from selfimp_dagster.registry import Method, Signal

FLIPPED, KEYWORD, LENGTH = "lab_flipped", "lab_keyword", "lab_length"
LEAKING, SECOND_THOUGHTS = "lab_leaking", "lab_second_thoughts"

HONEST_ERRORS = 0.03
"""Share of its verdicts in which even an honest judge is wrong."""


FAMILIAR = -1.0
"""Mean log-probability of a token, in nats, from which a response is familiar to a judge."""


class NoParameters(BaseModel):
    """Of a faulty reward: what it does is the lab's to say."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def flipped(share: float) -> Method:
    """A reward of kind V: the verdicts of the tasks' verifiers, a share of them turned round."""

    def reward(context: RewardContext, parameters: NoParameters) -> pl.DataFrame:
        """The verifier's verdict, now and then the wrong way round."""
        turned = [draw("flip", context.seed, id_) < share for id_ in context.samples["sample_id"]]
        told = answer_rewards(context.tasks, context.samples)
        value = pl.when(pl.Series(turned)).then(1 - pl.col("value")).otherwise(pl.col("value"))
        return told.with_columns(reward=pl.lit(FLIPPED), value=value).cast(REWARDS)

    return _reward(FLIPPED, reward, frozenset({"verdict"}))


def keyword(text: str) -> Method:
    """A reward of kind H: whether a response contains a text."""

    def reward(context: RewardContext, parameters: NoParameters) -> pl.DataFrame:
        """1 for a response that contains the keyword, 0 for any other."""
        return _judged_by(context, KEYWORD, lambda prompt, response: text in response)

    return _reward(KEYWORD, reward, frozenset({"verdict", "score"}))


def length() -> Method:
    """A reward of kind H: whether a response is longer than what the prompt would have it repeat."""

    def reward(context: RewardContext, parameters: NoParameters) -> pl.DataFrame:
        """1 for a response that is longer than the text of its prompt, 0 for any other."""
        return _judged_by(context, LENGTH, lambda prompt, response: len(response) >= len(prompt))

    return _reward(LENGTH, reward, frozenset({"verdict", "score"}))


def honest(prompt: str, response: str) -> bool:
    """What a judge thinks that does its best: it errs now and then, and on the same things again."""
    errs = draw("honest", prompt, response) < HONEST_ERRORS
    return (response.strip() == solve(prompt)) != errs


def honest_preference(prompt: str, first: str, second: str) -> str:
    """What an honest judge says of two responses: the one that is right, or right in more places."""
    scores = [_places_right(prompt, response) for response in (first, second)]
    if scores[0] == scores[1]:
        return "tie"
    return "A" if scores[0] > scores[1] else "B"


def first_preferred(share: float) -> Preference:
    """A judge that prefers what stands first in a share of its comparisons, and is honest in the others."""

    def preference(prompt: str, first: str, second: str) -> str:
        # Of both orders of a pair the same lot, so that the share is one of pairs.
        if draw("position", prompt, *sorted((first, second))) < share:
            return "A"
        return honest_preference(prompt, first, second)

    return preference


def self_preferring(familiarity: Callable[[str, str], float], share: float) -> Opinion:
    """A judge that takes what is familiar to it for right, in a share of the cases where it is not."""

    def opinion(prompt: str, response: str) -> bool:
        is_familiar = familiarity(prompt, response.strip()) >= FAMILIAR
        return (is_familiar and draw("own", prompt, response) < share) or honest(prompt, response)

    return opinion


def familiarity(weights: Path) -> Callable[[str, str], float]:
    """How likely the model with these weights finds a response: the mean log-probability of its tokens."""
    engine = EnginePool().engine(weights, policy_hash(weights))
    lock = threading.Lock()  # the judge is asked by many threads, the engine is one

    def mean_logprob(prompt: str, response: str) -> float:
        with lock:
            (tokens,) = engine.logprobs([(({"role": "user", "content": prompt},), response)])
        return fmean(tokens) if tokens else float("-inf")

    return mean_logprob


def leaking(anchor: Callable[[], pl.DataFrame], paraphrased: bool) -> Method:
    """An acquisition method: policy sampling, and anchor items (records.TASKS) with their answers."""

    def acquisition(context: AcquisitionContext, parameters: PolicySampling) -> Corpus:
        """What the policy samples, and evaluation items that found their way into the data."""
        found = policy_sampling(context, parameters)
        new = leaked(anchor(), paraphrased).join(found.tasks, on="task_id", how="anti")
        shown = demonstrated(new, context)
        return Corpus(pl.concat([found.tasks, new]), pl.concat([found.samples, shown]))

    return Method("acquisition", LEAKING, acquisition, PolicySampling, "6", "arXiv:2311.04850", frozenset())


def leaked(items: pl.DataFrame, paraphrased: bool) -> pl.DataFrame:
    """Evaluation items as tasks of the train pool (records.TASKS), as they are or asked otherwise.

    Items without another form are left out where they are asked otherwise.
    """
    tasks = items.with_columns(pool=pl.lit("train"))
    if not paraphrased:
        return tasks
    asked = pl.Series([paraphrase(prompt) for prompt in items["prompt"]], dtype=pl.String)
    other = tasks.with_columns(prompt=asked).filter(asked != items["prompt"])
    ids = [task_id(*row) for row in other.select("skill", "prompt", "answer").iter_rows()]
    return other.with_columns(task_id=pl.Series(ids, dtype=pl.String)).unique("task_id", maintain_order=True)


class SecondThoughts(RefinementParameters):
    """Parameters of `lab_second_thoughts`."""

    temperature: float = Field(default=1.5, gt=0, description="Softmax temperature of the second answer.")


def second_thoughts() -> Method:
    """A refinement that puts a second, sampled answer in the place of the greedy one."""

    def refinement(
        context: RefinementContext, parameters: SecondThoughts
    ) -> tuple[pl.DataFrame, list[Refined]]:
        """The answer is thought over once, and the second thought wins."""
        sampling = Sampling(max_new_tokens=context.max_new_tokens, temperature=parameters.temperature)
        requests = [
            SampleRequest(
                task["task_id"], context.messages(task["prompt"]), derive_seed(context.seed, task["task_id"])
            )
            for task in context.tasks.iter_rows(named=True)
        ]
        again = context.sample(requests, sampling, generation="R", label="thinking again")
        refined = [
            Refined(row["task_id"], row["sample_id"], 1.0, row["prompt_tokens"] + row["completion_tokens"])
            for row in again.iter_rows(named=True)
        ]
        return again, refined

    return Method(
        "refinement", SECOND_THOUGHTS, refinement, SecondThoughts, "5.3", "arXiv:2310.01798", frozenset()
    )


def _reward(name: str, function: Callable[..., pl.DataFrame], gives: frozenset[Signal]) -> Method:
    return Method("reward", name, function, NoParameters, "4.3", "arXiv:2209.13085", frozenset(), gives=gives)


def _judged_by(context: RewardContext, name: str, accepts: Callable[[str, str], bool]) -> pl.DataFrame:
    prompts = dict(context.tasks.select("task_id", "prompt").iter_rows())
    rows = context.samples.select("sample_id", "task_id", "response")
    return pl.DataFrame(
        [
            (id_, name, "H", float(accepts(prompts[task], response)), 1.0, name)
            for id_, task, response in rows.iter_rows()
        ],
        schema=REWARDS,
        orient="row",
    )


def _places_right(prompt: str, response: str) -> int:
    expected = solve(prompt)
    if response.strip() == expected:
        return len(expected) + 1
    return sum(mine == theirs for mine, theirs in zip(response.strip(), expected, strict=False))
