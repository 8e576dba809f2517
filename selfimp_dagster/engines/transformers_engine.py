"""The default engine: transformers models with a generation loop made for many short answers.

What it saves over `generate`: the beginning that the prompts of a batch share is computed once and each
prompt once per group of samples, keys and values are written in place instead of being concatenated,
rows that ended leave the batch, and only the last position ever meets the vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import sdpa_mask

from selfimp_dagster.engines.base import Completion, ContrastiveSampling, Message, Request, Sampling
from selfimp_dagster.engines.chat_tokens import ChatTokens
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.memory import in_halves
from selfimp_dagster.models.hashing import policy_hash
from selfimp_dagster.models.loading import DtypeName, load_model, pick_device, pick_dtype

ATTENTION = "selfimp_grouped_sdpa"
_PREFILL_TOKENS = 4096  # prompt tokens of one forward pass; bounds the memory of long prompts


_LESS = "lower max_new_tokens, shorten the prompts, or use a device with more memory"

_Prompted = tuple[tuple[int, ...], Request]
"""The token ids of a prompt, and the request that asks it."""


@dataclass(frozen=True)
class _Group:
    """Requests with equal messages, and the token ids of their prompt."""

    tokens: tuple[int, ...]
    requests: tuple[Request, ...]


class TransformersEngine:
    """Samples from a causal language model on one device.

    Args:
        folder: a model in safetensors format, with tokenizer and chat template.
        dtype: numbers to compute in; `auto` takes bfloat16 where the device computes it faster.
        device: a torch device; `auto` takes CUDA where there is one.
        batch_size: responses decoded at a time.

    Raises:
        SelfimpError: the folder is not a model, has no chat template, or its attention is not the
            plain full attention this engine computes.
    """

    def __init__(
        self, folder: Path, *, dtype: DtypeName = "auto", device: str = "auto", batch_size: int = 256
    ) -> None:
        self.policy_hash = policy_hash(folder)
        self._batch_size = batch_size
        self._at_a_time = batch_size  # less, once memory did not suffice for so many
        self._device = pick_device(device)
        self._dtype = pick_dtype(dtype, self._device)
        self._chats = ChatTokens(folder)
        name: DtypeName = "bfloat16" if self._dtype == torch.bfloat16 else "float32"
        self._model = load_model(folder, name, self._device)
        self._layers = self._model.config.get_text_config(decoder=True).num_hidden_layers
        self._ends = self._chats.ends(self._model.generation_config)
        self._adopt_attention(folder)

    @property
    def model(self) -> PreTrainedModel:
        """The model that it computes with."""
        return self._model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self._chats.tokenizer

    @property
    def vocabulary(self) -> dict[str, int]:
        """The tokens by what they stand for."""
        return dict(self._chats.tokenizer.get_vocab())

    def describe(self) -> dict[str, Any]:
        """All that can change a score without the weights changing."""
        return {
            "engine": "transformers",
            "torch": version("torch"),
            "transformers": version("transformers"),
            "dtype": str(self._dtype).removeprefix("torch."),
            "device": self._device,
            "batch_size": self._batch_size,
            "padding": "left, longest prompts first",
            "prefix": "common to the batch, prefilled once",
            "attention": ATTENTION,
        }

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        on_tokens: Callable[[int], None] = lambda count: None,
        amateur: "TransformersEngine | None" = None,
    ) -> Iterator[list[Completion]]:
        """Yields the completions of `requests` batch by batch, longest prompts first, each exactly once.

        The end-of-turn token counts as a completion token and its probability is in `sum_logprob`.

        Args:
            requests: those with equal messages share one prefill when adjacent.
            sampling: how tokens are drawn.
            on_tokens: called after each step with the number of tokens just drawn.
            amateur: whose probabilities are held against those of this engine, with a ContrastiveSampling.
        """
        waiting: list[_Prompted] = []
        for messages, members in groupby(requests, key=lambda request: request.messages):
            tokens = self._chats.prompt(messages)
            waiting += [(tokens, request) for request in members]
        waiting.sort(key=lambda prompted: -len(prompted[0]))

        def decoded(part: Sequence[_Prompted]) -> list[Completion]:
            return self._decode(_groups(part), sampling, on_tokens, amateur)

        while waiting:
            batch, waiting = waiting[: self._at_a_time], waiting[self._at_a_time :]
            for part, completions in in_halves(batch, decoded, where="sampling", fix=_LESS):
                if len(part) < len(batch):
                    self._at_a_time = min(self._at_a_time, len(part))
                yield completions

    @torch.inference_mode()
    def logprobs(
        self,
        pairs: Sequence[tuple[tuple[Message, ...], str]],
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> list[list[float]]:
        """The log-probability of each token of a response after its messages, in nats, pair by pair.

        What pairs have in common up to their last token is read once: asking for several one-token answers to
        the same messages costs no more than asking for one.
        """
        found: list[list[float]] = [[] for _ in pairs]
        # What is read, with the pairs that read it and the tokens that they ask for.
        asking: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
        for pair, (messages, response) in enumerate(pairs):
            prompt = self._chats.prompt(messages) if messages else ()
            tokens = self._chats.text(response)
            targets = tokens if prompt else tokens[1:]
            if targets:
                asking.setdefault((*prompt, *tokens)[:-1], []).append((pair, targets))
        sequences = list(asking)

        def read(rows: Sequence[int]) -> None:
            kept = max(len(targets) for row in rows for _, targets in asking[sequences[row]])
            inputs = self._padded([sequences[row] for row in rows])
            logits = self._model(**inputs, use_cache=False, logits_to_keep=kept).logits.float()
            for row, after in zip(rows, logits, strict=True):
                for pair, targets in asking[sequences[row]]:
                    before = after[-len(targets) :]
                    wanted = torch.tensor(targets, device=self._device)
                    chosen = before.gather(1, wanted[:, None])[:, 0] - before.logsumexp(-1)
                    found[pair] = chosen.tolist()

        for batch in _by_length(list(range(len(sequences))), sequences):
            for rows, _ in in_halves(batch, read, where="reading log-probabilities", fix=_LESS):
                on_tokens(sum(len(sequences[row]) for row in rows))
        return found

    @torch.inference_mode()
    def embed(
        self, texts: Sequence[str], on_tokens: Callable[[int], None] = lambda count: None
    ) -> np.ndarray:
        """The mean of the last layer's states over each text's tokens, at unit length: (texts, hidden)."""
        tokens = [self._chats.text(text) for text in texts]
        width = self._model.config.get_text_config(decoder=True).hidden_size
        found = np.zeros((len(texts), width), np.float32)

        def read(rows: Sequence[int]) -> None:
            inputs = self._padded([tokens[row] for row in rows])
            states = self._model.get_decoder()(**inputs, use_cache=False).last_hidden_state.float()
            for row, after in zip(rows, states, strict=True):
                mean = after[-len(tokens[row]) :].mean(0)
                found[row] = (mean / mean.norm()).cpu().numpy()

        for batch in _by_length([row for row, ids in enumerate(tokens) if ids], tokens):
            for rows, _ in in_halves(batch, read, where="embedding", fix=_LESS):
                on_tokens(sum(len(tokens[row]) for row in rows))
        return found

    def prompt_tokens(self, messages: tuple[Message, ...]) -> int:
        """How many tokens the chat has that asks for a response to these messages."""
        return len(self._chats.prompt(messages))

    def _padded(self, sequences: Sequence[tuple[int, ...]]) -> dict[str, torch.Tensor]:
        """What the model is given to read whole sequences, padded on the left."""
        lengths = [len(sequence) for sequence in sequences]
        width = max(lengths)
        padding = width - torch.tensor(lengths, device=self._device)[:, None]
        return {
            "input_ids": torch.tensor(
                [(0,) * (width - len(sequence)) + sequence for sequence in sequences], device=self._device
            ),
            "position_ids": (torch.arange(width, device=self._device)[None] - padding).clamp(min=0),
            "attention_mask": self._causal_mask(lengths, width, 0),
        }

    def _forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: "_RowCache"
    ) -> torch.Tensor:
        """Logits of the last position, shape (rows, vocabulary); appends to the cache.

        Args:
            tokens, positions: shape (rows, new).
            mask: added to the attention scores, shape (rows, 1, new, cached + new).
        """
        output = self._model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    @torch.inference_mode()
    def _prefill_prefix(self, shared: tuple[int, ...]) -> "_RowCache":
        cache = _RowCache(self._layers, rows=1, capacity=len(shared))
        if shared:
            positions = torch.arange(len(shared), device=self._device)[None]
            tokens = torch.tensor([shared], device=self._device)
            self._forward(tokens, positions, self._causal_mask([len(shared)], len(shared), 0), cache)
        return cache

    def _causal_mask(self, lengths: list[int], width: int, before: int) -> torch.Tensor:
        """The mask of left-padded prompts behind `before` cached tokens: (rows, 1, width, before + width)."""
        steps = torch.arange(width, device=self._device)
        padding = width - torch.tensor(lengths, device=self._device)
        hidden = (steps[None, None, :] > steps[None, :, None]) | (
            steps[None, None, :] < padding[:, None, None]
        )
        mask = torch.zeros(len(lengths), 1, width, before + width, dtype=self._dtype, device=self._device)
        mask[..., before:].masked_fill_(hidden[:, None], torch.finfo(self._dtype).min)
        return mask

    @torch.inference_mode()
    def _decode(
        self,
        batch: list[_Group],
        sampling: Sampling,
        on_tokens: Callable[[int], None],
        amateur: "TransformersEngine | None",
    ) -> list[Completion]:
        """The completions of one batch."""
        requests = [request for group in batch for request in group.requests]
        own = _Reading(self, batch, sampling.max_new_tokens)
        other = _Reading(amateur, batch, sampling.max_new_tokens) if amateur else None
        readings = [own, other] if other else [own]
        uniforms = _uniforms(requests, sampling).to(self._device)
        tokens_of: list[list[int]] = [[] for _ in requests]
        logprob_of = [0.0] * len(requests)
        rows = list(range(len(requests)))  # which request each row of the batch is for
        for step in range(sampling.max_new_tokens):
            logits = own.logits.float()
            scores = logits
            if other is not None:
                assert isinstance(sampling, ContrastiveSampling)
                scores = contrast(logits, other.logits.float(), sampling)
            drawn = _draw(scores, uniforms[:, step], sampling)
            logprobs = logits.gather(1, drawn[:, None])[:, 0] - logits.logsumexp(-1)
            on_tokens(len(rows))
            alive = []
            for row, (token, logprob) in enumerate(zip(drawn.tolist(), logprobs.tolist(), strict=True)):
                tokens_of[rows[row]].append(token)
                logprob_of[rows[row]] += logprob
                alive.append(token not in self._ends)
            if step + 1 == sampling.max_new_tokens or not any(alive):
                break
            if not all(alive):
                order = _fill_holes(alive)
                picked = torch.tensor(order, device=self._device)
                drawn, uniforms = drawn[picked], uniforms[picked]
                rows = [rows[row] for row in order]
                for reading in readings:
                    reading.keep(order)
            for reading in readings:
                reading.go_on(drawn)
        prompts = [len(group.tokens) for group in batch for _ in group.requests]
        return [
            self._completion(request, tokens, logprob, prompt)
            for request, tokens, logprob, prompt in zip(requests, tokens_of, logprob_of, prompts, strict=True)
        ]

    def _prefill(
        self, batch: list[_Group], before: int, width: int, prefix: "_RowCache", cache: "_RowCache"
    ) -> torch.Tensor:
        """Fills the cache with each prompt once per request; the logits after the prompts, per request."""
        pieces, filled = [], 0
        prompts_at_a_time = max(1, _PREFILL_TOKENS // width)
        for start in range(0, len(batch), prompts_at_a_time):
            part = batch[start : start + prompts_at_a_time]
            suffixes = [group.tokens[before:] for group in part]
            lengths = [len(suffix) for suffix in suffixes]
            tokens = torch.tensor(
                [(0,) * (width - len(suffix)) + suffix for suffix in suffixes], device=self._device
            )
            steps = torch.arange(width, device=self._device)[None]
            padding = width - torch.tensor(lengths, device=self._device)[:, None]
            positions = before + (steps - padding).clamp(min=0)
            prompts = _RowCache(self._layers, len(part), before + width)
            prompts.fill(0, prefix, [0] * len(part))
            logits = self._forward(tokens, positions, self._causal_mask(lengths, width, before), prompts)
            copies = [index for index, group in enumerate(part) for _ in group.requests]
            cache.fill(filled, prompts, copies)
            pieces.append(logits[torch.tensor(copies, device=self._device)])
            filled += len(copies)
        return torch.cat(pieces)

    def _decode_mask(self, lengths: torch.Tensor, before: int, width: int, capacity: int) -> torch.Tensor:
        """Hides each row's padding while one token at a time is appended: (rows, 1, 1, capacity)."""
        columns = torch.arange(capacity, device=self._device)[None]
        padded = (columns >= before) & (columns < before + width - lengths[:, None])
        mask = torch.zeros(padded.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(padded, torch.finfo(self._dtype).min)[:, None, None]

    def _completion(self, request: Request, tokens: list[int], logprob: float, prompt: int) -> Completion:
        return Completion(
            request_id=request.request_id,
            response=self._chats.decoded(tokens),
            prompt_tokens=prompt,
            completion_tokens=len(tokens),
            sum_logprob=logprob,
            finish_reason="stop" if tokens[-1] in self._ends else "length",
        )

    @torch.inference_mode()
    def _adopt_attention(self, folder: Path) -> None:
        """Switches the model to this engine's attention, once it gave the logits of the model's own."""
        lengths = [5, 9]
        prompts = [[token % self._model.config.vocab_size for token in range(11, 11 + n)] for n in lengths]
        expected = torch.stack(
            [self._model(torch.tensor([ids], device=self._device)).logits[0, -1] for ids in prompts]
        )
        AttentionInterface.register(ATTENTION, _grouped_attention)
        AttentionMaskInterface.register(ATTENTION, sdpa_mask)
        self._model.set_attn_implementation(ATTENTION)
        groups = [_Group(tuple(ids), (Request("", (), 0),)) for ids in prompts]
        actual = self._prefill(
            groups, 0, max(lengths), self._prefill_prefix(()), _RowCache(self._layers, 2, max(lengths))
        )
        config = self._model.config.get_text_config(decoder=True)
        partial = set(getattr(config, "layer_types", None) or []) - {"full_attention"}
        scale = expected.abs().max()
        if partial or (expected - actual).abs().max() > 0.05 * scale:
            raise SelfimpError(
                f"the transformers engine does not compute this architecture ({config.model_type}) rightly",
                where=str(folder),
                fix="use a model with plain full attention (Llama, Qwen, SmolLM, ...), or another engine",
            )


class _Reading:
    """One model's way through a batch: what it has read, and the logits of each row's next token."""

    def __init__(self, engine: TransformersEngine, batch: list[_Group], room: int) -> None:
        shared = _common_prefix([group.tokens for group in batch])
        before = len(shared)
        lengths = [len(group.tokens) - before for group in batch for _ in group.requests]
        width = max(lengths)
        self._engine = engine
        self._cache = _RowCache(engine._layers, len(lengths), before + width + room)
        prefix = engine._prefill_prefix(shared)
        self.logits = engine._prefill(batch, before, width, prefix, self._cache)
        row_lengths = torch.tensor(lengths, device=engine._device)
        self._mask = engine._decode_mask(row_lengths, before, width, self._cache.capacity)
        self._positions = before + row_lengths[:, None]
        self._end = before + width

    def keep(self, order: list[int]) -> None:
        """Makes row `order[i]` the new row i."""
        self._cache.keep(order)
        picked = torch.tensor(order, device=self._engine._device)
        self._positions, self._mask = self._positions[picked], self._mask[picked]

    def go_on(self, tokens: torch.Tensor) -> None:
        """Reads one token of each row, shape (rows,)."""
        self._end += 1
        self.logits = self._engine._forward(
            tokens[:, None].to(self._engine._device),
            self._positions,
            self._mask[..., : self._end],
            self._cache,
        )
        self._positions = self._positions + 1


class _RowLayer(DynamicLayer):
    """Keys and values of one layer in buffers of a fixed capacity, written in place."""

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__()
        self.rows, self.capacity, self.length = rows, capacity, 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        shape = (self.rows, key_states.shape[1], self.capacity)
        self.keys = key_states.new_empty(*shape, key_states.shape[3])
        self.values = value_states.new_empty(*shape, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        self.keys[: self.rows, :, self.length : end] = key_states
        self.values[: self.rows, :, self.length : end] = value_states
        self.length = end
        return self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]

    def get_seq_length(self) -> int:
        return self.length


class _RowCache(Cache):
    """A key-value cache whose rows can be filled from another cache and dropped one by one."""

    def __init__(self, layers: int, rows: int, capacity: int) -> None:
        super().__init__(layers=[_RowLayer(rows, capacity) for _ in range(layers)])
        self.capacity = capacity

    def fill(self, start: int, source: "_RowCache", picked: list[int]) -> None:
        """Copies rows `picked` of `source` to the rows from `start` on."""
        for layer, other in zip(self.layers, source.layers, strict=True):
            if not other.is_initialized:
                continue
            if not layer.is_initialized:
                layer.lazy_initialization(other.keys, other.values)
            index = torch.tensor(picked, device=other.keys.device)
            rows = slice(start, start + len(picked))
            layer.keys[rows, :, : other.length] = other.keys[index, :, : other.length]
            layer.values[rows, :, : other.length] = other.values[index, :, : other.length]
            layer.length = other.length

    def keep(self, order: list[int]) -> None:
        """Makes row `order[i]` the new row i; only rows that change place are copied."""
        moved = [(new, old) for new, old in enumerate(order) if new != old]
        for layer in self.layers:
            layer.rows = len(order)
            if moved:
                new, old = (torch.tensor(side, device=layer.keys.device) for side in zip(*moved, strict=True))
                layer.keys[new, :, : layer.length] = layer.keys[old, :, : layer.length]
                layer.values[new, :, : layer.length] = layer.values[old, :, : layer.length]


def _grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in which the query heads that share a key head become further queries of that head.

    Equal to repeating keys and values, which the stock attention does at every step, without the copy.
    Shapes: query (rows, heads, new, size), key and value (rows, key heads, cached, size), mask
    (rows, 1, new, cached); the result is (rows, new, heads, size).
    """
    rows, heads, new, size = query.shape
    sharing = heads // key.shape[1]
    mask = attention_mask.repeat(1, 1, sharing, 1) if new > 1 else attention_mask
    output = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], sharing * new, size), key, value, attn_mask=mask, scale=scaling
    )
    return output.reshape(rows, heads, new, -1).transpose(1, 2).contiguous(), None


def _common_prefix(prompts: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The tokens that all prompts begin with, leaving at least one token of each."""
    first, last = min(prompts), max(prompts)
    limit = min(len(prompt) for prompt in prompts) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return first[:length]


def _groups(prompted: Sequence[_Prompted]) -> list[_Group]:
    """Neighbours with the same prompt together."""
    return [
        _Group(tokens, tuple(request for _, request in members))
        for tokens, members in groupby(prompted, key=lambda one: one[0])
    ]


def _by_length(rows: list[int], sequences: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """The rows in batches of similar lengths, none with more than _PREFILL_TOKENS, padding counted."""
    batch: list[int] = []
    for row in sorted(rows, key=lambda row: -len(sequences[row])):
        if batch and (len(batch) + 1) * len(sequences[batch[0]]) > _PREFILL_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _fill_holes(alive: list[bool]) -> list[int]:
    """The surviving rows in an order that moves as few as possible: the last ones into the gaps."""
    count = sum(alive)
    late = iter([row for row in range(count, len(alive)) if alive[row]])
    return [row if alive[row] else next(late) for row in range(count)]


def _uniforms(requests: list[Request], sampling: Sampling) -> torch.Tensor:
    """The numbers in [0, 1) that decide each draw, from each request's own seed: (requests, steps)."""
    if sampling.temperature == 0:
        return torch.zeros(len(requests), sampling.max_new_tokens)
    return torch.from_numpy(
        np.stack(
            [
                np.random.default_rng(request.seed).random(sampling.max_new_tokens, dtype=np.float32)
                for request in requests
            ]
        )
    )


def contrast(expert: torch.Tensor, amateur: torch.Tensor, sampling: ContrastiveSampling) -> torch.Tensor:
    """The contrastive score of every token: log p_expert - log p_amateur; -inf where it is not plausible.

    Plausible are tokens with p_expert >= alpha times that of the expert's likeliest (Li et al., equation 2).

    Args:
        expert, amateur: logits, shape (rows, vocabulary).
    """
    likely = expert.log_softmax(-1)
    least = likely.max(-1, keepdim=True).values + math.log(max(sampling.plausibility, 1e-45))
    scores = likely - (amateur / sampling.amateur_temperature).log_softmax(-1).to(likely.device)
    return scores.masked_fill(likely < least, -torch.inf)


def _draw(scores: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """One token per row, shape (rows,).

    Args:
        scores: logits or what takes their place, shape (rows, vocabulary).
        uniforms: shape (rows,), in [0, 1); the token is where the cumulative probability passes it.
        sampling: temperature and nucleus.
    """
    if sampling.temperature == 0:
        return scores.argmax(-1)
    mass = _nucleus((scores / sampling.temperature).softmax(-1), sampling.top_p).cumsum(-1)
    total = mass[:, -1:]
    # Held below the total, or rounding could pick a token beyond the last possible one.
    target = torch.minimum(uniforms[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(mass, target, right=True)[:, 0]


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Zeroes all but the smallest set of likeliest tokens whose mass reaches `top_p`."""
    if top_p >= 1:
        return probabilities
    ordered, index = probabilities.sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    return probabilities.scatter(-1, index, ordered.masked_fill(outside, 0))
