"""What both arms are asked so that monitors see more than one greedy answer to an item.

None of it enters the promotion test, and none of it is trained on.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.evaluation.fingerprint import answering
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.judging import Reward, judge_samples
from selfimp_dagster.lifecycle.rewards.parameters import JudgeParameters
from selfimp_dagster.lifecycle.sampling import DurableSampler, SampleRequest
from selfimp_dagster.records import REWARDED, REWARDS, SAMPLES, WATCHED, derive_seed, frame
from selfimp_dagster.tasks.pools import draw_pool, tasks_frame, tasks_from_frame
from selfimp_dagster.tasks.verifiers import comparable_answer, verify

TEMPERATURE = 0.7
"""Of the draws for watched items: enough for votes to differ, not so much that weak policies say anything."""


def watched_items(items: pl.DataFrame, count: int) -> pl.DataFrame:
    """The anchor items that are watched: the smallest ids, so the same in every round."""
    return items.filter(pl.col("pool") == "anchor").sort("task_id").head(count)


def watched_draws(
    sampler: DurableSampler,
    campaign: Campaign,
    items: pl.DataFrame,
    evaluations: pl.DataFrame,
    earlier: pl.DataFrame,
) -> pl.DataFrame:
    """Several answers of one arm to every watched item (records.WATCHED).

    Args:
        sampler: draws from the weights of the arm.
        items: from `watched_items`.
        evaluations: the arm's evaluations, which say its weights and harness.
        earlier: records.WATCHED of earlier rounds; what the same weights drew there under the same harness is
            taken over.
    """
    if items.is_empty():
        return WATCHED.to_frame()
    arm = evaluations.row(0, named=True)
    sampling = Sampling(max_new_tokens=campaign.evaluation.max_new_tokens, temperature=TEMPERATURE)
    same = earlier.filter(
        pl.col("policy_hash") == arm["policy_hash"], pl.col("fingerprint") == arm["fingerprint"]
    )
    known = {(row["item_id"], row["draw"]): row for row in same.iter_rows(named=True)}
    asked = {
        (item["task_id"], draw): SampleRequest(
            item["task_id"], campaign.messages(item["prompt"]), derive_seed("watched", item["task_id"], draw)
        )
        for item in items.iter_rows(named=True)
        for draw in range(campaign.monitors.watched_draws)
    }
    missing = [key for key in asked if key not in known]
    drawn = sampler.sample(
        [asked[key] for key in missing], sampling, generation="SE", label=f"watching {arm['arm']}"
    )
    answers = {**known, **dict(zip(missing, drawn.iter_rows(named=True), strict=True))}
    tasks = {task.task_id: task for task in tasks_from_frame(items)}
    return frame(
        (
            {
                "item_id": item,
                "skill": tasks[item].skill,
                "arm": arm["arm"],
                "policy_hash": arm["policy_hash"],
                "draw": draw,
                "response": answer["response"],
                "answer": comparable_answer(tasks[item], answer["response"]),
                "score": verify(tasks[item], answer["response"]).value,
                "mean_logprob": answer["mean_logprob"],
                "prompt_tokens": answer["prompt_tokens"],
                "completion_tokens": answer["completion_tokens"],
                "fingerprint": arm["fingerprint"],
                "reused": (item, draw) in known,
            }
            for item, draw in asked
            for answer in (answers[item, draw],)
        ),
        WATCHED,
    )


def hackable(rewards: list[Reward]) -> list[Reward]:
    """The rewards of a recipe that can part from the truth in one answer: not the verifier, not votes."""
    return [r for r in rewards if r.method.name != ANSWER and "votes" not in r.method.gives]


def judged_tasks(campaign: Campaign, base_folder: Path) -> pl.DataFrame:
    """The train tasks whose answers the hackable rewards judge, the same in every round (records.TASKS).

    Train tasks, because a judge may be somebody else's: it never sees an evaluation item. None where
    nothing can be hacked.
    """
    count = campaign.monitors.judged_tasks if hackable(campaign.recipe.resolved_rewards) else 0
    drawn = draw_pool(
        "train",
        campaign.skills,
        count,
        seed=derive_seed(campaign.seed, "judged tasks"),
        evaluation_share=campaign.pools.evaluation_share,
        base_folder=base_folder,
    )
    return tasks_frame(drawn.tasks, "train").sort("task_id")


def judged_answers(
    sampler: DurableSampler, campaign: Campaign, tasks: pl.DataFrame, arm: str
) -> pl.DataFrame:
    """The greedy answers of one arm to these tasks (records.SAMPLES)."""
    if tasks.is_empty():
        return SAMPLES.to_frame()
    requests = [
        SampleRequest(task["task_id"], campaign.messages(task["prompt"]), 0)
        for task in tasks.iter_rows(named=True)
    ]
    return sampler.sample(requests, answering(campaign), generation="SE", label=f"answering as {arm}")


def rewarded(
    rewards: list[Reward],
    answers: Mapping[str, pl.DataFrame],
    fingerprint: str,
    context: RewardContext,
) -> pl.DataFrame:
    """What the hackable rewards of a recipe and the verifier say of answers of both arms (records.REWARDED).

    The answers of the two arms are judged together: a reward that compares compares them.

    Args:
        rewards: the recipe's.
        answers: of each arm, from `judged_answers`.
        fingerprint: of the harness.
        context: holds the tasks, and says who judges and which rewards are barred.
    """
    measured = {reward.name: reward for reward in hackable(rewards)}
    told = {
        (arm, sample["sample_id"]): sample for arm, given in answers.items() for sample in given.to_dicts()
    }
    if not measured or not told:
        return REWARDED.to_frame()
    samples = pl.concat(answers.values()).unique("sample_id", maintain_order=True)
    # Parts of a composed reward stand before it, votes among them: they are judged too, and not looked at.
    judged = judge_samples(rewards, replace(context, samples=samples))
    by_sample = judged.partition_by("sample_id", as_dict=True)
    tasks = {task.task_id: task for task in tasks_from_frame(context.tasks)}
    return frame(
        (
            {
                "task_id": sample["task_id"],
                "skill": tasks[sample["task_id"]].skill,
                "arm": arm,
                "policy_hash": sample["policy_hash"],
                "reward": given["reward"],
                "value": given["value"],
                "counted": _counted(measured[given["reward"]], given["value"]),
                "score": verify(tasks[sample["task_id"]], sample["response"]).value,
                "response": sample["response"],
                "completion_tokens": sample["completion_tokens"],
                "fingerprint": fingerprint,
            }
            for (arm, id_), sample in told.items()
            # All rewards may be silent on an answer: `outcome` is, on one that nothing refines.
            for given in by_sample.get((id_,), REWARDS.to_frame()).iter_rows(named=True)
            if given["reward"] in measured
        ),
        REWARDED,
    )


def _counted(reward: Reward, value: float | None) -> float | None:
    if value is None or value != value:
        return None
    if isinstance(reward.parameters, JudgeParameters):
        return float(value >= reward.parameters.accept)
    return min(1.0, max(0.0, value))
