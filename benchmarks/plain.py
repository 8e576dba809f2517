"""What a user would write without this project: TRL's GRPOTrainer, and a loop of rejection sampling."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from selfimp_dagster.errors import SelfimpError
from selfimp_dagster.tasks.suites import Task
from selfimp_dagster.tasks.verifiers import verify

GROUP = 8  # responses to a task
ANSWER_TOKENS = 16


@dataclass(frozen=True)
class Script:
    """What both scripts are told.

    `asked` are the chat turns of the tasks. The loop parts tasks and steps evenly among its `passes`, each of
    which samples from what the one before it trained. `watch` is called with model and tokenizer: by the loop
    after each pass, by the trainer every `watch_every` steps.
    """

    base: Path
    tasks: list[Task]
    asked: list[dict[str, str]]
    output: Path
    seed: int
    steps: int
    batch: int
    learning_rate: float
    passes: int = 1
    watch: Callable[[Any, Any], None] = lambda model, tokenizer: None
    watch_every: int = 0


def grpo(script: Script) -> int:
    """TRL's GRPOTrainer with its defaults, the verifier as its reward function; tokens that it saw."""
    by_place = dict(enumerate(script.tasks))

    def right(completions: list[Any], place: list[int], **_: Any) -> list[float]:
        said = [completion[0]["content"] for completion in completions]
        return [verify(by_place[n], text).value for n, text in zip(place, said, strict=True)]

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **loaded: Any) -> None:
            if script.watch_every and state.global_step % script.watch_every == 0:
                script.watch(loaded["model"], tokenizer)

    settings = GRPOConfig(
        output_dir=str(script.output / "trainer"),
        learning_rate=script.learning_rate,
        per_device_train_batch_size=script.batch,
        num_generations=min(GROUP, script.batch),
        max_completion_length=ANSWER_TOKENS,
        max_steps=script.steps,
        seed=script.seed,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=1000,
    )
    rows = [{"prompt": [message], "place": n} for n, message in enumerate(script.asked)]
    tokenizer = AutoTokenizer.from_pretrained(script.base)
    trainer = GRPOTrainer(
        str(script.base),
        right,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Watch()],
    )
    trainer.train()
    trainer.save_model(str(script.output))
    tokenizer.save_pretrained(script.output)
    return int(trainer.state.num_input_tokens_seen)


def rejection(script: Script) -> int:
    """Sample with transformers, keep what is right, train on it with AdamW; tokens sampled and trained."""
    torch.manual_seed(script.seed)
    tokenizer = AutoTokenizer.from_pretrained(script.base, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(script.base, dtype=torch.float32)
    tokens, share = 0, -(-len(script.tasks) // script.passes)
    for start in range(0, len(script.tasks), share):
        chosen = slice(start, start + share)
        kept, sampled = _sampled(model, tokenizer, script.tasks[chosen], script.asked[chosen])
        if not kept:
            raise SelfimpError("no response was right", where="plain_rejection", fix="sample more")
        tokens += sampled + _trained(model, tokenizer, kept, script, script.steps // script.passes)
        script.watch(model, tokenizer)
    model.save_pretrained(script.output)
    tokenizer.save_pretrained(script.output)
    return tokens


def _sampled(
    model: Any, tokenizer: Any, tasks: list[Task], asked: list[dict[str, str]]
) -> tuple[list[tuple[str, str]], int]:
    """Right answers with their prompts, and the tokens that sampling took."""
    kept, tokens = [], 0
    model.eval()
    for start in range(0, len(tasks), 16):
        chats = [
            tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
            for message in asked[start : start + 16]
        ]
        batch = tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False)
        said = model.generate(
            **batch,
            do_sample=True,
            temperature=0.7,
            max_new_tokens=ANSWER_TOKENS,
            num_return_sequences=GROUP,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )
        tokens += said.numel()
        width = batch["input_ids"].shape[1]
        for place, ids in enumerate(said):
            number = place // GROUP
            text = tokenizer.decode(ids[width:], skip_special_tokens=True)
            if verify(tasks[start + number], text).value >= 1:
                kept.append((chats[number], text.strip() + tokenizer.eos_token))
    return kept, tokens


def _trained(model: Any, tokenizer: Any, kept: list[tuple[str, str]], script: Script, steps: int) -> int:
    """Trains on rows drawn with replacement; the tokens of them."""
    tokens = 0
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=script.learning_rate)
    for step in torch.randint(len(kept), (steps, script.batch)).tolist():
        rows, labels = [], []
        for chosen in step:
            prompt, answer = (tokenizer.encode(text, add_special_tokens=False) for text in kept[chosen])
            rows.append(prompt + answer)
            labels.append([-100] * len(prompt) + answer)
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        goal = torch.tensor([row + [-100] * (longest - len(row)) for row in labels])
        tokens += int(mask.sum())
        model(input_ids=ids, attention_mask=mask, labels=goal).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return tokens
