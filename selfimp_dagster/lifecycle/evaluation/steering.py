"""Steering: which directives the finished rounds call for. One pure function per rule, each on one signal.

The survey (section 6) says what evaluation should steer and fixes no policy: the rules are this project's own
(docs/steering.md). A rule speaks where an interval says so, never on a value alone.
"""

from collections.abc import Callable, Mapping, Sequence
from math import fsum, inf, log, sqrt
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.evaluation.directives import (
    Directive,
    Distil,
    Halt,
    MoveDifficulty,
    RecentreBand,
    Replay,
    RequireVerification,
    ShiftBudget,
    SmallerStep,
    StopRefining,
    SwitchRecipe,
    named,
)
from selfimp_dagster.lifecycle.evaluation.statistics import (
    Estimate,
    Interval,
    independent_difference_interval,
    wilson,
)
from selfimp_dagster.lifecycle.evaluation.summary import Change, Counted, PassRates, RoundSummary

Rule = Literal[
    "shift_budget",
    "move_difficulty",
    "recentre_band",
    "require_verification",
    "replay",
    "smaller_step",
    "switch_recipe",
    "distil",
    "stop_refining",
    "halt",
]
RULES: tuple[Rule, ...] = get_args(Rule)

_ERROR = 0.05


class Steering(BaseModel):
    """Which rules may speak, and from which values on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: tuple[Rule, ...] = Field(default=RULES, description="The rules that may speak.")
    even: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="shift_budget: difference in accuracy that the weakest skill must surely exceed.",
    )
    floor: float = Field(
        default=0.1, gt=0, le=1, description="shift_budget: part of its base share that every skill keeps."
    )
    solved: float = Field(
        default=0.5, gt=0, lt=1, description="move_difficulty: accuracy above which a level is solved."
    )
    hopeless: float = Field(
        default=0.2, gt=0, lt=1, description="move_difficulty: accuracy below which a level is too hard."
    )
    piled: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="recentre_band: share of the train tasks that are never, or always, solved.",
    )
    band_step: float = Field(default=0.1, gt=0, lt=1, description="recentre_band: move of the band's ends.")
    precision: float = Field(
        default=0.9, gt=0, lt=1, description="require_verification: share of right ones among selected rows."
    )
    confidence_step: float = Field(
        default=0.1, gt=0, lt=1, description="require_verification: confidence that is added."
    )
    replay_step: float = Field(
        default=0.5, gt=0, description="replay: rows that are added, as a multiple of the round's."
    )
    most_replay: float = Field(default=2.0, gt=0, description="replay: the most that is added.")
    step_factor: float = Field(
        default=0.5, gt=0, lt=1, description="smaller_step: factor of the learning rate."
    )
    smallest_step: float = Field(default=0.1, gt=0, lt=1, description="smaller_step: the smallest factor.")
    exploration: float = Field(
        default=1.0, ge=0, description="switch_recipe: weight of the uncertainty in UCB1."
    )
    cost: Literal["tokens", "seconds"] = Field(
        default="tokens", description="switch_recipe: what a recipe's gain is divided by."
    )
    distil_factor: float = Field(default=2.0, gt=1, description="distil: factor of the refined tasks.")
    worth: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="stop_refining: share of answers that refinement should be able to make right.",
    )
    window: int = Field(
        default=3, ge=1, description="distil, stop_refining: rounds whose flips count together."
    )
    unmended: int = Field(
        default=3, ge=2, description="halt: rounds in a row that show what steering should have mended."
    )


def direct(
    history: Sequence[RoundSummary],
    steering: Steering,
    skills: Mapping[str, float],
    strategies: Sequence[str] = (),
) -> tuple[Directive, ...]:
    """The directives for the round after these, in the order of RULES.

    Args:
        history: one line of rounds, in order; at least one.
        steering: the rules that may speak, and their values.
        skills: the campaign's mix, skill to base weight.
        strategies: names of the campaign's further recipes.

    Raises:
        SelfimpError: a skill of the mix has no accuracy.
    """
    last = history[-1]
    rules: dict[Rule, Callable[[], Directive | None]] = {
        "shift_budget": lambda: shift_budget(last.signals.skills, skills, steering),
        "move_difficulty": lambda: move_difficulty(last.signals.levels, last.signals.attempted, steering),
        "recentre_band": lambda: recentre_band(history, steering),
        "require_verification": lambda: require_verification(history, steering),
        "replay": lambda: replay(history, steering),
        "smaller_step": lambda: smaller_step(history, steering),
        "switch_recipe": lambda: switch_recipe(history, strategies, steering),
        "distil": lambda: distil(history, steering),
        "stop_refining": lambda: stop_refining(history, steering),
        "halt": lambda: None if last.halt is None else Halt(signal=last.halt),
    }
    found = (rules[name]() for name in RULES if name in steering.rules)
    return tuple(directive for directive in found if directive is not None)


def shift_budget(
    accuracies: Mapping[str, Counted], weights: Mapping[str, float], steering: Steering
) -> ShiftBudget | None:
    """Shares of the generation budget in proportion to base weight x (1 - accuracy).

    None unless the weakest skill is surely weaker than the strongest, by more than `even`: the interval
    of the difference (Newcombe) holds for all pairs of skills together. A part `floor` of the budget keeps
    the base shares, so that no skill is starved.

    Args:
        accuracies: of the policy in force, for at least the skills of the mix.
        weights: positive base weights, the campaign's mix; they need not sum to 1.
        steering: the values of the rule.

    Raises:
        SelfimpError: a skill of the mix has no accuracy.
    """
    missing = sorted(skill for skill in weights if skill not in accuracies)
    if missing:
        raise SelfimpError(
            f"no accuracy for the skills {', '.join(missing)}",
            where="directive shift_budget",
            fix="give every skill of the campaign items in its evaluation suites",
        )
    skills = sorted(weights, key=lambda skill: (accuracies[skill].share, skill))
    weakest, strongest = skills[0], skills[-1]
    if weakest == strongest:
        return None
    pairs = len(skills) * (len(skills) - 1) // 2
    weak, strong = (_estimate(accuracies[skill], _ERROR / pairs) for skill in (weakest, strongest))
    if independent_difference_interval(strong, weak).low <= steering.even:
        return None
    total = sum(weights.values())
    need = {skill: weights[skill] * (1 - accuracies[skill].share) for skill in weights}
    total_need = sum(need.values())
    return ShiftBudget(
        weights={
            skill: steering.floor * weights[skill] / total + (1 - steering.floor) * need[skill] / total_need
            for skill in weights
        },
        signal=f"{weakest} is weakest with an accuracy of {weak.value:.2f}, "
        f"{strongest} strongest with {strong.value:.2f}.",
    )


def _estimate(counted: Counted, error: float) -> Estimate:
    low, high = counted.interval(1 - error)
    return Estimate(counted.share, low, high, counted.n)


def move_difficulty(
    levels: Mapping[str, Mapping[float, Counted]], attempted: Mapping[str, float], steering: Steering
) -> MoveDifficulty | None:
    """One level harder where the hardest attempted one is surely solved, one easier where it surely is not.

    Else the skill stays at its level, and the directive says so: a recipe may have a schedule of its own.
    None if no skill has several levels.
    """
    hardest, told = {}, []
    for skill, counts in sorted(levels.items()):
        if len(counts) < 2 or skill not in attempted:
            continue
        now = attempted[skill]
        hardest[skill], verdict = _next_level(now, counts, steering)
        answered = f" ({counts[now].text})" if now in counts else ""
        told.append(f"{skill} {verdict} at {now:g}{answered}")
    if not hardest:
        return None
    return MoveDifficulty(
        hardest=hardest,
        hardest_before={skill: attempted[skill] for skill in hardest},
        signal=f"of the hardest tasks that were drawn {', '.join(told)}.",
    )


def _next_level(now: float, counts: Mapping[float, Counted], steering: Steering) -> tuple[float, str]:
    accuracy = counts[now].interval() if now in counts else Interval(0.0, 1.0)
    if accuracy.low > steering.solved:
        return min((level for level in counts if level > now), default=now), "is solved"
    if accuracy.high < steering.hopeless:
        return max((level for level in counts if level < now), default=now), "is too hard"
    return now, "is neither solved nor too hard"


def recentre_band(history: Sequence[RoundSummary], steering: Steering) -> RecentreBand | None:
    """The band a step up for each round whose tasks surely pile up at a pass rate of 1, a step down at 0."""
    piles = [_pile(summary.signals.pass_rates, steering.piled) for summary in history]
    if sum(piles) == 0:
        return None
    rates = [s.signals.pass_rates for s, pile in zip(history, piles, strict=True) if pile][-1]
    assert rates is not None
    return RecentreBand(
        move=round(steering.band_step * sum(piles), 6),
        signal=f"{rates.never} of {rates.n} train tasks were never solved and {rates.always} always, "
        f"when they last piled up.",
    )


def _pile(rates: PassRates | None, piled: float) -> int:
    if rates is None or rates.n == 0:
        return 0
    return (wilson(rates.always, rates.n).low > piled) - (wilson(rates.never, rates.n).low > piled)


def require_verification(history: Sequence[RoundSummary], steering: Steering) -> RequireVerification | None:
    """A step more of confidence for each round in which surely too few of the selected rows were right."""
    low = [s.signals.selected for s in history if _is_imprecise(s, steering)]
    if not low or low[-1] is None:
        return None
    return RequireVerification(
        more_confidence=round(steering.confidence_step * len(low), 6),
        signal=f"in {_rounds(len(low))} fewer than {steering.precision:.0%} of the selected rows were right, "
        f"{low[-1].text} in the last of them.",
    )


def _is_imprecise(summary: RoundSummary, steering: Steering) -> bool:
    selected = summary.signals.selected
    return selected is not None and selected.interval().high < steering.precision


def replay(history: Sequence[RoundSummary], steering: Steering) -> Replay | None:
    """A step more of replay for each round in which a skill surely fell, or that only sharpened."""
    signal = _fell(history, lambda summary: summary.signals.skill_change)
    if signal is None:
        return None
    times, sentence = signal
    return Replay(more=min(steering.most_replay, round(steering.replay_step * times, 6)), signal=sentence)


def smaller_step(history: Sequence[RoundSummary], steering: Steering) -> SmallerStep | None:
    """The factor once more for each round in which a guard skill surely fell, or that only sharpened."""
    signal = _fell(history, lambda summary: summary.signals.guard_change)
    if signal is None:
        return None
    times, sentence = signal
    return SmallerStep(factor=max(steering.smallest_step, steering.step_factor**times), signal=sentence)


def _fell(
    history: Sequence[RoundSummary], change: Callable[[RoundSummary], Change | None]
) -> tuple[int, str] | None:
    """In how many rounds the change was a fall, or the round only sharpened, and the last time in words."""
    last, times = "", 0
    for summary in history:
        found = change(summary)
        if found is not None and found.is_fall:
            last = f"{found.value:+.2f} for {found.note}"
        elif summary.signals.sharpening:
            last = "single draws got better while the reach of several shrank."
        else:
            continue
        times += 1
    return (times, f"in {_rounds(times)} something fell beyond its interval: {last}") if times else None


def _rounds(times: int) -> str:
    return "one round" if times == 1 else f"{times} rounds"


def switch_recipe(
    history: Sequence[RoundSummary], strategies: Sequence[str], steering: Steering
) -> SwitchRecipe | None:
    """The recipe with the highest upper confidence bound, UCB1.

    Auer et al. 2002, doi:10.1023/A:1013689704352. The arms are the campaign's own recipe and its strategies;
    the reward of a round is its measured gain per cost, scaled to 0 to 1 over the history. What was never
    tried comes first, by name. None without strategies.
    """
    if not strategies:
        return None
    rewards = bandit_rewards(history, strategies, steering)
    total = sum(map(len, rewards.values()))
    bounds = {arm: ucb1(values, total, steering.exploration) for arm, values in rewards.items()}
    chosen = max(bounds, key=lambda arm: bounds[arm])
    told = (
        f"{named(arm)} {'was not tried' if not rewards[arm] else f'has a bound of {bounds[arm]:.2f}'}"
        for arm in bounds
    )
    return SwitchRecipe(strategy=chosen, signal=f"{', '.join(told)}.")


def bandit_rewards(
    history: Sequence[RoundSummary], strategies: Sequence[str], steering: Steering
) -> dict[str | None, list[float]]:
    """The rewards of each arm, in [0, 1]: gain per cost, scaled over the history; 0.5 where all are equal."""
    raw = [
        (summary.signals.strategy, gain_per_cost(summary, steering.cost))
        for summary in history
        if summary.signals.strategy is None or summary.signals.strategy in strategies
    ]
    known = [value for _, value in raw if value is not None]
    rewards: dict[str | None, list[float]] = {arm: [] for arm in (None, *sorted(strategies))}
    for arm, value in raw:
        if value is not None:
            width = max(known) - min(known)
            rewards[arm].append((value - min(known)) / width if width else 0.5)
    return rewards


def gain_per_cost(summary: RoundSummary, cost: Literal["tokens", "seconds"]) -> float | None:
    """The measured gain of a round per million tokens or thousand seconds; None if it was not measured."""
    spent = summary.tokens / 1e6 if cost == "tokens" else summary.seconds / 1e3
    gain = summary.signals.gain
    return None if gain is None or spent <= 0 else gain / spent


def ucb1(rewards: Sequence[float], total: int, exploration: float) -> float:
    """Mean reward + exploration x sqrt(2 ln(total) / tries); infinite for what was never tried."""
    if not rewards:
        return inf
    return fsum(rewards) / len(rewards) + exploration * sqrt(2 * log(total) / len(rewards))


def distil(history: Sequence[RoundSummary], steering: Steering) -> Distil | None:
    """More refined tasks where refinement surely makes more answers right than wrong."""
    to_right, to_wrong, n = _flips(history, steering.window)
    if wilson(to_right, to_right + to_wrong).low <= 0.5 or wilson(to_right, n).high < steering.worth:
        return None
    return Distil(factor=steering.distil_factor, signal=_refined(to_right, to_wrong, n))


def stop_refining(history: Sequence[RoundSummary], steering: Steering) -> StopRefining | None:
    """Nothing more to refine where it surely makes more answers wrong than right, or hardly any right."""
    to_right, to_wrong, n = _flips(history, steering.window)
    if wilson(to_right, to_right + to_wrong).high >= 0.5 and wilson(to_right, n).high >= steering.worth:
        return None
    return StopRefining(signal=_refined(to_right, to_wrong, n))


def _flips(history: Sequence[RoundSummary], window: int) -> tuple[int, int, int]:
    """Answers that refinement made right and wrong in the last rounds, and of how many."""
    flips = [s.signals.refined for s in history[-window:] if s.signals.refined is not None]
    return sum(f.to_right for f in flips), sum(f.to_wrong for f in flips), sum(f.n for f in flips)


def _refined(to_right: int, to_wrong: int, n: int) -> str:
    return f"refinement made {to_right} of {n} answers right and {to_wrong} wrong."


def halt_reason(history: Sequence[RoundSummary], steering: Steering | None) -> str | None:
    """Why a person has to be asked after the last of these rounds: something that steering did not mend.

    None unless each of the last `unmended` rounds surely had too few right rows selected, or each
    surely fell in a skill, or each in a guard skill.
    """
    if steering is None or "halt" not in steering.rules or len(history) < steering.unmended:
        return None
    recent = history[-steering.unmended :]
    shown = {
        f"fewer than {steering.precision:.0%} of the selected rows were right": lambda summary: _is_imprecise(
            summary, steering
        ),
        "a skill fell beyond its interval": lambda summary: _is_fall(summary.signals.skill_change),
        "a guard skill fell beyond its interval": lambda summary: _is_fall(summary.signals.guard_change),
    }
    found = [what for what, shows in shown.items() if all(map(shows, recent))]
    if not found:
        return None
    return f"in {steering.unmended} rounds in a row {' and '.join(found)}, whatever was directed."


def _is_fall(change: Change | None) -> bool:
    return change is not None and change.is_fall


def readings(directive: Directive, summary: RoundSummary) -> dict[str, float]:
    """The figures that a directive is about, as a round measured them; those that it did not are left out.

    Asked of the round before the directive and of the round that was given it, they say what became of it.
    """
    signals = summary.signals
    changes = {"skill change": signals.skill_change, "guard change": signals.guard_change}
    measured: dict[str, float | None]
    match directive:
        case ShiftBudget():
            measured = {skill: summary.per_skill.get(skill) for skill in directive.weights}
        case MoveDifficulty():
            measured = {
                f"{skill} at {level:g}": _share(signals.levels.get(skill, {}).get(level))
                for skill, level in directive.hardest.items()
            }
        case RecentreBand():
            rates = signals.pass_rates
            measured = (
                {"never solved": rates.never / rates.n, "always solved": rates.always / rates.n}
                if rates and rates.n
                else {}
            )
        case RequireVerification():
            measured = {"selected rows right": _share(signals.selected)}
        case Replay() | SmallerStep():
            name = "skill change" if directive.kind == "replay" else "guard change"
            measured = {name: None if (change := changes[name]) is None else change.value}
            measured["sharpening"] = float(signals.sharpening)
        case SwitchRecipe():
            measured = {"gain per million tokens": gain_per_cost(summary, "tokens")}
        case Distil() | StopRefining():
            flips = signals.refined
            measured = (
                {"made right": flips.to_right / flips.n, "made wrong": flips.to_wrong / flips.n}
                if flips
                else {}
            )
        case Halt():
            measured = {name: None if change is None else change.value for name, change in changes.items()}
            measured["selected rows right"] = _share(signals.selected)
    return {name: value for name, value in measured.items() if value is not None}


def _share(counted: Counted | None) -> float | None:
    return None if counted is None else counted.share
