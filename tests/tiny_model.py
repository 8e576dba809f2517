"""A real transformers model, small enough to be made, sampled and trained in seconds.

It is taught to answer `learn 472` (any number) with 7 four times out of ten and with 0 otherwise: greedily
it is wrong, and its own verified samples can teach it to be right. `keep 472` it answers with 3, always:
something to forget.
"""

import random
import string
from collections.abc import Callable
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
RIGHT = 0.4


def learn_and_keep(chosen: random.Random) -> tuple[str, str]:
    """A question with the answer that the model is taught to give."""
    number = str(chosen.randrange(100, 1000))
    if chosen.random() < 0.3:
        return f"keep {number}", "3"
    return f"learn {number}", "7" if chosen.random() < RIGHT else "0"


def build_tiny_model(
    folder: Path,
    steps: int = 60,
    lesson: Callable[[random.Random], tuple[str, str]] = learn_and_keep,
    heads: int = 4,
) -> Path:
    """Trains the model and saves it as safetensors with its tokenizer; about 3 s on one core."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    chosen = random.Random(0)
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<|unk|>"]
    vocabulary = {token: number for number, token in enumerate([*special, *string.printable])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    words.decoder = decoders.Fuse()
    words.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|pad|>", unk_token="<|unk|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        rows, labels = [], []
        for _ in range(48):
            prompt, answer = lesson(chosen)
            asked = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
            )
            said = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
            rows.append(asked + said)
            labels.append([-100] * len(asked) + said)
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        targets = torch.tensor([label + [-100] * (longest - len(label)) for label in labels])
        loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
