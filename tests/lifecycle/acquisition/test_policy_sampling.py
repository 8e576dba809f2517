"""How many responses each task gets, and with what in sight."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus
from selfimp_dagster.lifecycle.acquisition.policy_sampling import PolicySampling, policy_sampling
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import REWARDS, SAMPLES, TASKS, frame


def make_tasks(counts: Mapping[str, int]) -> pl.DataFrame:
    empty: dict[str, Any] = dict.fromkeys(TASKS)
    return frame(
        (
            {
                **empty,
                "task_id": f"{skill}-{n}",
                "skill": skill,
                "prompt": f"{skill} {n}",
                "answer": str(n),
                "parent_ids": [],
            }
            for skill, count in counts.items()
            for n in range(count)
        ),
        TASKS,
    )


class Asked:
    """A policy that solves the skill `easy`, and notes what it is asked."""

    def __init__(self) -> None:
        self.requests: list[SampleRequest] = []

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, generation: str, label: str
    ) -> pl.DataFrame:
        self.requests.extend(requests)
        empty: dict[str, Any] = dict.fromkeys(SAMPLES)
        return frame(
            (
                {
                    **empty,
                    "sample_id": f"{request.task_id} {request.seed}",
                    "task_id": request.task_id,
                    "generation": generation,
                    "messages": list(request.messages),
                }
                for request in requests
            ),
            SAMPLES,
        )

    def judge(self, tasks: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
        empty: dict[str, Any] = dict.fromkeys(REWARDS)
        return frame(
            (
                {**empty, "sample_id": id_, "value": float(task.startswith("easy"))}
                for id_, task in samples.select("sample_id", "task_id").iter_rows()
            ),
            REWARDS,
        )


def corpus_of(counts: Mapping[str, int], **parameters: Any) -> Corpus:
    asked = Asked()
    context = AcquisitionContext(
        draw=lambda size, weights, levels=None: make_tasks(counts),
        levels={skill: [1.0] for skill in counts},
        directed={},
        updates=0,
        sample=asked.sample,
        messages=lambda prompt: ({"role": "user", "content": prompt},),
        judge=asked.judge,
        offered=Corpus(TASKS.to_frame(), SAMPLES.to_frame()),
        skill_weights=dict.fromkeys(counts, 1.0),
        size=sum(counts.values()),
        seed=0,
    )
    corpus = policy_sampling(context, PolicySampling(**parameters))
    assert len({(request.task_id, request.seed) for request in asked.requests}) == len(asked.requests)
    return corpus


def responses_by_skill(counts: Mapping[str, int], **parameters: Any) -> dict[str, float]:
    samples = corpus_of(counts, **parameters).samples
    found = Counter(task.split("-")[0] for task in samples["task_id"])
    return {skill: found[skill] / count for skill, count in counts.items()}


def test_every_task_gets_the_same_number_of_responses() -> None:
    assert responses_by_skill({"few": 10, "many": 90}, samples_per_task=3) == {"few": 3, "many": 3}


def test_a_skill_with_few_tasks_is_answered_more_often_up_to_its_share() -> None:
    # Each skill's share is 100 responses: 10 for each of the few tasks.
    counts = {"few": 10, "many": 90}
    assert responses_by_skill(counts, samples_per_task=2, most_samples_per_task=20) == {"few": 10, "many": 2}
    assert responses_by_skill(counts, samples_per_task=2, most_samples_per_task=8) == {"few": 8, "many": 2}


def test_tasks_without_a_verified_response_are_asked_again_with_their_answer() -> None:
    samples = corpus_of({"easy": 2, "hard": 3}, samples_per_task=2, rationalized=2).samples
    helped = samples.filter(pl.col("generation") == "R")
    assert Counter(helped["task_id"]) == {"hard-0": 2, "hard-1": 2, "hard-2": 2}
    shown = {
        task: messages[-1]["content"] for task, messages in helped.select("task_id", "messages").iter_rows()
    }
    assert shown["hard-2"] == "hard 2\nThe right answer is 2."
    unaided = samples.filter(pl.col("generation") == "SE")["messages"]
    assert not any("right answer" in messages[-1]["content"] for messages in unaided)
