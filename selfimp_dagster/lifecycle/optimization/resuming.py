"""Training that goes on where a killed one had come to; needs torch."""

import errno
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback

SAVE_EVERY = 120.0
"""Seconds of training between two saves, each of three times the model: its weights and AdamW's state."""

_NOT_WRITTEN = ("inline_container.cc", "iostream error")  # torch's words: for a large file, for a small one
_WHOLE = "whole.safetensors"  # written last: a folder without it is of a save that was killed


@dataclass(frozen=True)
class Saved:
    """What training had come to: a checkpoint of transformers, and what that does not keep."""

    folder: Path
    tokens: int
    epoch_began: torch.Tensor

    @classmethod
    def newest(cls, folder: Path) -> "Saved | None":
        """The last whole one in a trainer's folder; none without any."""
        whole = sorted(folder.glob(f"checkpoint-*/{_WHOLE}"), key=lambda file: int(file.parent.name[11:]))
        if not whole:
            return None
        told = load_file(whole[-1])
        return cls(whole[-1].parent, int(told["tokens"]), told["epoch_began"])


class Saving(TrainerCallback):
    """Saves a training from time to time, and starts it from what was saved.

    The order of the rows is drawn when an epoch begins, from torch's global generator; transformers keeps its
    state at the save alone. So the state at the beginning of the epoch is kept too and set again when the
    epoch that was broken off is entered, and the same rows come in the same order.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer: Any = trainer
        self._folder = Path(trainer.args.output_dir)
        self._saved = Saved.newest(self._folder)
        self._at = time.monotonic()
        self._epoch_began = torch.get_rng_state()

    def train(self) -> None:
        """Trains to the end, and leaves nothing behind of what it saved.

        Raises:
            OSError: a save could not be written.
        """
        self._trainer.add_callback(self)
        saved = self._saved
        if saved is not None:
            self._trainer.tokens = saved.tokens
        try:
            self._trainer.train(resume_from_checkpoint=str(saved.folder) if saved else None)
        except RuntimeError as error:
            if not any(words in str(error) for words in _NOT_WRITTEN):
                raise
            raise OSError(
                errno.EIO, "the state of the training could not be written", str(self._folder)
            ) from error
        shutil.rmtree(self._folder, ignore_errors=True)

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        if self._saved is not None:
            torch.set_rng_state(self._saved.epoch_began)
            self._saved = None
        self._epoch_began = torch.get_rng_state()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self._at >= SAVE_EVERY and state.global_step < state.max_steps:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = self._folder / f"checkpoint-{state.global_step}"
        ended = float(state.epoch).is_integer()  # then the next epoch begins with the state of now
        began = torch.get_rng_state() if ended else self._epoch_began
        told = {"tokens": torch.tensor(self._trainer.tokens), "epoch_began": began}
        save_file(told, folder / _WHOLE)
        for other in self._folder.glob("checkpoint-*"):
            if other != folder:
                shutil.rmtree(other)
        self._at = time.monotonic()
