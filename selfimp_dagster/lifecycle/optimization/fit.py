"""Whether an update can learn from what the rewards of a recipe tell: asked when the campaign is read."""

from collections.abc import Iterable, Mapping

from pydantic import BaseModel

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.companions import NAMES
from selfimp_dagster.lifecycle.optimization.sequence import Sequence
from selfimp_dagster.lifecycle.optimization.update import Rewarded
from selfimp_dagster.lifecycle.rewards.judging import Reward
from selfimp_dagster.registry import Method, Signal

_TELLS: dict[Signal, str] = {
    "verdict": "whether a response is accepted",
    "score": "how good a response is by itself",
    "ordering": "which of the responses to one task is better, and nothing beyond",
    "votes": "how many responses agree",
    "answers": "what the right answer is",
}


def check_recipe_updates(
    method: Method, parameters: BaseModel, gives: Mapping[str, frozenset[Signal]]
) -> None:
    """Refuses an update, or one of a sequence, that the rewards of the recipe do not tell enough.

    Raises:
        SelfimpError: see `check_update`.
    """
    for update, chosen in _updates(method, parameters):
        check_update(update, chosen, gives)


def update_names(method: Method, parameters: BaseModel) -> list[str]:
    """The names of the updates that a recipe makes."""
    return [update.name for update, _ in _updates(method, parameters)]


def check_companions(method: Method, parameters: BaseModel, rewards: Iterable[Reward]) -> None:
    """Refuses a reward whose companion nothing trains, and a companion that would learn from itself.

    Raises:
        SelfimpError: naming which.
    """
    updates = _updates(method, parameters)
    trained = {update.name for update, _ in updates}
    asked = {reward.name: reward.method for reward in rewards}
    for name, reward in asked.items():
        if reward.name in NAMES - trained:
            raise SelfimpError(
                f"the reward {name} asks a companion that no update of the recipe trains",
                where="recipe.optimization",
                fix=f"make it a sequence with the update {reward.name}, or leave the reward out",
            )
    for update, chosen in updates:
        if update.name in NAMES and isinstance(chosen, Rewarded):
            heard = chosen.reward or next(n for n, reward in asked.items() if reward.gives & update.takes)
            if asked[heard].name == update.name:
                raise SelfimpError(
                    f"the companion {update.name} would learn from what it says itself",
                    where="recipe.optimization",
                    fix="name another `reward` for it to learn from, such as answer",
                )


def _updates(method: Method, parameters: BaseModel) -> list[tuple[Method, BaseModel]]:
    return parameters.methods if isinstance(parameters, Sequence) else [(method, parameters)]


def check_update(method: Method, parameters: BaseModel, gives: Mapping[str, frozenset[Signal]]) -> None:
    """Refuses an update that the rewards of the recipe do not tell enough.

    `gives` are the rewards of the recipe by name, with what each tells.

    Raises:
        SelfimpError: the reward that it names is not in the recipe, or no reward gives what the update takes.
    """
    wanted = parameters.reward if isinstance(parameters, Rewarded) else None
    if wanted is not None and wanted not in gives:
        raise SelfimpError(
            f"{method.name} is to learn from the reward {wanted}, which is not among the recipe's rewards",
            where="recipe.optimization",
            fix=f"name one of: {', '.join(gives)}; or add {wanted} to recipe.rewards",
        )
    heard = {wanted: gives[wanted]} if wanted is not None else gives
    if method.takes and not any(given & method.takes for given in heard.values()):
        needs = " or ".join(_TELLS[signal] for signal in _TELLS if signal in method.takes)
        told = "; ".join(f"{name}: {_words(given)}" for name, given in heard.items())
        raise SelfimpError(
            f"{method.name} needs a reward that tells {needs}; this recipe has {told}",
            where="recipe.optimization",
            fix="add such a reward to recipe.rewards, or choose another update (docs/optimization.md says "
            "which goes with which)",
        )


def _words(given: frozenset[Signal]) -> str:
    return " and ".join(_TELLS[signal] for signal in _TELLS if signal in given)
