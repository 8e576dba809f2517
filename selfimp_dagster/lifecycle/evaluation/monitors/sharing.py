"""Which monitors share the error of a round."""

from selfimp_dagster.campaign import Campaign
from selfimp_dagster.lifecycle.evaluation.watch import hackable
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.lifecycle.rewards.gold_probe import judges_of


def sharing(campaign: Campaign) -> tuple[str, ...]:
    """The monitors that a round of this campaign can give evidence to, but for the bet of harmful_refinement.

    A function of the campaign alone: who shares must not hang on what was found. A monitor that is not among
    them tests nothing.
    """
    rewards = campaign.recipe.resolved_rewards
    watches = campaign.monitors.watched_items > 0
    verified = any(reward.method.name == ANSWER for reward in rewards)
    can = {
        "collapse": watches,
        "wrong_consensus": watches or not verified,
        "reward_hacking": bool(hackable(rewards)) and campaign.monitors.judged_tasks > 0,
        "verifier_errors": True,
        "judge_errors": bool(hackable(rewards)),
        "judge_bias": bool(judges_of(rewards)),
        "forgetting": bool(campaign.guard),
        "leakage": campaign.pools.anchor > 0 and campaign.pools.fresh > 0,
        "memorisation": campaign.evaluation.twins > 0,
        "contamination": True,
    }
    return tuple(name for name, does in can.items() if does)
