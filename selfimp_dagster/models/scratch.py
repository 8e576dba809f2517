"""A small transformer that knows nothing yet: characters for tokens, weights drawn from a seed.

Two digits that stand together are one token, a column of a sum (tasks/strings.py).
"""

import os
import shutil
import tempfile
from pathlib import Path

from selfimp_dagster.tasks.strings import COLUMNS, LETTERS, SIGNS

SCRATCH_NAME = "characters"

WIDTH, LAYERS, HEADS = 64, 4, 4
_SPREAD = 0.1  # of the first weights; at the usual 0.02 a model this small learns several times more slowly
_LONGEST = 256
_PAD, _END, _ASKED = "<pad>", "<end>", "="

# A prompt, an equals sign, the answer, the end: nothing else is worth a token of a model this small.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] + '=' }}"
    "{% else %}{{ message['content'] + '<end>' }}{% endif %}{% endfor %}"
)


def scratch_model(cache: Path, seed: int = 0) -> Path:
    """The folder of the model, made on first use; the same bytes for the same seed and versions.

    It is a SmolLM3 of four layers without positional encoding (NoPE, arXiv:2305.19466): what it learns on
    short strings carries over to somewhat longer ones, which is what campaigns that start from it live on.
    """
    target = cache / f"scratch-{SCRATCH_NAME}-{seed}"
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cache))
        try:
            _write(work, seed)
            work.chmod(0o755)
            if not target.is_dir():  # another process may have been faster, with the same bytes
                os.replace(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def _write(folder: Path, seed: int) -> None:
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

    special = [_PAD, _END]
    known = [*special, _ASKED, "?", *SIGNS.values(), *LETTERS, *COLUMNS]
    vocabulary = {token: number for number, token in enumerate(known)}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d\d|."), behavior="isolated")
    characters.decoder = decoders.Fuse()
    characters.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters, eos_token=_END, pad_token=_PAD, unk_token="?"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    config = SmolLM3Config(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=_LONGEST,
        no_rope_layers=[0] * LAYERS,  # the configuration's word for layers without positions
        layer_types=["full_attention"] * LAYERS,
        use_sliding_window=False,
        tie_word_embeddings=True,
        initializer_range=_SPREAD,
        eos_token_id=vocabulary[_END],
        pad_token_id=vocabulary[_PAD],
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmolLM3ForCausalLM(config)
    model.generation_config.eos_token_id = vocabulary[_END]
    model.generation_config.pad_token_id = vocabulary[_PAD]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
