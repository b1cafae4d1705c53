"""Define the form that a user may ask of an exported model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dnntrain.errors import CheckpointError


@dataclass(frozen=True)
class ExportOptions:
    """The form of an exported model; a format supports those that it lists.

    opset  version of ONNX's operators; None: the exporter's own
    half   whether weights and activations are float16; inputs and outputs stay float32
    batch  fixed number of examples of a call; None: any number
    """

    opset: int | None = None
    half: bool = False
    batch: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the options that were chosen, for the manifest."""
        values = {"opset": self.opset, "half": self.half or None, "batch": self.batch}
        return {name: value for name, value in values.items() if value is not None}


#: A model as its format writes it by default.
NO_OPTIONS = ExportOptions()


class HalfModel(nn.Module):
    """Compute in float16, with inputs and outputs in float32; the numbers of tokens stay integers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.model(inputs.half() if inputs.is_floating_point() else inputs)
        return outputs.float()


def repeat_examples(inputs: Tensor, count: int) -> Tensor:
    """Return `count` examples: those of `inputs` [n, …] in turn."""
    return inputs[torch.arange(count) % len(inputs)]


def run_in_fixed_batches(run: Callable[[Tensor], Tensor], batch: int) -> Callable[[Tensor], Tensor]:
    """Return a function of inputs [n, …], for any n ≥ 1, that calls `run` with `batch` examples each time.

    The last batch is filled up with copies of its last example, which widen no range of activations.
    """

    def run_all(inputs: Tensor) -> Tensor:
        outputs = []
        for part in torch.split(inputs, batch):
            missing = batch - len(part)
            padded = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
            outputs.append(run(padded)[: len(part)])
        return torch.cat(outputs)

    return run_all


def read_fixed_batch(details: Any, path: object) -> int | None:
    """Return the fixed batch that a manifest names, or None. Raises CheckpointError if it is not a size."""
    batch = details.get("batch")
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise CheckpointError(f"{path}: the manifest's batch {batch!r} is not a number of examples", "export it again")
    return batch
