"""Harmful refinement: second thoughts that make more right answers wrong than wrong ones right."""

from collections.abc import Sequence
from math import exp

from selfimp_dagster.lifecycle.evaluation.monitors.reading import Reading, unmeasured
from selfimp_dagster.lifecycle.evaluation.monitors.rule import MonitorRule
from selfimp_dagster.lifecycle.evaluation.statistics import log_e_value
from selfimp_dagster.lifecycle.evaluation.summary import Flips


def harmful_refinement(
    flips: Sequence[tuple[int, Flips | None]], rounds: int | None, rule: MonitorRule
) -> Reading:
    """Whether refinement surely makes more answers wrong than right.

    Models that correct themselves without new evidence mostly change right answers (Huang et al. 2024,
    arXiv:2310.01798). A round refines few answers, so the rounds are added up: a player bets, on every
    answer that refinement changed, that it was made wrong. One starts in every round with a share of the
    capital, so that harm which begins late is seen (Shin et al. 2022, arXiv:2203.03532): half of it in round
    0, for harm mostly comes with the method, and the other half in equal parts in the rounds of the plan that
    follow; without a plan 1 / ((s + 1)(s + 2)) in round s. Where refinement does no harm, the capital of all
    of them together ever reaches 1 / level with a probability of at most the level, over all rounds of the
    campaign.

    Args:
        flips: number and flips of each round of the line; None where refinement answered no task.
        rounds: the rounds of the plan; None: an open-ended campaign.
    """
    level = rule.level_of_bet
    told = [(number, each) for number, each in flips if each is not None and each.n]
    if not told:
        return unmeasured("harmful_refinement", "refinement answered no task")
    capital = 0.0
    for place, (number, _) in enumerate(told):
        to_wrong = sum(each.to_wrong for _, each in told[place:])
        to_right = sum(each.to_right for _, each in told[place:])
        changed = [1.0] * to_wrong + [-1.0] * to_right
        capital += _stake(number, rounds) * (exp(min(700.0, log_e_value(changed))) if changed else 1.0)
    p_value = min(1.0, 1 / capital)
    to_wrong, to_right = sum(each.to_wrong for _, each in told), sum(each.to_right for _, each in told)
    n = sum(each.n for _, each in told)
    return Reading(
        monitor="harmful_refinement",
        state="alarm" if p_value <= level else "quiet",
        follows="warn",
        sentence=f"Refinement made {to_wrong} right answers wrong and {to_right} wrong ones right, of {n} in "
        f"{len(told)} rounds (p = {p_value:.2g} over the campaign).",
        value=p_value,
        threshold=level,
        level=level,
        n=n,
    )


def _stake(number: int, rounds: int | None) -> float:
    """The share of the capital of the player who starts in a round; over the rounds they add up to 1."""
    if rounds is None:
        return 1 / ((number + 1) * (number + 2))
    if rounds == 1:
        return 1.0
    return 0.5 if number == 0 else 0.5 / (rounds - 1)
