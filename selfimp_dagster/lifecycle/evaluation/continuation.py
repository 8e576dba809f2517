"""Continuation: whether a next round starts, and with which directives."""

from collections.abc import Mapping, Sequence
from itertools import pairwise, takewhile

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.directives import Directive
from selfimp_dagster.lifecycle.evaluation.steering import Steering, direct
from selfimp_dagster.lifecycle.evaluation.summary import RoundSummary
from selfimp_dagster.round_key import RoundKey


class Budget(BaseModel):
    """What a campaign may cost in all its rounds; null is no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int | None = Field(default=None, ge=1, description="Tokens read and generated.")
    seconds: float | None = Field(default=None, gt=0, description="Wall-clock seconds of the rounds.")


class Continuation(BaseModel):
    """When a campaign goes on without a person."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rounds: int | None = Field(
        ge=1,
        description="Planned rounds; the promotion rule spends its error over them. Null: an open-ended "
        "campaign, which its target, its budget or its patience ends.",
    )
    target: float | None = Field(
        default=None, gt=0, le=1, description="Anchor accuracy at which the campaign has what it wanted."
    )
    patience: int = Field(
        default=3,
        ge=1,
        description="Rounds in a row without promotion after which to stop; the promotion rule puts its "
        "error on so many.",
    )
    budget: Budget = Field(default=Budget(), description="Limits over the whole campaign.")


class Decision(BaseModel):
    """Whether a next round starts, why in one sentence, and what its stages are told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    proceed: bool
    reason: str
    directives: tuple[Directive, ...] = ()


def decide(
    history: Sequence[RoundSummary],
    plan: Continuation,
    skills: Mapping[str, float],
    steering: Steering | None,
    strategies: Sequence[str] = (),
) -> Decision:
    """Whether the next round starts after these, and with which directives.

    The first that applies stops the campaign: a hard alarm of the last round, a halt that no person has
    approved going on after, the target, the end of the plan, the budget, the patience. Earlier alarms do not
    count: a round after one was started by a person.

    Args:
        history: one line of ancestry with the rejected rounds on it, in the order of their numbers. The
            rounds are counted by the number of the last one, since every branch spends the same plan.
        plan: the campaign's continuation.
        skills: the campaign's mix, skill to base weight.
        steering: the rules that may speak; None: there are no directives.
        strategies: names of the campaign's further recipes.

    Raises:
        SelfimpError: a target is set and the last round has no anchor accuracy, or a skill of the mix has
            no accuracy.
        ValueError: the history is not in order.
    """
    if not history:
        first = f"the first of {plan.rounds} planned rounds" if plan.rounds else "the first round"
        return Decision(proceed=True, reason=f"Proceeds: {first}.")
    numbers = [RoundKey.parse(summary.round).number for summary in history]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise ValueError(f"rounds are out of order: {numbers}")
    last = history[-1]
    # Also for a round that a person starts after a stop.
    directives = () if steering is None else direct(history, steering, skills, strategies)
    stop = _stop_reason(history, numbers[-1] + 1, plan)
    if stop is not None:
        return Decision(proceed=False, reason=stop, directives=directives)
    of_plan = f" of {plan.rounds} planned" if plan.rounds else ""
    return Decision(
        proceed=True,
        reason=f"Proceeds: {numbers[-1] + 1}{of_plan} rounds are done and {last.round} was "
        f"{'promoted' if last.promoted else 'rejected'}.",
        directives=directives,
    )


def _stop_reason(history: Sequence[RoundSummary], done: int, plan: Continuation) -> str | None:
    last = history[-1]
    if last.alarms:
        return f"Stopped: hard alarm in {last.round}: {' '.join(last.alarms)}"
    if last.halt is not None and last.approved is None:
        return f"Stopped: a person is asked after {last.round}: {last.halt}"
    if plan.target is not None and _anchor(last) >= plan.target:
        return (
            f"Stopped: the target is reached, with an anchor accuracy of {_anchor(last):.3f} "
            f"(target {plan.target:.3f})."
        )
    if plan.rounds is not None and done >= plan.rounds:
        return f"Stopped: all {plan.rounds} planned rounds are done."
    tokens = sum(summary.tokens for summary in history)
    if plan.budget.tokens is not None and tokens >= plan.budget.tokens:
        return f"Stopped: {tokens:,} tokens are spent of a budget of {plan.budget.tokens:,}."
    seconds = sum(summary.seconds for summary in history)
    if plan.budget.seconds is not None and seconds >= plan.budget.seconds:
        return f"Stopped: {seconds:,.0f} seconds are spent of a budget of {plan.budget.seconds:,.0f}."
    rejected = sum(1 for _ in takewhile(lambda summary: not summary.promoted, reversed(history)))
    if rejected >= plan.patience:
        return f"Stopped: {rejected} rounds in a row without a promotion (patience {plan.patience})."
    return None


def _anchor(summary: RoundSummary) -> float:
    if "anchor" not in summary.accuracy:
        raise SelfimpError(
            "the target is an accuracy on the anchor suite, which the round did not measure",
            where=summary.round,
            fix="evaluate on the anchor suite, or remove continuation.target",
        )
    return summary.accuracy["anchor"]
