"""A campaign: one improvement effort, written as one YAML file.

Unknown fields are refused, every method that a recipe names must exist and fit, and what is
refused is refused when the file is read, with the field's name.
"""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from selfimp_dagster import environments  # noqa: F401  registers
from selfimp_dagster.engines.base import Message
from selfimp_dagster.environments.protocol import (
    Bounds,
    EnvironmentKind,
    all_environments,
    find_environment,
)
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle import (  # noqa: F401  registers
    acquisition,
    curriculum,
    optimization,
    refinement,
    rewards,
    selection,
)
from selfimp_dagster.lifecycle.acquisition.admission import Synthetic
from selfimp_dagster.lifecycle.acquisition.fit import check_acquisition
from selfimp_dagster.lifecycle.companions import NAMES
from selfimp_dagster.lifecycle.evaluation.continuation import Continuation
from selfimp_dagster.lifecycle.evaluation.monitors.rule import MonitorRule
from selfimp_dagster.lifecycle.evaluation.promotion import PromotionRule, check_guard, check_power
from selfimp_dagster.lifecycle.evaluation.steering import Steering
from selfimp_dagster.lifecycle.evolution.settings import Evolution
from selfimp_dagster.lifecycle.evolution.space import check_field
from selfimp_dagster.lifecycle.optimization.fit import (
    check_companions,
    check_recipe_updates,
    update_names,
)
from selfimp_dagster.lifecycle.rewards.answer import ANSWER
from selfimp_dagster.lifecycle.rewards.judging import Reward, check_rewards
from selfimp_dagster.lifecycle.rewards.parameters import JudgeParameters, NamedParameters
from selfimp_dagster.lifecycle.rewards.sources import BaseWeights, NamedWeights
from selfimp_dagster.lifecycle.selection.chain import SelectionStep, check_chain
from selfimp_dagster.models.source import parse_source
from selfimp_dagster.presets import FIELD, all_presets, expanded, joined, merged
from selfimp_dagster.registry import CHAINS, PLACES, PROVIDED, Method, Stage, all_methods, find_method
from selfimp_dagster.round_key import CAMPAIGN_PATTERN
from selfimp_dagster.tasks.pools import Pools, check_disjoint, quotas
from selfimp_dagster.tasks.suites import TaskSource
from selfimp_dagster.tasks.suites import check as check_source
from selfimp_dagster.tasks.wordings import wordings

SUFFIX = ".yaml"

Matter = Literal["promotion", "recipe", "alarm"]
"""What a campaign can have people decide on."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MethodChoice(BaseModel):
    """A method of the registry by name, with its parameters beside the name."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})

    def with_parameters(self, overrides: Mapping[str, Any]) -> "MethodChoice":
        """The same method with some parameters replaced, those of nested models field by field."""
        return MethodChoice(method=self.method, **merged(self.parameters, overrides))

    def resolve(self, stage: Stage) -> tuple[Method, BaseModel]:
        """The method and its validated parameters.

        Raises:
            SelfimpError: there is no such method.
            ValidationError: a parameter is unknown or of the wrong type.
        """
        method = find_method(stage, self.method)
        return method, method.parameters.model_validate(self.parameters)


class Recipe(_Strict):
    """Which method each stage uses."""

    curriculum: MethodChoice | None = Field(
        default=None,
        description="What chooses the train tasks of a round, from what earlier rounds saw. None: they are "
        "drawn by the weights of the skills.",
    )
    acquisition: MethodChoice
    synthetic: Synthetic = Field(
        default=Synthetic(),
        description="How much of a round's tasks models may have written: how deep, beside how much that is "
        "real.",
    )
    rewards: tuple[MethodChoice, ...] = Field(
        default=(MethodChoice(method=ANSWER),),
        min_length=1,
        description="What judges the samples, in this order. Selection and optimization see these rewards "
        "alone; the first says which refined outputs are accepted.",
    )
    selection: tuple[MethodChoice, ...]
    optimization: MethodChoice
    refinement: MethodChoice
    minimum_rows: int = Field(default=8, ge=1, description="Selected rows without which nothing is trained.")

    @model_validator(mode="before")
    @classmethod
    def _preset_is_written_out(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        try:
            return expanded(data)
        except SelfimpError as error:
            raise ValueError(f"{error.what}; {error.fix}") from error

    @model_validator(mode="after")
    def _methods_fit(self) -> "Recipe":
        for place, stage, choice in self.choices():
            try:
                method, _ = choice.resolve(stage)
                missing = sorted(method.needs - PROVIDED)
                if missing:
                    raise ValueError(
                        f"{place}: {method.name} needs {', '.join(missing)}, which no suite or engine gives"
                    )
            except ValidationError as error:
                raise ValueError(f"{place}: {_flat(error)}") from error
            except SelfimpError as error:
                raise ValueError(f"{place}: {error.what}; {error.fix}") from error
        try:
            check_rewards(self.resolved_rewards)
            check_chain(self.selection_steps)
        except SelfimpError as error:
            raise ValueError(f"{error.where.removeprefix('recipe.')}: {error.what}; {error.fix}") from error
        try:
            check_acquisition(*self.acquisition.resolve("acquisition"), self.resolved_rewards, self.synthetic)
        except SelfimpError as error:
            raise ValueError(f"acquisition: {error.what}; {error.fix}") from error
        try:
            gives = {reward.name: reward.method.gives for reward in self.resolved_rewards}
            check_recipe_updates(*self.optimization.resolve("optimization"), gives)
            check_companions(*self.optimization.resolve("optimization"), self.resolved_rewards)
        except SelfimpError as error:
            raise ValueError(f"optimization: {error.what}; {error.fix}") from error
        return self

    @property
    def resolved_rewards(self) -> list[Reward]:
        """The rewards, ready to judge."""
        return [Reward(*choice.resolve("reward")) for choice in self.rewards]

    @property
    def companions(self) -> frozenset[str]:
        """The companions that the rewards of the recipe ask or its updates train."""
        asked = {reward.method.name for reward in self.resolved_rewards}
        return NAMES & (asked | set(update_names(*self.optimization.resolve("optimization"))))

    @property
    def selection_steps(self) -> list[SelectionStep]:
        """The chain, ready to run."""
        return [SelectionStep(*choice.resolve("selection")) for choice in self.selection]

    @property
    def needs(self) -> frozenset[str]:
        """What its methods need of tasks, engine and policy (see `registry.PROVIDED`)."""
        return frozenset[str]().union(*(find_method(stage, c.method).needs for _, stage, c in self.choices()))

    def joined_changes(self, changes: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
        """Changes to this recipe as one, the further ones over the others (see `presets.joined`).

        A preset begins anew: where the further changes name one, the others are forgotten.

        Raises:
            SelfimpError: there is no such preset.
        """
        return dict(further) if FIELD in further else joined(changes, further, self._methods(changes))

    def changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """This recipe as plain data with these changes; where they name a preset, that with the others.

        Raises:
            SelfimpError: there is no such preset.
        """
        if FIELD in changes:
            return expanded(changes)
        return joined(self.model_dump(mode="json"), changes, {})

    def _methods(self, changes: Mapping[str, Any]) -> dict[str, str]:
        """The method of each stage that has one, in this recipe or in the preset that the changes name."""
        plain = expanded({FIELD: changes[FIELD]}) if FIELD in changes else self.model_dump(mode="json")
        choices = {stage: choice for stage, choice in plain.items() if isinstance(choice, Mapping)}
        return {stage: choice["method"] for stage, choice in choices.items() if "method" in choice}

    def choices(self) -> list[tuple[str, Stage, MethodChoice]]:
        """Every choice with its place in the file and its stage."""

        def chain(stage: Stage, choices: tuple[MethodChoice, ...]) -> list[tuple[str, Stage, MethodChoice]]:
            return [(f"{PLACES[stage]}.{position}", stage, choice) for position, choice in enumerate(choices)]

        optional = [self.curriculum] if self.curriculum else []
        return [
            *(("curriculum", "curriculum", choice) for choice in optional),
            ("acquisition", "acquisition", self.acquisition),
            *chain("reward", self.rewards),
            *chain("selection", self.selection),
            ("optimization", "optimization", self.optimization),
            ("refinement", "refinement", self.refinement),
        ]


class EnvironmentChoice(BaseModel):
    """An environment by name and how many episodes of it are played, with its parameters beside them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    environment: str
    episodes: int = Field(ge=1, description="Episodes that each arm plays in every round.")

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__ or {})

    def resolve(self) -> tuple[EnvironmentKind, Bounds]:
        """The environment and its validated parameters.

        Raises:
            SelfimpError: there is no such environment.
            ValidationError: a parameter is unknown or of the wrong type.
        """
        kind = find_environment(self.environment)
        return kind, kind.parameters.model_validate(self.parameters)


class EvaluationPlan(_Strict):
    """How answers are measured. What can move a score is part of the harness fingerprint."""

    max_new_tokens: int = Field(default=16, ge=1, description="Tokens after which an answer is cut off.")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Numerics of the evaluation; the same weights score differently in another dtype.",
    )
    rewordings: int = Field(
        default=2,
        ge=0,
        le=3,
        description="Other wordings in which some anchor items are asked, to measure consistency; "
        "they do not enter the promotion test.",
    )
    reworded_items: int = Field(
        default=24, ge=0, description="Anchor items that are asked in other wordings."
    )
    twins: int = Field(
        default=48,
        ge=0,
        description="Anchor items, others each round, that are also asked as twins, with other numbers, "
        "names, order or words: memorised items stand out.",
    )
    environments: tuple[EnvironmentChoice, ...] = Field(
        default=(),
        description="Environments in which both arms play; they do not enter the promotion test.",
    )

    @model_validator(mode="after")
    def _environments_fit(self) -> "EvaluationPlan":
        found: list[tuple[str, Bounds]] = []
        for place, choice in enumerate(self.environments):
            try:
                kind, parameters = choice.resolve()
            except ValidationError as error:
                raise ValueError(f"environments.{place}: {_flat(error)}") from error
            except SelfimpError as error:
                raise ValueError(f"environments.{place}: {error.what}; {error.fix}") from error
            if (kind.name, parameters) in found:
                raise ValueError(
                    f"environments.{place}: the same as environments.{found.index((kind.name, parameters))}; "
                    "play more episodes of one instead"
                )
            found.append((kind.name, parameters))
        return self


class Nightly(_Strict):
    """What the schedule `nightly_round` may spend on this campaign in one night."""

    rounds: int = Field(default=1, ge=1, description="Rounds that one night may run at most.")


class Approval(_Strict):
    """What a person has to approve before it counts."""

    before: tuple[Matter, ...] = Field(
        default=(),
        description="promotion: before a candidate becomes the incumbent; recipe: before a recipe that no "
        "earlier round of the line used; alarm: before going on after a hard alarm.",
    )


class Campaign(_Strict):
    """One improvement effort: base model, task suites, recipe, promotion rule, budget."""

    name: Annotated[str, Field(pattern=f"^{CAMPAIGN_PATTERN}$")]
    description: str = ""
    model: str = Field(
        default="embedded:smollm2-135m-instruct",
        description="embedded:<name>, scratch:<name>, a local folder, or <hub id>@<40-digit revision>.",
    )
    seed: int = 0
    instruction: str = Field(default="", description="Put under every prompt, on a line of its own.")
    skills: dict[str, TaskSource] = Field(min_length=1, description="What is to be improved.")
    guard: dict[str, TaskSource] = Field(default_factory=dict, description="What must not get worse.")
    pools: Pools
    recipe: Recipe
    evaluation: EvaluationPlan = EvaluationPlan()
    promotion: PromotionRule = PromotionRule()
    monitors: MonitorRule = MonitorRule()
    continuation: Continuation
    steering: Steering | None = Field(
        default=Steering(), description="What evaluation tells the stages of the next round; null: nothing."
    )
    strategies: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Further recipes by name, each as what it changes in the recipe; steering chooses.",
    )
    evolution: Evolution | None = Field(
        default=None, description="The typed space of recipes that `selfimp evolve` searches."
    )
    nightly: Nightly | None = None
    approval: Approval = Approval()

    @field_validator("skills", "guard")
    @classmethod
    def _skill_names(cls, sources: dict[str, TaskSource]) -> dict[str, TaskSource]:
        for name in sources:
            if not name.replace("_", "").isalnum():
                raise ValueError(f"{name!r}: a skill's name is made of letters, digits and underscores")
        return sources

    @property
    def skill_weights(self) -> dict[str, float]:
        """Each skill's share of the campaign's mix; they add up to 1."""
        total = sum(source.weight for source in self.skills.values())
        return {skill: source.weight / total for skill, source in self.skills.items()}

    def with_recipe(self, changes: Mapping[str, Any], where: str) -> "Campaign":
        """The same campaign with a recipe in which these fields are changed (see `Recipe.changed`).

        Raises:
            SelfimpError: the changed recipe is none, naming every field that is wrong.
        """
        changed = self.model_dump(mode="json") | {"recipe": self.recipe.changed(changes)}
        try:
            return Campaign.model_validate(changed)
        except ValidationError as error:
            raise SelfimpError(
                _flat(error),
                where=where,
                fix="correct the fields named, `rewards` and `selection` are given whole; `selfimp methods` "
                "lists methods and parameters",
            ) from error

    @property
    def tested_items(self) -> int:
        """Items that enter the promotion test of a round."""
        return sum(getattr(self.pools, suite) for suite in set(self.promotion.suites))

    @property
    def guard_items(self) -> dict[str, int]:
        """Items of each guard skill, as far as its source has so many."""
        weights = {skill: source.weight for skill, source in self.guard.items()}
        return quotas(weights, self.pools.guard) if weights else {}

    def messages(self, prompt: str) -> tuple[Message, ...]:
        """The chat that asks a prompt: the same for acquisition, refinement and evaluation."""
        content = f"{prompt}\n{self.instruction}" if self.instruction else prompt
        return ({"role": "user", "content": content},)

    def reworded(self, prompt: str) -> dict[str, tuple[Message, ...]]:
        """The chats that ask a prompt in other words, by wording: as many as `evaluation.rewordings`."""
        others = islice(wordings(prompt, self.instruction).items(), self.evaluation.rewordings)
        return {wording: ({"role": "user", "content": content},) for wording, content in others}


def load_campaign(path: Path) -> Campaign:
    """Reads, validates and checks a campaign file against the task suites and the promotion rule.

    Raises:
        SelfimpError: the file is missing, is not YAML, or does not describe a campaign that can run.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SelfimpError(
            f"cannot read the campaign: {reason}",
            where=str(path),
            fix="name a campaign file, or make one with `selfimp init`",
        ) from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SelfimpError(
            f"not valid YAML: {getattr(error, 'problem', error)}",
            where=f"{path}{line}",
            fix="correct the indentation or quoting there",
        ) from error
    campaign = parse_campaign(data, where=str(path))
    if campaign.name != path.stem:
        raise SelfimpError(
            f"the campaign is named {campaign.name!r}, its file {path.name!r}",
            where=f"{path}: name",
            fix=f"name the file {campaign.name}{SUFFIX} or the campaign {path.stem!r}",
        )
    for field, sources in (("skills", campaign.skills), ("guard", campaign.guard)):
        for skill, source in sources.items():
            check_source(source, f"{path}: {field}.{skill}", path.parent)
    check_disjoint(campaign.skills, campaign.guard, path.parent)
    check_judges(campaign, where=str(path))
    return campaign


def parse_campaign(data: Any, where: str) -> Campaign:
    """A campaign from plain data.

    Raises:
        SelfimpError: naming every field that is wrong.
    """
    if not isinstance(data, dict):
        raise SelfimpError(
            "not a campaign", where=where, fix="write `name:`, `skills:`, `pools:`, `recipe:`, ..."
        )
    try:
        campaign = Campaign.model_validate(data)
    except ValidationError as error:
        raise SelfimpError(
            _flat(error),
            where=where,
            fix="correct the fields named; `selfimp methods` lists methods and parameters",
        ) from error
    check_power(campaign.promotion, campaign.tested_items, campaign.continuation)
    check_guard(campaign.promotion, campaign.guard_items)
    for field in campaign.evolution.space if campaign.evolution else ():
        check_field(field, dict.fromkeys((FIELD, *Recipe.model_fields)))
    for name, changes in campaign.strategies.items():
        campaign.with_recipe(changes, where=f"{where}: strategies.{name}")
    return campaign


def check_judges(campaign: Campaign, where: str) -> None:
    """Refuses judges that do not exist, and rewards of which the first round would hear nothing.

    Raises:
        SelfimpError: a judge's model is none, or all rewards come from the base model, which in the first
            round is the policy itself.
    """
    for position, reward in enumerate(campaign.recipe.resolved_rewards):
        parameters = reward.parameters
        source = parameters.judge if isinstance(parameters, JudgeParameters) else None
        if isinstance(source, NamedWeights):
            try:
                parse_source(source.model)
            except SelfimpError as error:
                place = f"{where}: recipe.rewards.{position}.judge.model"
                raise SelfimpError(f"{source.model}: {error.what}", where=place, fix=error.fix) from error
    own = [reward for reward in campaign.recipe.resolved_rewards if not _is_made_of_others(reward.parameters)]
    if all(_silent_at_first(reward, campaign.model) for reward in own):
        raise SelfimpError(
            "only the base model judges, and in the first round it would judge its own samples, which nobody "
            "does: there would be no reward"
            if not any(reward.method.name in NAMES for reward in own)
            else "in the first round, which has no companion yet, no reward would say anything",
            where=f"{where}: recipe.rewards",
            fix="add another reward, such as answer, or choose another judge",
        )


def _is_made_of_others(parameters: BaseModel) -> bool:
    return isinstance(parameters, NamedParameters) and bool(parameters.made_of)


def _silent_at_first(reward: Reward, model: str) -> bool:
    """Whether a reward says nothing of the corpus of a first round."""
    return reward.method.name in NAMES or _is_base(reward.parameters, model)


def _is_base(parameters: BaseModel, model: str) -> bool:
    if not isinstance(parameters, JudgeParameters) or parameters.own_samples:
        return False
    source = parameters.judge
    return isinstance(source, BaseWeights) or (isinstance(source, NamedWeights) and source.model == model)


def campaign_schema() -> dict[str, Any]:
    """The JSON schema of a campaign file, with every method's parameters, for editors."""
    schema = Campaign.model_json_schema()
    definitions = schema["$defs"]
    del definitions["MethodChoice"]
    choices: dict[Stage, list[dict[str, Any]]] = {}
    for method in all_methods():
        parameters = method.parameters.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(parameters.pop("$defs", {}))
        parameters["properties"] = {"method": {"const": method.name}, **parameters.get("properties", {})}
        parameters["required"] = ["method", *parameters.get("required", [])]
        parameters["description"] = method.summary
        choices.setdefault(method.stage, []).append(parameters)
    del definitions["EnvironmentChoice"]
    definitions["environment"] = {"oneOf": [_environment_schema(kind) for kind in all_environments()]}
    definitions["EvaluationPlan"]["properties"]["environments"]["items"] = {"$ref": "#/$defs/environment"}
    recipe = definitions["Recipe"]["properties"]
    for stage, options in choices.items():
        definitions[stage] = {"oneOf": options}
        reference = {"$ref": f"#/$defs/{stage}"}
        field = recipe[PLACES[stage]]
        if stage in CHAINS:
            recipe[PLACES[stage]] = field | {"type": "array", "items": reference}
        elif "anyOf" in field:
            recipe[PLACES[stage]] = field | {"anyOf": [reference, {"type": "null"}]}
        else:
            recipe[PLACES[stage]] = reference
    definitions["preset"] = _preset_schema(definitions["Recipe"])
    schema["properties"]["recipe"] = {"anyOf": [{"$ref": "#/$defs/Recipe"}, {"$ref": "#/$defs/preset"}]}
    return schema


def _preset_schema(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe that names a preset: it may leave fields out, and in a choice the method."""
    over = {"type": "object", "not": {"required": ["method"]}}
    fields = {
        name: {"anyOf": [field, over]} if name in PLACES.values() and name not in _LISTS else field
        for name, field in recipe["properties"].items()
    }
    names = {"enum": list(all_presets()), "description": "A published method; other fields change it."}
    return {
        "type": "object",
        "properties": {FIELD: names, **fields},
        "required": [FIELD],
        "additionalProperties": False,
    }


def _environment_schema(kind: EnvironmentKind) -> dict[str, Any]:
    parameters = kind.parameters.model_json_schema()
    episodes = EnvironmentChoice.model_json_schema()["properties"]["episodes"]
    parameters["properties"] = {
        "environment": {"const": kind.name},
        "episodes": episodes,
        **parameters["properties"],
    }
    parameters["required"] = ["environment", "episodes"]
    parameters["description"] = kind.summary
    return parameters


def _flat(error: ValidationError) -> str:
    """Every problem of a validation error as `field: what`, on one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'value'}: "
        f"{problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors()
    )


def changes_text(changes: Mapping[str, Any]) -> str:
    """Changes of a recipe on one line: `optimization.learning_rate=5e-05, minimum_rows=16`."""
    return ", ".join(f"{field}={value}" for field, value in _fields(changes))


_LISTS = {PLACES[stage] for stage in CHAINS}


def _fields(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{name}.")
        elif name in _LISTS:
            yield name, " > ".join(_step(choice) for choice in value)
        else:
            yield f"{prefix}{name}", value


def _step(choice: Mapping[str, Any]) -> str:
    parameters = ", ".join(f"{name}={value}" for name, value in choice.items() if name != "method")
    return f"{choice['method']}({parameters})" if parameters else choice["method"]
