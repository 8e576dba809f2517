"""Self-play fine-tuning (survey 4.3): real answers against the policy's own, through TRL's DPOTrainer."""

from pydantic import Field

from selfimp_dagster.lifecycle.optimization.dpo import require_pairs
from selfimp_dagster.lifecycle.optimization.pairs import answer_and_own, pair_rows
from selfimp_dagster.lifecycle.optimization.update import OptimizationContext, Schedule, Update
from selfimp_dagster.registry import method


class Spin(Schedule):
    """Parameters of `spin`."""

    learning_rate: float = Field(default=1e-6, gt=0, description="Peak learning rate of AdamW.")
    batch_size: int = Field(default=8, ge=1, description="Pairs per update.")
    strength: float = Field(
        default=0.1, gt=0, description="lambda of the paper: how dear it is to move away from the opponent."
    )
    pairs_per_task: int = Field(default=1, ge=1, description="Responses of one task that play at most.")


@method(
    "optimization",
    "spin",
    parameters=Spin,
    section="4.3",
    paper="arXiv:2401.01335",
    takes=frozenset({"answers"}),
)
def spin(context: OptimizationContext, parameters: Spin) -> Update:
    """The policy learns to tell the task's own answer from what it said itself before.

    In: tasks with an answer, and responses that the policy drew to them, whatever their reward; signal: which
    of the two is the real one. The loss is log(1 + exp(-t)) of t = lambda (log-ratio of the real answer minus
    log-ratio of the own one), ratios of the weights trained to those that responded (Chen et al.,
    arXiv:2401.01335, equation 4.7). Out: the candidate. It is supervision by the answers of the train pool,
    so the recipe must list the reward `answer`. The paper's real responses are demonstrations; here they are
    the task's answers as they stand.

    Raises:
        SelfimpError: no response differs from the answer of its task, or the loss stopped being finite.
    """
    from selfimp_dagster.lifecycle.optimization.preference_trainer import train_pairs

    pairs = answer_and_own(context.pool, context.tasks, per_task=parameters.pairs_per_task)
    require_pairs("spin", pairs)
    curve = train_pairs("spin", pairs, context, parameters, loss_type=["sigmoid"], beta=parameters.strength)
    return Update(
        training=pair_rows(pairs, "spin"),
        curve=curve.steps,
        metrics=curve.metrics,
        facts={
            "method": "spin",
            "trained_from": "incumbent",
            "steps": curve.steps.height,
            "pairs": pairs.height,
        },
        tokens=curve.tokens,
    )
