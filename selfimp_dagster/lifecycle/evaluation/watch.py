"""What both arms are asked so that monitors see more than one greedy answer to an item.

None of it enters the promotion test, and like all answers to items none of it is trained on.
"""

import polars as pl

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.engines.base import Sampling
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.lifecycle.rewards.context import RewardContext
from selfimp_dagster.lifecycle.rewards.judging import Reward, judge_samples
from selfimp_dagster.lifecycle.rewards.parameters import JudgeParameters
from selfimp_dagster.lifecycle.sampling import DurableSampler, SampleRequest
from selfimp_dagster.records import ITEM_REWARDS, SAMPLES, WATCHED, content_id, derive_seed, frame
from selfimp_dagster.tasks.pools import tasks_from_frame
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


def item_rewards(
    rewards: list[Reward],
    items: pl.DataFrame,
    evaluations: pl.DataFrame,
    judged_items: int,
    context: RewardContext,
) -> pl.DataFrame:
    """What the hackable rewards of a recipe say of both arms' answers to anchor items (records.ITEM_REWARDS).

    Where a model judges, only the `judged_items` items with the smallest ids are. The answers of the two arms
    are judged together: a reward that compares compares them.

    Args:
        rewards: the recipe's.
        items: evaluation items, records.TASKS.
        evaluations: records.EVALUATIONS of both arms.
        context: says who judges and which rewards are barred; its tasks and samples are not looked at.
    """
    measured = {reward.name: reward for reward in hackable(rewards)}
    if not measured:
        return ITEM_REWARDS.to_frame()
    asks = any(isinstance(reward.parameters, JudgeParameters) for reward in rewards)
    anchor = watched_items(items, judged_items if asks else items.height)
    answers = (
        evaluations.filter(pl.col("suite") == "anchor")
        .join(anchor.select(item_id="task_id"), on="item_id", how="semi")
        .sort("item_id", "arm")
    )
    rows = {
        content_id("judged item", row["item_id"], row["policy_hash"]): row
        for row in answers.iter_rows(named=True)
    }
    if not rows:
        return ITEM_REWARDS.to_frame()
    samples = frame(
        (
            {
                "sample_id": id_,
                "task_id": row["item_id"],
                "policy_hash": row["policy_hash"],
                "generation": "SE",
                **{name: row[name] for name in ("response", "prompt_tokens", "completion_tokens")},
            }
            for id_, row in rows.items()
        ),
        SAMPLES,
    )
    # Parts of a composed reward stand before it, votes among them: they are judged too, and not looked at.
    judged = judge_samples(
        rewards,
        RewardContext(anchor, samples, context.rewards.clear(), context.seed, context.judge, context.barred),
    )
    kept = judged.filter(pl.col("reward").is_in(list(measured)))
    return frame(
        (
            {
                **{name: rows[given["sample_id"]][name] for name in _OF_ANSWER},
                "reward": given["reward"],
                "value": given["value"],
                "counted": _counted(measured[given["reward"]], given["value"]),
            }
            for given in kept.iter_rows(named=True)
        ),
        ITEM_REWARDS,
    )


_OF_ANSWER = (
    "item_id",
    "skill",
    "arm",
    "policy_hash",
    "score",
    "response",
    "completion_tokens",
    "fingerprint",
)


def _counted(reward: Reward, value: float | None) -> float | None:
    if value is None or value != value:
        return None
    if isinstance(reward.parameters, JudgeParameters):
        return float(value >= reward.parameters.accept)
    return min(1.0, max(0.0, value))
