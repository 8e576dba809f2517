import pytest
from pydantic import TypeAdapter

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
    read_directives,
    sentences,
)
from selfimp_dagster.lifecycle.evaluation.steering import RULES
from selfimp_dagster.lifecycle.obedience import OBEYED_BY

EVERY: tuple[tuple[Directive, str], ...] = (
    (ShiftBudget(weights={"sums": 0.25, "gcd": 0.75}, signal="s."), "Acquisition draws 75% gcd, 25% sums"),
    (
        MoveDifficulty(hardest={"copy": 5, "sum": 3}, hardest_before={"copy": 4, "sum": 3}, signal="s."),
        "Acquisition draws copy up to 5 (was 4), sum up to 3",
    ),
    (RecentreBand(move=-0.1, signal="s."), "Selection moves its band of pass rates by -0.1"),
    (
        RequireVerification(more_confidence=0.2, signal="s."),
        "Selection keeps what is verified, or asks for 0.2 more confidence",
    ),
    (Replay(more=0.5, signal="s."), "Optimization replays 0.5 times the round's rows more"),
    (SmallerStep(factor=0.25, signal="s."), "Optimization takes 0.25 times its learning rate"),
    (SwitchRecipe(strategy="dpo", signal="s."), "The round follows the recipe dpo"),
    (Distil(factor=2, signal="s."), "Refinement answers 2 times as many tasks"),
    (StopRefining(signal="s."), "Refinement answers no tasks"),
    (Halt(signal="s."), "A person is asked before the next round"),
)


@pytest.mark.parametrize(("directive", "order"), EVERY, ids=[d.kind for d, _ in EVERY])
def test_a_directive_is_told_in_words_and_survives_json(directive: Directive, order: str) -> None:
    assert directive.sentence == f"{order}, because s."
    assert read_directives(f"[{directive.model_dump_json()}]") == (directive,)
    assert directive.stage in OBEYED_BY


def test_every_rule_has_its_directive() -> None:
    assert [directive.kind for directive, _ in EVERY] == list(RULES)
    assert sentences([]) == "None."


def test_the_row_of_an_old_ledger_is_read() -> None:
    old = (
        '[{"kind":"shift_budget","stage":"acquisition","weights":{"sums":0.6,"gcd":0.4},'
        '"signal":"gcd is weakest."}]'
    )
    (directive,) = read_directives(old)
    assert TypeAdapter(Directive).dump_python(directive)["weights"] == {"sums": 0.6, "gcd": 0.4}
