"""Decoding with two sets of weights: what the expert finds likelier than the amateur does. Needs torch."""

from collections.abc import Callable, Iterator, Sequence

from selfimp_dagster.engines.base import Completion, ContrastiveSampling, Request, Sampling
from selfimp_dagster.engines.transformers_engine import TransformersEngine
from selfimp_dagster.errors import SelfimpError


class ContrastiveEngine:
    """Samples by the contrastive score of two models with one tokenizer (arXiv:2210.15097).

    Completions have the log-probabilities of the expert. Each token is read by both models.

    Raises:
        SelfimpError: the models do not have the same tokens.
    """

    def __init__(self, expert: TransformersEngine, amateur: TransformersEngine) -> None:
        if expert.vocabulary != amateur.vocabulary:
            raise SelfimpError(
                "expert and amateur do not have the same tokens",
                where="recipe.refinement",
                fix="choose an amateur of the same family as the candidate",
            )
        self._expert, self._amateur = expert, amateur
        self.policy_hash = expert.policy_hash

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Completion]]:
        """As `Engine.generate`, with a ContrastiveSampling that names this amateur."""
        assert isinstance(sampling, ContrastiveSampling)
        assert sampling.amateur == self._amateur.policy_hash
        return self._expert.generate(requests, sampling, on_tokens, self._amateur)
