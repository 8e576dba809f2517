"""Self-consistency preference optimization (survey 4.3): pairs weighed by the margin of the votes."""

from pydantic import Field

from selfimp_dagster.lifecycle.optimization.dpo import require_pairs
from selfimp_dagster.lifecycle.optimization.pairs import by_votes, pair_rows
from selfimp_dagster.lifecycle.optimization.update import OptimizationContext, Schedule, Update
from selfimp_dagster.registry import method


class Scpo(Schedule):
    """Parameters of `scpo`."""

    learning_rate: float = Field(default=1e-6, gt=0, description="Peak learning rate of AdamW.")
    batch_size: int = Field(default=8, ge=1, description="Pairs per update.")
    beta: float = Field(
        default=0.5, gt=0, description="How dear it is to move away from the weights training starts from."
    )
    likelihood: float = Field(
        default=1.0, ge=0, description="alpha of the paper: weight of the likelihood of the better response."
    )
    threshold: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Share of the votes that the most frequent answer of a task must have.",
    )


@method(
    "optimization",
    "scpo",
    parameters=Scpo,
    section="4.3",
    paper="arXiv:2411.04109",
    takes=frozenset({"votes"}),
)
def scpo(context: OptimizationContext, parameters: Scpo) -> Update:
    """The response most votes agree with is preferred to the one fewest agree with, by their margin.

    In: the responses that the policy drew to a task, of which the better one must be selected; signal: how
    many
    of them give the same answer. With w = (V(y+) - V(y-)) / k for V of k votes and r the log-ratio to the
    weights at the start, the loss of a pair is -w log s(beta (r(y+) - r(y-))) - alpha w log p(y+ | x) / |y+|
    (Prasad et al., arXiv:2411.04109, equation 2). Out: the candidate. Votes are counted from the recorded
    samples; the recipe must list a reward that tells votes.

    Raises:
        SelfimpError: no task has answers with different shares and a majority, or the loss is not finite.
    """
    from selfimp_dagster.lifecycle.optimization.preference_trainer import train_votes

    pairs = by_votes(context.pool, context.tasks, threshold=parameters.threshold)
    require_pairs("scpo", pairs)
    curve = train_votes(pairs, context, parameters, beta=parameters.beta, likelihood=parameters.likelihood)
    return Update(
        training=pair_rows(pairs, "scpo"),
        curve=curve.steps,
        metrics=curve.metrics,
        facts={
            "method": "scpo",
            "trained_from": "incumbent",
            "steps": curve.steps.height,
            "pairs": pairs.height,
            "mean_margin": pairs["margin"].mean(),
        },
        tokens=curve.tokens,
    )
