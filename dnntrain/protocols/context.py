"""The objects that the trainer gives to a method: before and after it is built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from dnntrain.protocols.metric import LOSS, MetricInfo, find_metric
from dnntrain.protocols.step import Batch
from dnntrain.protocols.task import ModelSpec
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer


class Collectives(Protocol):
    """The collective operations of a run.

    In a single process each is the plain local operation.

    The ranks of a data group hold different examples, and the same parameters or different shards
    of them. The ranks of a model-parallel group hold the same examples.
    """

    @property
    def data_ranks(self) -> int:
        """Ranks among which a batch is divided."""
        ...

    def data_sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the data group, on each of its ranks.

        Differentiable: the gradient is the sum of the ranks' gradients. `tensor` is not changed.
        """
        ...

    def data_max(self, tensor: Tensor) -> Tensor:
        """Return the elementwise maximum over the data group, on each of its ranks.

        Not differentiable. `tensor` is not changed.
        """
        ...

    def sum_of_squares(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return Σ t² over the full tensors and all stages, as a float32 scalar on the device of the tensors.

        This rank may hold shards of the tensors, on the host if they are offloaded.
        """
        ...

    @property
    def shard_ranks(self) -> int:
        """Number of ranks over which weights are sharded; 1 for full weights.

        These ranks belong to one data group.
        """
        ...

    def shard(self, model: Module, units: Sequence[Module]) -> None:
        """Shard the weights of `model` over those ranks, in place.

        The weights must be equal on all ranks. Each of `units` gathers its own weights while it
        runs, and `model` gathers the others. After this call all ranks must call `model` equally
        often.
        """
        ...


@dataclass(frozen=True)
class SingleProcess:
    """The collectives of a single process: the plain local operations."""

    data_ranks: int = 1

    def data_sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def data_max(self, tensor: Tensor) -> Tensor:
        return tensor

    def sum_of_squares(self, tensors: Sequence[Tensor]) -> Tensor:
        import torch

        return torch.nn.utils.get_total_norm(tensors).square()

    @property
    def shard_ranks(self) -> int:
        return 1

    def shard(self, model: Module, units: Sequence[Module]) -> None:
        """Do nothing: the process holds the full model."""


class LateCollectives:
    """A placeholder for collectives, for objects built before the device mesh.

    Before `connect`, it computes as a single process does. The plan decides `shard_ranks`, so it is
    known from the start.
    """

    def __init__(self, shard_ranks: int = 1) -> None:
        self._shard_ranks = shard_ranks
        self._collectives: Collectives = SingleProcess()

    def connect(self, collectives: Collectives) -> None:
        """Compute with `collectives` from now on."""
        self._collectives = collectives

    @property
    def data_ranks(self) -> int:
        return self._collectives.data_ranks

    def data_sum(self, tensor: Tensor) -> Tensor:
        return self._collectives.data_sum(tensor)

    def data_max(self, tensor: Tensor) -> Tensor:
        return self._collectives.data_max(tensor)

    def sum_of_squares(self, tensors: Sequence[Tensor]) -> Tensor:
        return self._collectives.sum_of_squares(tensors)

    @property
    def shard_ranks(self) -> int:
        return self._shard_ranks

    def shard(self, model: Module, units: Sequence[Module]) -> None:
        self._collectives.shard(model, units)


@dataclass(frozen=True)
class BuildContext:
    """The frozen values from which a method builds its hooks.

    A method never sees the configuration.

    spec              the model's inputs, targets and outputs
    metrics           how each metric is read; the metric `eval.metric` comes first
    steps_per_epoch   0 if epochs differ in their number of steps, or if it is not known yet: see
                      `epoch_schedule`
    total_steps       optimizer steps of the run; 0 if the duration of the run is a time
    batch_size        examples per optimizer step over all ranks, as set in `train.batch_size`
    learning_rate     base learning rate, as set in `optim.lr`
    collectives       operations over the ranks
    data_digest       SHA-256 of the data set
    train_examples    number of training examples
    micro_batch_size  largest number of examples of one forward pass
    pair_block        examples that methods relate to each other: aligned blocks of this many
                      positions stay together if possible
    default_crop_padding, default_flip_probability
                      the data set's own values for augment=[crop,flip]
    build_model       builds the model that is trained, before any transform and with zero weights:
                      for the names and shapes of its modules
    num_epochs        length of the run if the schedule sets the batch size and so counts epochs;
                      else 0
    explicit_schedule the batch size of each epoch; None if every epoch has `batch_size`
    tensor_ranks      ranks that divide each layer of the model (parallel.tp)
    width_multiple    multiple of channels that the hardware computes well
    fits_durations    a debugging run (`debug=`): methods fit their durations to it, at least one step
                      and at most the run, instead of rejecting them
    """

    seed: int
    spec: ModelSpec
    steps_per_epoch: int
    total_steps: int
    batch_size: int
    learning_rate: float
    device: str = "cpu"
    world: World = field(default_factory=World)
    collectives: Collectives = field(default_factory=SingleProcess)
    metrics: tuple[MetricInfo, ...] = (LOSS,)
    data_digest: str = ""
    train_examples: int = 0
    micro_batch_size: int = 0
    pair_block: int = 8
    default_crop_padding: int = 0
    default_flip_probability: float = 0.0
    build_model: Callable[[], Module] | None = None
    num_epochs: float = 0.0
    explicit_schedule: EpochSchedule | None = None
    fits_durations: bool = False
    tensor_ranks: int = 1
    width_multiple: int = 1

    def get_metric(self, name: str | None, key: str) -> MetricInfo:
        """Return the metric called `name`, or the metric `eval.metric` if `name` is None.

        Raises ConfigError, which names the setting `key`, if the task does not have the metric.
        """
        return self.metrics[0] if name is None else find_metric(name, self.metrics, key)

    @cached_property
    def epoch_schedule(self) -> EpochSchedule:
        """The first step of each epoch, and the number of examples of its steps."""
        examples = self.train_examples or self.steps_per_epoch * self.batch_size
        return self.explicit_schedule or EpochSchedule.constant(examples, self.batch_size)


@dataclass(frozen=True)
class TrainerHandles:
    """The parts of a built trainer.

    Each function in the slot `bindings` receives them once.

    model             the network with plain parameter names. Parameters may be shards (DTensor); a
                      rank of a pipeline holds the parameters of its own stages only
    optimizers        the optimizers that step
    training_batches  `training_batches(steps)` yields this rank's share of the batches of so many
                      steps, prepared as for training (augmented, mixed), for statistics such as
                      batch norm's. The batches are the same at every call. All ranks get equally
                      many; some may be empty
    collectives       operations over the ranks
    last_change_step  number of steps after which no method changes the network any more, by a cut or by
                      weights that become zero; 0 if none does
    mask_steps        numbers of steps after which more weights are zero
    """

    model: Module
    optimizers: Sequence[Optimizer]
    training_batches: Callable[[int], Iterator[Batch]]
    collectives: Collectives
    last_change_step: int = 0
    mask_steps: tuple[int, ...] = ()
