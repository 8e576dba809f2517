"""Scores of responses by a model with a scalar head. Imported when one is asked; needs torch."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging

from selfimp_dagster.engines.base import Message
from selfimp_dagster.models.loading import load_tokenizer, pick_device

_BATCH_TOKENS = 4096  # of one forward pass, padding counted


def load_scored(folder: Path, device: str = "auto") -> PreTrainedModel:
    """The model in `folder` with one scalar output, in float32; without a head there, a new one by the seed.

    Only safetensors are read, and no code of the folder is run.
    """
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a new head is no accident
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            folder,
            num_labels=1,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    finally:
        logging.set_verbosity(verbosity)
    return model.to(pick_device(device)).eval()


class RewardModel:
    """The reward model saved in `folder`, in float32."""

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self._tokenizer = load_tokenizer(folder)
        self._model = load_scored(folder, device)

    @torch.inference_mode()
    def scores(
        self,
        responses: Sequence[tuple[tuple[Message, ...], str]],
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> list[float]:
        """The scalar that the head reads at the end of each chat: unbounded, comparable within a question.

        `on_tokens` is called after each batch with the number of tokens that were read.
        """
        rows = [self._encode(messages, response) for messages, response in responses]
        found = [0.0] * len(rows)
        waiting = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
        while waiting:
            size = max(1, _BATCH_TOKENS // len(rows[waiting[0]]))
            batch, waiting = waiting[:size], waiting[size:]
            width = len(rows[batch[0]])
            pad = self._model.config.get_text_config().pad_token_id
            ids = torch.tensor([rows[row] + [pad] * (width - len(rows[row])) for row in batch])
            mask = torch.tensor([[1] * len(rows[row]) + [0] * (width - len(rows[row])) for row in batch])
            logits = self._model(
                input_ids=ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                use_cache=False,
            ).logits
            for row, score in zip(batch, logits[:, 0].tolist(), strict=True):
                found[row] = score
            on_tokens(int(mask.sum()))
        return found

    def _encode(self, messages: tuple[Message, ...], response: str) -> list[int]:
        chat = [*messages, {"role": "assistant", "content": response}]
        ids: list[int] = self._tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
        return ids
