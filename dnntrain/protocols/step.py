"""The types of an optimizer step: batches, outputs, losses and executors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dnntrain.utils.rng import Index, make_rng_index

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class Batch:
    """The examples of one micro-batch, on the training device.

    inputs      float [n, …], as the data set gives them: normalized images
                [n, channels, height, width]; int64 [n, length] tokens of a text
    targets     [n, …], as the task needs them: int64 [n] class indices, float [n, classes]
                probabilities, or int64 [n, height, width] classes of pixels
    index       int64 [n], number of each example in its data set (numpy, on the host)
    position    int64 [n], position of each example in the global order of the epoch (numpy, on the
                host)
    epoch       number of the pass over the training split
    extras      further tensors by name, with one row per example, which a transform adds and a loss
                term reads (a teacher's outputs)
    copy_index  int64 [n], number from 0 of each example's copy within the step; None if there are no
                copies (numpy, on the host)
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
        """int64 [n]: the key of random choices for each example or copy."""
        return self.index if self.copy_index is None else make_rng_index(self.index, self.copy_index)

    def __len__(self) -> int:
        return len(self.inputs)


class StepBatch(NamedTuple):
    """The micro-batches that this rank computes in one optimizer step.

    examples    number of examples of the step on all ranks
    num_passes  largest number of micro-batches of any rank. A rank with fewer runs empty ones, since
                layers may communicate in each pass
    seq_len     tokens of each example if the step has a length of its own, else None
    """

    micro_batches: Sequence[Batch]
    examples: int
    num_passes: int = 1
    seq_len: int | None = None


@dataclass(frozen=True)
class VocabularyShard:
    """This rank's tokens of a vocabulary that several ranks share.

    first       number of its first token
    get_weight  returns this rank's rows of the last layer's weight; gradients flow to the parameter
    sum, max    return the sum or the maximum of a tensor over the ranks, without gradient
    """

    first: int
    get_weight: Callable[[], Tensor]
    sum: Callable[[Tensor], Tensor]
    max: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SequenceShard:
    """This rank's positions of texts whose positions several ranks share.

    split  takes features [n, length, width], equal on the ranks → those of this rank's positions
    join   takes features of this rank's positions → those of all positions, equal on the ranks
    """

    split: Callable[[Tensor], Tensor]
    join: Callable[[Tensor], Tensor]


class DeferredLogits(NamedTuple):
    """Logits of the next token that are not computed yet, because all of them take much memory.

    They are cap * tanh(z / cap) with z = features @ weight.T, or z itself if the cap is 0.

    features  [n, length, width]
    weight    [vocabulary, width], of the last layer
    cap       bound of the logits; 0: none
    shard     the part of the vocabulary that `weight` has; None: all of it
    """

    features: Tensor
    weight: Tensor
    cap: float
    shard: VocabularyShard | None = None

    def take(self, count: int) -> DeferredLogits:
        """Return the logits of the first `count` examples."""
        return self._replace(features=self.features[:count])

    def select(self, rows: Tensor) -> DeferredLogits:
        """Return the logits of the examples `rows`, int64 [m]."""
        return self._replace(features=self.features[rows])

    def compute(self) -> Tensor:
        """Return the logits [n, length, vocabulary], of the tokens of `weight`."""
        logits = self.features @ self.weight.mT
        return self.cap * (logits / self.cap).tanh() if self.cap else logits


class ModelOutputs(NamedTuple):
    """The results of the model for a batch.

    outputs   [n, …] in the form that the task defines
    features  outputs of inner modules, by the name of their `FeatureTap`
    """

    outputs: Tensor
    features: Mapping[str, Tensor]


class StepInfo(NamedTuple):
    """A point of the run.

    step      number of completed optimizer steps
    epoch     number of completed epochs, as a real number
    fraction  completed fraction of the run, in [0, 1]
    """

    step: int
    epoch: float
    fraction: float


class StepLoss(NamedTuple):
    """The loss of a step.

    total     sum of the losses of this rank's examples: a tensor on the device, not read by the host
    examples  number of examples on all ranks
    weight    divisor of the sum of `total` over all ranks (see `Task.loss_weight`); a tensor on the
              device if it is counted
    """

    total: Tensor
    examples: int
    weight: int | Tensor


class ComputeGradients(Protocol):
    """A function that computes the gradients of the batch of the step.

    `replay` repeats the computation with the same random numbers (SAM).
    """

    def __call__(self, replay: bool = False) -> StepLoss: ...


class OptimizerStep(Protocol):
    """A function that runs one optimizer step.

    The plain step is `loss = compute_gradients(); apply(); return loss`. An update that needs the
    gradients twice repeats the random numbers of the first pass with
    `compute_gradients(replay=True)`.
    """

    def __call__(self, compute_gradients: ComputeGradients, apply: Callable[[], None]) -> StepLoss: ...


#: Returns a context for a phase of a step, by the name of the phase: a clock, or a mark in a trace.
PhaseMarker = Callable[[str], AbstractContextManager[object]]


class StepExecutor(Protocol):
    """Runs the model on the layout of the run."""

    def compute_gradients(self, batch: StepBatch, replay: bool = False) -> StepLoss: ...

    def mark_phases(self, mark: PhaseMarker) -> None:
        """Compute each pass within `mark(name)` from now on."""
        ...

    def suspend_sync(self) -> AbstractContextManager[None]:
        """Return a context in which gradients are not summed over ranks; a context without effect if they cannot be."""
        ...

    def compute_outputs(self, batch: Batch) -> Tensor:
        """Return the outputs [n, …], without features."""
        ...
