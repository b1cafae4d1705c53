"""What goes through an optimizer step: batches, outputs, losses, and who computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dnntrain.utils.rng import Index, make_rng_index

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class Batch:
    """Examples of one micro-batch, on the training device.

    inputs   float [n, …], as the data set gives them: images [n, channels, height, width], normalised
    targets  [n, …], as the task needs them: int64 [n] class indices, or float [n, classes] probabilities
    index    int64 [n] number of each example in its data set (numpy, on the host)
    position int64 [n] place of each example in the epoch's global order (numpy, on the host)
    epoch    which pass over the training part
    copy     int64 [n] which copy of its example in the step each is, from 0; None where there are no copies (numpy, on the host)
    extras   further tensors with one row an example, by name: what a transform adds for a loss to read (a teacher's outputs)
    """

    inputs: Tensor
    targets: Tensor
    index: Index
    position: Index
    epoch: int = 0
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    copy_index: Index | None = None

    @property
    def rng_index(self) -> Index:
        """int64 [n]: what random choices about an example are keyed by; another for each copy."""
        return self.index if self.copy_index is None else make_rng_index(self.index, self.copy_index)

    def __len__(self) -> int:
        return len(self.inputs)


class StepBatch(NamedTuple):
    """The micro-batches that this rank computes in one optimizer step, and the number of `examples` on all ranks.

    `passes`: micro-batches of the rank that has most. A rank with fewer fills up with empty ones: layers may communicate in each pass.
    """

    micro_batches: Sequence[Batch]
    examples: int
    num_passes: int = 1


class ModelOutputs(NamedTuple):
    """What the model gives for a batch: `outputs` [n, …] in the form of the task, and `features`, outputs of inner modules by the name of their capture."""

    outputs: Tensor
    features: Mapping[str, Tensor]


class StepInfo(NamedTuple):
    """A point of the run: `step` optimizer steps are done; `fraction` of the run in [0, 1]; `epoch` as a real number."""

    step: int
    epoch: float
    fraction: float


class StepLoss(NamedTuple):
    """The loss of a step.

    total     sum of the losses of the step's examples on this rank: a tensor on the device, not yet read
    examples  number of them on all ranks
    weight    the number that the sum of `total` over all ranks is divided by (see `Task.loss_weight`)
    """

    total: Tensor
    examples: int
    weight: int


class ComputeGradients(Protocol):
    """Computes the gradients of the step's batch; `replay` repeats it with the same random numbers (SAM)."""

    def __call__(self, replay: bool = False) -> StepLoss: ...


class OptimizerStep(Protocol):
    """One optimizer step: plain is `loss = gradients(); apply(); return loss`.

    An update that asks for the gradients twice replays the first pass's random numbers with `gradients(replay=True)`.
    """

    def __call__(self, compute_gradients: ComputeGradients, apply: Callable[[], None]) -> StepLoss: ...


class StepExecutor(Protocol):
    """Runs the model on this layout."""

    def compute_gradients(self, batch: StepBatch, replay: bool = False) -> StepLoss: ...

    def compute_outputs(self, batch: Batch) -> Tensor:
        """The outputs [n, …], without features."""
        ...
