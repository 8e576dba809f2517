"""How many responses each task gets."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus
from selfimp_dagster.lifecycle.acquisition.policy_sampling import PolicySampling, policy_sampling
from selfimp_dagster.lifecycle.sampling import SampleRequest
from selfimp_dagster.records import SAMPLES, TASKS, frame


def make_tasks(counts: Mapping[str, int]) -> pl.DataFrame:
    empty: dict[str, Any] = dict.fromkeys(TASKS)
    return frame(
        (
            {**empty, "task_id": f"{skill}-{n}", "skill": skill, "prompt": f"{skill} {n}", "parent_ids": []}
            for skill, count in counts.items()
            for n in range(count)
        ),
        TASKS,
    )


def responses_by_skill(counts: Mapping[str, int], **parameters: Any) -> dict[str, float]:
    asked: list[SampleRequest] = []

    def sample(
        requests: Sequence[SampleRequest], sampling: Sampling, *, generation: str, label: str
    ) -> pl.DataFrame:
        asked.extend(requests)
        return SAMPLES.to_frame()

    context = AcquisitionContext(
        draw=lambda size, weights: make_tasks(counts),
        sample=sample,
        messages=lambda prompt: ({"role": "user", "content": prompt},),
        offered=Corpus(TASKS.to_frame(), SAMPLES.to_frame()),
        skill_weights=dict.fromkeys(counts, 1.0),
        size=sum(counts.values()),
        seed=0,
    )
    policy_sampling(context, PolicySampling(**parameters))
    assert len({(request.task_id, request.seed) for request in asked}) == len(asked)
    found = Counter(request.task_id.split("-")[0] for request in asked)
    return {skill: found[skill] / count for skill, count in counts.items()}


def test_every_task_gets_the_same_number_of_responses() -> None:
    assert responses_by_skill({"few": 10, "many": 90}, samples_per_task=3) == {"few": 3, "many": 3}


def test_a_skill_with_few_tasks_is_answered_more_often_up_to_its_share() -> None:
    # Each skill's share is 100 responses: 10 for each of the few tasks.
    counts = {"few": 10, "many": 90}
    assert responses_by_skill(counts, samples_per_task=2, most_samples_per_task=20) == {"few": 10, "many": 2}
    assert responses_by_skill(counts, samples_per_task=2, most_samples_per_task=8) == {"few": 8, "many": 2}
