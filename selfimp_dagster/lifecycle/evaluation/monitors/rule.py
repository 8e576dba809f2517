"""What a campaign says of its monitors, and the error that each may spend in a round."""

from pydantic import BaseModel, ConfigDict, Field

from selfimp_dagster.lifecycle.evaluation.monitors.reading import MONITORS

TESTED = sum(kind.tested for kind in MONITORS.values())
"""Monitors that can sound by chance."""


class MonitorRule(BaseModel):
    """What the monitors watch, and what they let pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="Chance of any false alarm of any monitor in the whole campaign.",
    )
    watched_items: int = Field(
        default=48,
        ge=0,
        description="Anchor items, the same in every round, that both arms answer several times; 0: collapse "
        "and wrong consensus are not measured.",
    )
    watched_draws: int = Field(default=4, ge=2, le=64, description="Answers to each watched item.")
    judged_tasks: int = Field(
        default=64,
        ge=0,
        description="Train tasks, the same in every round, that both arms answer and the recipe's rewards "
        "judge, so that a hacked reward shows; none where only the verifier or votes judge.",
    )
    collapse_fall: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description="Fall of diversity, as a share of what it was, that raises no alarm.",
    )
    accuracy_fall: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Fall of accuracy on anchor items, over two generations or more, that raises no alarm.",
    )
    consensus_fall: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Fall in the accuracy of votes that raises no alarm.",
    )
    hacking_rise: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Rise of a reward beyond the rise of accuracy that raises no alarm.",
    )
    verifier_floor: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="Precision and recall that the verifier must be able to have on the gold probe, and "
        "agreement of further verifiers with it. 0 asks for nothing.",
    )
    judge_fall: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Fall in the agreement of a judge with the gold probe that raises no alarm.",
    )
    judge_bias: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of a judge's comparisons that may follow the position.",
    )
    judge_preference: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="How much more of the policy's wrong answers than of corrupted ones a judge may accept.",
    )
    guard_fall: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Fall of a guard skill against the best so far that raises no alarm.",
    )
    leakage_gap: float = Field(
        default=0.0, ge=0, lt=1, description="Anchor minus fresh accuracy that raises no alarm."
    )
    memorisation_rise: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Rise of the gap between anchor items and their twins, over that of the line's first "
        "incumbent, that raises no alarm.",
    )
    contamination_floor: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of the corpus's tasks that may quote evaluation items.",
    )
    real_data_floor: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of the trained rows that must be demonstrations, verified or of earlier rounds.",
    )

    @property
    def level_of_bet(self) -> float:
        """The chance of a false alarm of harmful_refinement in the whole campaign.

        A share that stays, whatever else the recipe gives evidence to: the bet runs over rounds whose recipes
        may differ.
        """
        return self.alpha / TESTED

    def level_of_monitor(self, sharing: int) -> float:
        """The chance of a false alarm of each of so many other monitors, if they share in every round."""
        return (self.alpha - self.level_of_bet) / sharing

    def level_of_round(self, rounds: int | None, round_number: int, sharing: int) -> float:
        """The chance of a false alarm of each of so many monitors in one round.

        A round may spend an equal part of what the bet leaves of alpha, in round k of an open-ended campaign
        1 / ((k + 1)(k + 2)) of it. So the rounds add up to it however many share it in each of them.

        Args:
            rounds: of the plan; None: an open-ended campaign.
            round_number: from 0.
            sharing: monitors that the round's recipe can give evidence to (see `sharing`).

        Raises:
            ValueError: the round number is negative.
        """
        if round_number < 0:
            raise ValueError(f"round number {round_number}")
        share = 1 / rounds if rounds else 1 / ((round_number + 1) * (round_number + 2))
        return self.level_of_monitor(sharing) * share
