"""Several sources of tasks in one round (survey 2): real ones beside those that models write."""

from dataclasses import replace
from typing import Any, Self

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.lifecycle.acquisition.corpus import AcquisitionContext, Corpus, without
from selfimp_dagster.lifecycle.acquisition.proposals import Fault
from selfimp_dagster.lifecycle.acquisition.reasons import Reason
from selfimp_dagster.records import derive_seed
from selfimp_dagster.registry import Method, find_method, method
from selfimp_dagster.tasks.pools import prompt_key, quotas

MIXTURE = "mixture"


class Mixture(BaseModel):
    """Parameters of `mixture`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[dict[str, Any], ...] = Field(
        default=({"method": "policy_sampling"}, {"method": "self_instruct"}),
        min_length=2,
        description="Methods of acquisition, each with its parameters beside its name.",
    )
    shares: tuple[PositiveFloat, ...] | None = Field(
        default=None,
        description="What each source has of the round's tasks, relative to the others. None: all the same.",
    )

    @model_validator(mode="after")
    def _sources_are_methods(self) -> Self:
        for position, source in enumerate(self.sources):
            if source.get("method") == MIXTURE:
                raise ValueError(f"sources.{position}: a mixture does not hold another")
            try:
                _resolve(source)
            except SelfimpError as error:
                raise ValueError(f"sources.{position}: {error.what}; {error.fix}") from error
            except ValidationError as error:
                problem = error.errors()[0]
                field = ".".join(map(str, problem["loc"]))
                raise ValueError(f"sources.{position}: {field}: {problem['msg']}") from error
        if self.shares is not None and len(self.shares) != len(self.sources):
            raise ValueError(f"{len(self.shares)} shares for {len(self.sources)} sources")
        return self

    @classmethod
    def model_json_schema(cls, *arguments: Any, **named: Any) -> dict[str, Any]:
        """The schema, in which each source is a method of acquisition (campaign.campaign_schema)."""
        schema = super().model_json_schema(*arguments, **named)
        schema["properties"]["sources"]["items"] = {"$ref": "#/$defs/acquisition"}
        return schema

    @property
    def methods(self) -> list[tuple[Method, BaseModel]]:
        """The sources, ready to run."""
        return [_resolve(source) for source in self.sources]

    def sizes(self, size: int) -> list[int]:
        """How many of so many tasks each source has."""
        shares = self.shares or (1.0,) * len(self.sources)
        places = quotas({f"{position:04d}": share for position, share in enumerate(shares)}, size)
        return [places[f"{position:04d}"] for position in range(len(shares))]


@method("acquisition", MIXTURE, parameters=Mixture, section="2", paper="arXiv:2404.01413")
def mixture(context: AcquisitionContext, parameters: Mixture) -> Corpus:
    """Tasks of several sources beside each other, each with a share of the round's tasks.

    In: what each source takes, and its part of the tasks; out: all that they return. What a later source asks
    as an earlier one does is known and set aside. That tasks of models are added to real ones and do not
    replace them is what Gerstgrasser et al. (arXiv:2404.01413) call accumulating; the recipe's `synthetic`
    holds the share of the real ones.
    """
    corpora: list[Corpus] = []
    asked: dict[str, str] = {}
    for position, ((source, chosen), size) in enumerate(
        zip(parameters.methods, parameters.sizes(context.size), strict=True)
    ):
        if size == 0:
            continue
        seed = context.seed if position == 0 else derive_seed(context.seed, MIXTURE, position)
        corpus: Corpus = source.function(replace(context, size=size, seed=seed), chosen)
        keys = {
            id_: prompt_key(prompt) for id_, prompt in corpus.tasks.select("task_id", "prompt").iter_rows()
        }
        again: dict[str, Fault] = {
            id_: (Reason.KNOWN, f"as task {asked[key]} of an earlier source")
            for id_, key in keys.items()
            if asked.get(key, id_) != id_
        }
        corpora.append(without(corpus, again))
        asked = {key: id_ for id_, key in keys.items()} | asked
    return joined(corpora)


def joined(corpora: list[Corpus]) -> Corpus:
    """Corpora as one; a row that several have is there once."""

    def together(name: str, key: str) -> pl.DataFrame:
        rows = pl.concat([getattr(corpus, name) for corpus in corpora])
        return rows.unique(key, keep="first", maintain_order=True)

    return Corpus(
        tasks=together("tasks", "task_id"),
        samples=together("samples", "sample_id"),
        proposals=together("proposals", "proposal_id"),
        drafts=together("drafts", "sample_id"),
        documents=together("documents", "document_id"),
    )


def _resolve(source: dict[str, Any]) -> tuple[Method, BaseModel]:
    found = find_method("acquisition", str(source.get("method")))
    parameters = {name: value for name, value in source.items() if name != "method"}
    return found, found.parameters.model_validate(parameters)
