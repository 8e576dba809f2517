"""A policy by script in an acquisition: what it says follows from the chat that it is asked."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
from test_policy_sampling import make_tasks

from selfimp_dagster.engines.base import Message, Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus
from selfimp_dagster.lifecycle.acquisition.proposals import Rules
from selfimp_dagster.lifecycle.rewards.answer import answer_rewards
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import SAMPLES, TASKS, content_id, frame
from selfimp_dagster.registry import find_method

Say = Callable[[tuple[Message, ...], int], str]
"""What to say to a chat; the number counts how often it was asked before."""

CUT_OFF = "\N{BLACK SCISSORS}"
"""A response that ends with it reached its token limit."""


class Scripted:
    """Answers by script, and notes the chats that it was asked."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self.chats: list[tuple[Message, ...]] = []

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, generation: str, label: str
    ) -> pl.DataFrame:
        empty: dict[str, Any] = dict.fromkeys(SAMPLES)
        rows = []
        for request in requests:
            said = self._say(request.messages, self.chats.count(request.messages))
            self.chats.append(request.messages)
            id_ = content_id(request.task_id, list(request.messages), request.seed)
            rows.append(
                {
                    **empty,
                    "sample_id": id_,
                    "task_id": request.task_id,
                    "policy_hash": "policy",
                    "generation": generation,
                    "messages": list(request.messages),
                    "response": said.removesuffix(CUT_OFF),
                    "prompt_tokens": 10,
                    "completion_tokens": 2,
                    "finish_reason": "length" if said.endswith(CUT_OFF) else "stop",
                    "sampling": sampling.model_dump_json(),
                    "seed": request.seed,
                    "parent_sample_id": request.parent_sample_id,
                }
            )
        assert len({row["sample_id"] for row in rows}) == len(rows), "two requests are one"
        return frame(rows, SAMPLES)


def acquire(name: str, say: Say, size: int = 4, **changes: Any) -> Corpus:
    """What a method makes of this policy; `changes` are its parameters and fields of the context."""
    policy = Scripted(say)
    own = set(changes) & set(AcquisitionContext.__dataclass_fields__)
    fields = {key: changes.pop(key) for key in own}
    method = find_method("acquisition", name)

    def draw(size: int, weights: Mapping[str, float], levels: Any = None) -> pl.DataFrame:
        return make_tasks({"sums": size}).with_columns(
            pool=pl.lit("train"),
            verifier=pl.lit("exact"),
            generation_depth=pl.lit(0, pl.Int64),
            difficulty=pl.lit(1.0),
        )

    context = AcquisitionContext(
        **{
            "draw": draw,
            "levels": {"sums": [1.0]},
            "directed": {},
            "updates": 0,
            "sample": policy.sample,
            "messages": lambda prompt: ({"role": "user", "content": f"{prompt} (answer alone)"},),
            "judge": answer_rewards,
            "offered": Corpus(TASKS.to_frame(), SAMPLES.to_frame()),
            "skill_weights": {"sums": 1.0},
            "size": size,
            "seed": 0,
            "rules": Rules(),
            **fields,
        }
    )
    corpus: Corpus = method.function(context, method.parameters.model_validate(changes))
    assert not corpus.samples["sample_id"].is_duplicated().any()
    assert not corpus.tasks["task_id"].is_duplicated().any()
    assert corpus.samples.join(corpus.tasks, on="task_id", how="anti").is_empty()
    accepted = corpus.proposals.drop_nulls("task_id")
    assert accepted.join(corpus.tasks, on="task_id", how="anti").is_empty()
    return corpus


def fates(corpus: Corpus) -> list[str]:
    """What became of the proposals, in their order."""
    return [reason or "accepted" for reason in corpus.proposals["reason"]]
