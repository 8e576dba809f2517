"""Keeps each set of weights loaded at most once in a process."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from selfimp_dagster.engines.base import Engine, Generator
from selfimp_dagster.engines.choice import EngineChoice, EngineName, choose_engine
from selfimp_dagster.models.loading import DtypeName, pick_device, pick_dtype

if TYPE_CHECKING:
    from selfimp_dagster.engines.adapted import AdaptedEngine
    from selfimp_dagster.engines.transformers_engine import TransformersEngine
    from selfimp_dagster.engines.vllm_engine import VllmEngine

_MOST_LOADED = 4  # incumbent and candidate, each in the sampling and in the evaluation numerics


class EnginePool:
    """Engines by weights and numerics, the least recently used let go first.

    Args:
        dtype: numerics of sampling: `auto`, `float32` or `bfloat16`.
        device: `auto`, or a torch device such as `cpu` or `cuda:0`.
        batch_size: sequences decoded together.
        engine: `auto`, `transformers` or `vllm` (engines/choice.py).
        memory_fraction: the share of a GPU's memory that each of at most two vLLMs takes while it runs.
    """

    def __init__(
        self,
        *,
        dtype: DtypeName = "auto",
        device: str = "auto",
        batch_size: int = 256,
        engine: EngineName = "auto",
        memory_fraction: float = 0.4,
    ) -> None:
        self._dtype, self._device, self._batch_size = dtype, device, batch_size
        self._wanted, self._memory_fraction = engine, memory_fraction
        self._loaded: OrderedDict[tuple[str, str], TransformersEngine] = OrderedDict()
        self._vllm_engines: dict[tuple[str, str], VllmEngine] = {}

    @cached_property
    def choice(self) -> EngineChoice:
        """Which engine samples, and why.

        Raises:
            SelfimpError: vLLM is asked for where it cannot run.
        """
        return choose_engine(self._wanted, self._device)

    def engine(self, folder: Path, policy_hash: str, dtype: DtypeName | None = None) -> Engine:
        """The engine that runs the weights in `folder`, in `dtype` or else in the sampling numerics.

        Raises:
            SelfimpError: the folder does not hold a model, or the engine cannot run it.
        """
        if self.choice.engine == "vllm":
            return self._vllm_engine(folder, policy_hash, dtype)
        return self._loaded_engine(folder, policy_hash, dtype)

    def give_back(self) -> None:
        """Ends every vLLM, whose memory training needs. An engine that is asked again starts it anew."""
        if self.choice.engine == "vllm":
            from selfimp_dagster.engines.vllm_engine import close_all

            close_all()

    def contrastive(self, expert: tuple[Path, str], amateur: tuple[Path, str]) -> Generator:
        """An engine that holds an amateur's weights against an expert's, each a folder and its policy hash.

        Raises:
            SelfimpError: a folder does not hold a model, or the two do not have the same tokens.
        """
        from selfimp_dagster.engines.contrastive import ContrastiveEngine

        return ContrastiveEngine(self._loaded_engine(*expert), self._loaded_engine(*amateur))

    @contextmanager
    def adapted(
        self,
        folder: Path,
        policy_hash: str,
        *,
        rank: int,
        learning_rate: float,
        seed: int,
        on_tokens: Callable[[int], None],
    ) -> Iterator["AdaptedEngine"]:
        """The engine of these weights with an adapter on them, as long as the context lasts.

        Raises:
            SelfimpError: the folder does not hold a model, or the weights are not what they were at the end;
                the engine is let go then.
        """
        from selfimp_dagster.engines.adapted import adapted

        engine = self._loaded_engine(folder, policy_hash)
        whole = False
        try:
            with adapted(
                engine, rank=rank, learning_rate=learning_rate, seed=seed, on_tokens=on_tokens
            ) as with_adapter:
                yield with_adapter
            whole = True
        finally:
            if not whole:  # whatever ended it, nobody meets these weights again
                self._loaded = OrderedDict(
                    (key, loaded) for key, loaded in self._loaded.items() if loaded is not engine
                )

    def _vllm_engine(self, folder: Path, policy_hash: str, dtype: DtypeName | None) -> "VllmEngine":
        from selfimp_dagster.engines.vllm_engine import VllmEngine, VllmSettings

        device = pick_device(self._device)
        settings = VllmSettings(
            dtype=str(pick_dtype(dtype or self._dtype, device)).removeprefix("torch."),
            device=device,
            batch_size=self._batch_size,
            memory_fraction=self._memory_fraction,
        )
        key = (policy_hash, settings.dtype)
        if key not in self._vllm_engines:
            self._vllm_engines[key] = VllmEngine(
                folder,
                policy_hash,
                settings,
                embedder=lambda: self._loaded_engine(folder, policy_hash, dtype),
            )
        return self._vllm_engines[key]

    def _loaded_engine(
        self, folder: Path, policy_hash: str, dtype: DtypeName | None = None
    ) -> "TransformersEngine":
        from selfimp_dagster.engines.transformers_engine import TransformersEngine

        numerics = pick_dtype(dtype or self._dtype, pick_device(self._device))
        key = (policy_hash, str(numerics))
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        while len(self._loaded) >= _MOST_LOADED:
            self._loaded.popitem(last=False)
        engine = TransformersEngine(
            folder, dtype=dtype or self._dtype, device=self._device, batch_size=self._batch_size
        )
        self._loaded[key] = engine
        return engine
