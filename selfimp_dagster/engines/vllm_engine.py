"""vLLM in this process: continuous batching, a cache of what prompts begin with, weights that are swapped.

A start of vLLM takes longer than most batches that a round samples, and the policies of a campaign differ in
their weights alone. So one vLLM is started for a kind of model and a dtype, and is given other weights where
other weights are asked for. Needs vLLM and torch.
"""

import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from transformers import GenerationConfig

from selfimp_dagster.engines.base import Completion, Engine, Message, Request, Sampling
from selfimp_dagster.engines.chat_tokens import ChatTokens
from selfimp_dagster.engines.choice import installed_vllm
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.models.loading import check_model_folder
from selfimp_dagster.records import content_hash

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams

_BLOCK = 32  # tokens; what prompts share is cached in whole blocks, and the kernels for CPUs want this size
_MOST_RUNNING = 2  # in the numerics of sampling and in those of evaluation
_CPU_SHARE = 4  # vLLM's cache takes one part in so many of the memory that is free
_WAITING = 4  # batches of requests that vLLM is given at once, so that it refills what ends
_MOST_ASKED = 128  # tokens whose log-probabilities vLLM tells for one place
_OF_NO_EFFECT = ("transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache")

# vLLM reads these when it is imported. Its engine runs in this process, so it ends with it whatever ends it;
# it leaves the threads of this process as they are, and says and sends nothing unasked.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def model_kind(folder: Path) -> str:
    """What two policies must have in common to be swapped in one vLLM: their configuration, hashed.

    Raises:
        SelfimpError: the folder is not a complete model.
    """
    check_model_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    return content_hash(sorted((name, value) for name, value in config.items() if name not in _OF_NO_EFFECT))


@dataclass(frozen=True)
class VllmSettings:
    """How a vLLM computes, besides its weights.

    Attributes:
        dtype: a torch dtype by name.
        device: cpu or cuda.
        batch_size: responses decoded at a time.
        memory_fraction: share of the GPU's memory that it takes; on a CPU it takes a part of what is free.
    """

    dtype: str
    device: str
    batch_size: int
    memory_fraction: float

    @property
    def eager(self) -> bool:
        """Whether it is not compiled: for a CPU that takes minutes, and came to wrong answers once."""
        return self.device == "cpu"


class RunningVllm:
    """One vLLM with its memory, and one set of weights at a time.

    Args:
        folder: a model in safetensors format, the first that it holds.
        policy_hash: of the folder.
        settings: how it computes.

    Raises:
        SelfimpError: vLLM cannot be started with this model.
    """

    def __init__(self, folder: Path, policy_hash: str, settings: VllmSettings) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import LLM

        memory: dict[str, Any] = {"gpu_memory_utilization": settings.memory_fraction}
        if settings.device == "cpu":
            memory = {"kv_cache_memory_bytes": psutil.virtual_memory().available // _CPU_SHARE}
        set_num_threads = torch.set_num_threads
        try:
            self._llm: LLM = LLM(
                str(folder),
                skip_tokenizer_init=True,
                dtype=settings.dtype,
                enforce_eager=settings.eager,
                max_model_len=-1,  # as long as the model reads and the cache holds
                max_num_seqs=settings.batch_size,
                block_size=_BLOCK,
                enable_prefix_caching=True,
                # For a CPU a prompt is read at once: vLLM's sampler there cannot take back what the seed of a
                # request gave for half a prompt.
                enable_chunked_prefill=settings.device != "cpu",
                generation_config="vllm",
                **memory,
            )
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise SelfimpError(
                f"vLLM does not start with this model: {error}",
                where=str(folder),
                fix="use the engine transformers, or give vLLM more memory",
            ) from error
        finally:
            torch.set_num_threads = set_num_threads  # for a CPU vLLM leaves one without effect in its place
        self._numbers = count()
        self._holds = policy_hash

    @property
    def room(self) -> int:
        """Tokens of the longest prompt and response together."""
        return int(self._llm.llm_engine.model_config.max_model_len)

    def hold(self, folder: Path, policy_hash: str) -> None:
        """Makes these the weights, of the kind that it was started with; what was cached is dropped."""
        if policy_hash == self._holds:
            return
        self._holds = ""  # a reload that fails leaves neither
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self._llm.apply_model(_pack_head)
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM kept the cache of other weights")
        self._holds = policy_hash

    def run(
        self,
        prompts: Sequence[tuple[int, ...]],
        parameters: Sequence["SamplingParams"],
        on_output: Callable[["RequestOutput | None"], None],
    ) -> list["RequestOutput"]:
        """What comes of the prompts, in their order.

        `on_output` is called with each output when it is finished, and with None after a step without any.
        """
        engine = self._llm.llm_engine
        found: dict[str, RequestOutput] = {}
        names = [str(next(self._numbers)) for _ in prompts]
        try:
            for name, prompt, wanted in zip(names, prompts, parameters, strict=True):
                engine.add_request(name, {"prompt_token_ids": list(prompt)}, wanted)
            while engine.has_unfinished_requests():
                outputs = self._step()
                for output in outputs:
                    found[output.request_id] = output
                    on_output(output)
                if not outputs:
                    on_output(None)
        except BaseException:
            close_all()  # nothing that is left of these requests may meet the next ones
            raise
        return [found[name] for name in names]

    def _step(self) -> list["RequestOutput"]:
        try:
            return self._llm.llm_engine.step()
        except RuntimeError as error:
            raise SelfimpError(
                f"vLLM failed in the middle of a batch: {error}",
                where="engine",
                fix="run the step again, it goes on at what is missing; if memory ran out, with a smaller "
                "memory_fraction or batch_size",
            ) from error

    def close(self) -> None:
        """Gives the memory back. The process group that all vLLMs of a process share ends with it."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()


def _pack_head(model: torch.nn.Module) -> None:
    """Packs the output layer again. On a CPU vLLM computes with packed copies of the matrices, and a reload
    leaves the old copy of a layer that has no weights of its own but those of the embedding."""
    head: Any = getattr(model, "lm_head", None)
    if hasattr(head, "cpu_linear"):
        head.quant_method.process_weights_after_loading(head)


_running: dict[tuple[str, VllmSettings], RunningVllm] = {}
"""By kind of model and settings. Of the process, as is the process group that all vLLMs share: each run makes
its engines anew, and finds a warm one here."""


def running_vllm(folder: Path, policy_hash: str, settings: VllmSettings) -> RunningVllm:
    """A vLLM that holds these weights; started, or given them, if there is none.

    Raises:
        SelfimpError: the folder is not a complete model, or vLLM cannot be started with it.
    """
    place = (model_kind(folder), settings)
    if place not in _running:
        if len(_running) >= _MOST_RUNNING:
            close_all()
        _running[place] = RunningVllm(folder, policy_hash, settings)
    _running[place].hold(folder, policy_hash)
    return _running[place]


def close_all() -> None:
    """Ends every vLLM of this process and gives its memory back."""
    while _running:
        _running.popitem()[1].close()


class VllmEngine:
    """Samples from one set of weights with a vLLM that may hold others in the meantime.

    The cache of vLLM computes whole blocks of what prompts share once, the prompt of several samples too.

    Args:
        folder: a model in safetensors format, with tokenizer and chat template.
        policy_hash: of the folder.
        settings: how the vLLM that runs it computes.
        embedder: the engine that embeds with the same weights, since vLLM embeds only with a model that it
            loaded for nothing else.

    Raises:
        SelfimpError: the folder is not a model, or has no chat template.
    """

    def __init__(
        self,
        folder: Path,
        policy_hash: str,
        settings: VllmSettings,
        embedder: Callable[[], Engine],
    ) -> None:
        self.policy_hash = policy_hash
        self._folder, self._settings, self._embedder = folder, settings, embedder
        self._chats = ChatTokens(folder)
        self._ends = self._chats.ends(_generation_config(folder))

    def describe(self) -> dict[str, Any]:
        """All that can change a score without the weights changing."""
        package = str(installed_vllm())
        return {
            "engine": "vllm",
            package: version(package),
            "torch": version("torch"),
            "transformers": version("transformers"),
            "dtype": self._settings.dtype,
            "device": self._settings.device,
            "batch_size": self._settings.batch_size,
            "eager": self._settings.eager,
            "prefix": f"cached in blocks of {_BLOCK}",
            "embeddings": "transformers",
        }

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> Iterator[list[Completion]]:
        """Yields the completions of `requests` some batches at a time, each exactly once.

        The end-of-turn token counts as a completion token and its probability is in `sum_logprob`.
        `on_tokens` is called after each step with the tokens of the responses that it ended.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        most = _WAITING * self._settings.batch_size
        for start in range(0, len(requests), most):
            part = requests[start : start + most]
            prompts = [self._chats.prompt(request.messages) for request in part]
            parameters = [
                SamplingParams(
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=sampling.max_new_tokens,
                    seed=request.seed,
                    stop_token_ids=sorted(self._ends),
                    logprobs=0,  # of the tokens that were drawn, before the temperature
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                for request in part
            ]
            outputs = self._run(
                prompts,
                parameters,
                lambda output: on_tokens(len(output.outputs[0].token_ids) if output else 0),
            )
            yield [
                self._completion(request, len(prompt), output)
                for request, prompt, output in zip(part, prompts, outputs, strict=True)
            ]

    def logprobs(
        self,
        pairs: Sequence[tuple[tuple[Message, ...], str]],
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> list[list[float]]:
        """The log-probability of each token of a response after its messages, in nats, pair by pair.

        What pairs have in common up to their last token is read once.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        found: list[list[float]] = [[] for _ in pairs]
        # What is read, with the pairs that read it and the tokens that they ask for.
        asking: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
        for pair, (messages, response) in enumerate(pairs):
            prompt = self._chats.prompt(messages) if messages else ()
            tokens = self._chats.text(response)
            targets = tokens if prompt else tokens[1:]
            if targets:
                asking.setdefault((*prompt, *tokens)[:-1], []).append((pair, targets))
        reads = [
            (sequence, members[start : start + _MOST_ASKED])
            for sequence, members in asking.items()
            for start in range(0, len(members), _MOST_ASKED)
        ]
        parameters = [
            SamplingParams(
                temperature=0,
                max_tokens=1,
                logprob_token_ids=sorted({targets[-1] for _, targets in members}),
                prompt_logprobs=0 if any(len(targets) > 1 for _, targets in members) else None,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            for _, members in reads
        ]
        outputs = self._run(
            [sequence for sequence, _ in reads],
            parameters,
            lambda output: on_tokens(len(output.prompt_token_ids or ()) if output else 0),
        )
        for (sequence, members), output in zip(reads, outputs, strict=True):
            last = output.outputs[0].logprobs[0]
            for pair, targets in members:
                inner = range(len(sequence) - len(targets) + 1, len(sequence))
                found[pair] = [
                    *(output.prompt_logprobs[place][sequence[place]].logprob for place in inner),
                    last[targets[-1]].logprob,
                ]
        return found

    def embed(
        self, texts: Sequence[str], on_tokens: Callable[[int], None] = lambda count: None
    ) -> np.ndarray:
        """The embeddings that the transformers engine computes with the same weights: (texts, hidden)."""
        return self._embedder().embed(texts, on_tokens)

    def prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """How many tokens the chat has that asks for a response to these messages."""
        return len(self._chats.prompt(messages))

    def _run(
        self,
        prompts: Sequence[tuple[int, ...]],
        parameters: Sequence["SamplingParams"],
        on_output: Callable[["RequestOutput | None"], None],
    ) -> list["RequestOutput"]:
        running = running_vllm(self._folder, self.policy_hash, self._settings)
        longest = max(map(len, prompts), default=0)
        if longest >= running.room:
            raise SelfimpError(
                f"a prompt has {longest} tokens, and vLLM has room for {running.room}, the answer included",
                where=str(self._folder),
                fix="give vLLM more memory, use the engine transformers, or make the prompts shorter",
            )
        return running.run(prompts, parameters, on_output)

    def _completion(self, request: Request, prompt: int, output: "RequestOutput") -> Completion:
        answer = output.outputs[0]
        tokens = list(answer.token_ids)
        return Completion(
            request_id=request.request_id,
            response=self._chats.decoded(tokens),
            prompt_tokens=prompt,
            completion_tokens=len(tokens),
            sum_logprob=answer.cumulative_logprob,
            finish_reason="stop" if tokens[-1] in self._ends else "length",
        )


def _generation_config(folder: Path) -> GenerationConfig:
    """What transformers would generate with."""
    from transformers import AutoConfig

    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return GenerationConfig.from_model_config(config)
