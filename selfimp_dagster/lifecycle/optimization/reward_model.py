"""A reward model by Bradley and Terry (survey 4.3), through TRL's RewardTrainer."""

from pydantic import Field

from selfimp_dagster.lifecycle.companions import REWARD_MODEL
from selfimp_dagster.lifecycle.optimization.companion import CompanionParameters, train_companion
from selfimp_dagster.lifecycle.optimization.pairs import best_and_worst
from selfimp_dagster.lifecycle.optimization.update import COMPARABLE, OptimizationContext, Update
from selfimp_dagster.registry import method


class RewardModelUpdate(CompanionParameters):
    """Parameters of `reward_model`."""

    learning_rate: float = Field(default=1e-5, gt=0, description="Peak learning rate of AdamW.")
    centering: float = Field(
        default=0.01,
        ge=0,
        description="Weight of the squared sum of both rewards of a pair, which keeps rewards around 0 "
        "(arXiv:2312.09244); the comparison alone leaves their level open.",
    )
    margin: float = Field(
        default=0.0,
        ge=0,
        description="By how much the reward of the better response must be larger; it must be larger anyhow.",
    )


@method(
    "optimization",
    REWARD_MODEL,
    parameters=RewardModelUpdate,
    section="4.3",
    paper="arXiv:2203.02155",
    takes=COMPARABLE,
)
def reward_model(context: OptimizationContext, parameters: RewardModelUpdate) -> Update:
    """Trains a model that scores responses, which later rounds ask; the policy is passed on unchanged.

    In: pairs of responses to a task, chosen as for `dpo`, of this round and of earlier ones of the line;
    signal: which of the two has the larger reward; out: a companion of the checkpoint, begun from the weights
    that this update starts from with a new scalar head. The loss is TRL's: -log sigmoid(r(better) - r(worse))
    (Bradley and Terry; InstructGPT, equation 1). It is tried on pairs of tasks that it never trains on.
    InstructGPT's pairs are people's; here another reward of the recipe says which is better.

    Raises:
        SelfimpError: there is no pair to train on, or the loss stopped being finite.
    """
    from selfimp_dagster.lifecycle.optimization.reward_trainer import train_reward_model

    judged = context.judged(parameters.reward, COMPARABLE)
    pairs = best_and_worst(judged, margin=parameters.margin, per_task=parameters.pairs_per_task)
    reward = context.reward_name(parameters.reward, COMPARABLE)
    return train_companion(
        REWARD_MODEL,
        pairs,
        context,
        parameters,
        reward,
        lambda learnt, within: train_reward_model(learnt, within, parameters),
    )
