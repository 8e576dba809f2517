"""Chats and texts as the tokens that a model reads. Needs transformers."""

from pathlib import Path

from transformers import GenerationConfig, PreTrainedTokenizerBase

from selfimp_dagster.engines.base import Message
from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.models.loading import load_tokenizer

_CONTENT = "(the content of this turn)"


class ChatTokens:
    """The tokenizer of a model folder.

    Raises:
        SelfimpError: the folder is not a model, or its tokenizer has no chat template.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder)
        if not self.tokenizer.chat_template:
            raise SelfimpError(
                "the tokenizer has no chat template",
                where=str(folder),
                fix="use an instruction-tuned model, or save a chat template with the tokenizer",
            )

    def ends(self, generation: GenerationConfig) -> set[int]:
        """The tokens that end a turn."""
        ends = generation.eos_token_id
        return {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def prompt(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """The chat that asks for a response to these messages."""
        if "content" not in messages[-1]:
            return self.text(self._opening(messages))
        encoded = self.tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=True
        )
        return tuple(encoded["input_ids"])

    def text(self, text: str) -> tuple[int, ...]:
        """A text by itself, without special tokens around it."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decoded(self, tokens: list[int]) -> str:
        """What tokens say, special ones left out."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def _opening(self, messages: tuple[Message, ...]) -> str:
        """The chat up to where the content of its last turn would begin."""
        filled = [*messages[:-1], {**messages[-1], "content": _CONTENT}]
        whole = self.tokenizer.apply_chat_template(filled, tokenize=False)
        return str(whole).rpartition(_CONTENT)[0]
