"""Training steps that take their batch in parts where memory does not suffice for all of it; needs torch."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from selfimp_dagster.lifecycle.optimization.update import WHERE
from selfimp_dagster.memory import is_out_of_memory, make_room, too_little

Batch = dict[str, Any]
Part = tuple[Batch, float]
"""Some rows of a batch, and what their loss counts in that of the whole batch."""

PARTS = "batch_parts"
"""The metric that says in how many parts a step took its batch; steps that took it whole do not have it."""

LESS = (
    "lower batch_size or the length of the responses, set gradient_checkpointing, upper_layers or lora_rank, "
    "or train on a device with more memory; then materialize checkpoint again"
)


class Halving:
    """What makes a trainer of TRL halve its batch when memory runs out, and go on within the same step.

    The gradients of the parts add up to those of the batch, so the update is the same but for rounding. Later
    steps take their batches in as many parts. Put before TRL's class, whose `_metrics` it knows; `tokens` are
    those that went through the model, padding left out. Where several processes train together nothing is
    halved: they would wait for each other.
    """

    fixed: ClassVar[frozenset[str]] = frozenset()
    """The tensors of a batch that do not have a row for each of its rows."""

    tokens = 0
    _parts = 1

    def most_parts(self, batch: Batch) -> int:
        """In how many parts a batch can be taken: here one a row."""
        return next(len(tensor) for name, tensor in batch.items() if name not in self.fixed)

    def parts_of(self, batch: Batch, count: int) -> Iterator[Part]:
        """The rows of a batch in so many parts, as far as there are rows; each counts by its rows."""
        rows = self.most_parts(batch)
        for chosen in torch.arange(rows).tensor_split(min(count, rows)):
            yield only(batch, chosen, self.fixed), len(chosen) / rows

    def loss_of(self, model: Any, inputs: Batch, return_outputs: bool, num_items_in_batch: Any) -> Any:
        """The loss of a batch or of a part, as TRL computes it."""
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch; where it is trained on, its gradients are computed too.

        Raises:
            SelfimpError: memory does not suffice for one row.
        """
        alone = self.accelerator.num_processes == 1  # type: ignore[attr-defined]
        if not alone or return_outputs or not torch.is_grad_enabled():
            return self.loss_of(model, inputs, return_outputs, num_items_in_batch)
        while True:
            tokens, said = self.tokens, {name: len(values) for name, values in self._said.items()}
            try:
                total = torch.zeros((), device=self.accelerator.device)  # type: ignore[attr-defined]
                for part, share in self.parts_of(inputs, self._parts):
                    loss = self.loss_of(model, part, False, num_items_in_batch) * share
                    with torch.autocast(loss.device.type, enabled=False):  # it is for the forward pass
                        self.accelerator.backward(loss)  # type: ignore[attr-defined]
                    total += loss.detach()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self._parts >= self.most_parts(inputs):
                    raise too_little(WHERE, LESS) from error
            else:
                if self._parts > 1:
                    self._said[PARTS].append(float(self._parts))
                # The trainer goes back through what it is handed: a leaf, which nothing lies behind.
                return total.requires_grad_()
            self.tokens = tokens
            for name, values in self._said.items():
                del values[said.get(name, 0) :]
            model.zero_grad(set_to_none=True)
            make_room()
            self._parts *= 2

    @property
    def _said(self) -> dict[str, list[float]]:
        """What TRL logs with the next step."""
        said: dict[str, list[float]] = self._metrics["train"]  # type: ignore[attr-defined]
        return said


def only(batch: Batch, rows: torch.Tensor, fixed: frozenset[str]) -> Batch:
    """These rows of a batch."""
    return {
        name: tensor if name in fixed else tensor[rows.to(tensor.device)] for name, tensor in batch.items()
    }
