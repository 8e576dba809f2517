"""Whether a recipe can do something with what its acquisition makes: asked when the campaign is read."""

from collections.abc import Sequence

from pydantic import BaseModel

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.acquisition.admission import Synthetic
from selfimp_dagster.lifecycle.acquisition.mixture import Mixture
from selfimp_dagster.lifecycle.acquisition.proposals import JUDGEMENT
from selfimp_dagster.lifecycle.rewards.judging import Reward
from selfimp_dagster.lifecycle.rewards.parameters import NamedParameters
from selfimp_dagster.registry import Method


def check_acquisition(
    method: Method, parameters: BaseModel, rewards: Sequence[Reward], synthetic: Synthetic
) -> None:
    """Refuses sources whose tasks no reward can judge, and ones that leave no room for real tasks.

    Parameters of methods in which models write all tasks have `writes_all`.

    Raises:
        SelfimpError: naming the source.
    """
    sources = parameters.methods if isinstance(parameters, Mixture) else [(method, parameters)]
    unknown = sorted({source.name for source, _ in sources if JUDGEMENT in source.needs})
    if unknown and not any(judges_unverified(reward) for reward in rewards):
        raise SelfimpError(
            f"nobody knows the answers to the tasks of {', '.join(unknown)}, and no reward of the recipe "
            "judges without",
            where="recipe.acquisition",
            fix="add majority_vote, claimed_answer or a judge to recipe.rewards",
        )
    if all(getattr(chosen, "writes_all", False) for _, chosen in sources) and synthetic.least_real > 0:
        names = sorted({source.name for source, _ in sources})
        raise SelfimpError(
            f"models write all tasks of {', '.join(names)}, and {synthetic.least_real:g} of the tasks must "
            "be real",
            where="recipe.acquisition",
            fix="have policy_sampling beside it in a mixture, or set recipe.synthetic.least_real to 0",
        )


def judges_unverified(reward: Reward) -> bool:
    """Whether a reward says something of tasks of which nobody knows the answer; its parts say it for one
    that is made of others."""
    return "verifier" not in reward.method.needs and not (
        isinstance(reward.parameters, NamedParameters) and reward.parameters.made_of
    )
