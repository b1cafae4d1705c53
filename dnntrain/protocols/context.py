"""What the trainer gives a method: before it is built, and once the trainer stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from dnntrain.protocols.step import Batch
from dnntrain.protocols.task import LOSS, MetricInfo, ModelSpec, find_metric
from dnntrain.utils.epochs import EpochSchedule
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer


class Collectives(Protocol):
    """What ranks compute together. In one process each is the plain thing.

    Ranks of one `data` group hold other examples and the same parameters (or other shards of them); the ranks of a model-parallel
    group hold the same examples.
    """

    @property
    def data_ranks(self) -> int:
        """Ranks among which a batch is divided."""
        ...

    def data_sum(self, tensor: Tensor) -> Tensor:
        """The sum over the data group, on every rank of it; differentiable: its gradient is the sum of the gradients. Not in place."""
        ...

    def data_max(self, tensor: Tensor) -> Tensor:
        """The elementwise maximum over the data group, on every rank of it; not differentiable. Not in place."""
        ...

    def sum_of_squares(self, tensors: Sequence[Tensor]) -> Tensor:
        """float32 scalar: Σ t² over the *whole* of `tensors`, of which this rank may hold shards, and over all pipeline stages."""
        ...

    @property
    def shard_ranks(self) -> int:
        """Ranks among which weights lie in parts; 1 where each holds them whole. They are of one `data` group."""
        ...

    def shard(self, model: Module, units: Sequence[Module]) -> None:
        """Cuts the weights of `model`, equal on all ranks, among those. Each of `units` gathers its own while it runs; so does the rest.

        From then on all ranks must call `model` equally often.
        """
        ...


@dataclass(frozen=True)
class SingleProcess:
    """The collectives of one process."""

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
        """The one process holds it whole."""


class LateCollectives:
    """Stand for the collectives of a run in what is built before the ranks' device mesh.

    Until it is connected it computes as one process does. `shard_ranks` is planned, so it is known from the start.
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
    """Frozen values that a method may build from; never the configuration.

    spec             what the model takes, what it is trained on, what it gives
    metrics          how each metric is read, that of `eval.metric` first
    steps_per_epoch  0 where epochs have different numbers of steps, or it is not known yet: see `times`
    total_steps      optimizer steps of the run; 0 where the run's length is a time
    batch_size       examples per optimizer step over all ranks, as set in `train.batch_size`
    learning_rate    the base learning rate, as set in `optim.lr`
    collect          what the ranks compute together
    data_digest      SHA-256 of the data set
    train_examples   examples of the training part
    micro_batch_size most examples of one forward pass
    pair_block       examples that methods relate to each other: aligned runs of this many positions are never cut where avoidable
    default_crop_padding, default_flip_probability  the data set's own values for augment=[crop,flip]
    student          builds the model to be trained with weights of zero, before any transform: for names and shapes of its modules
    epochs           the run's length where the schedule counts epochs, since it sets the batch size; else 0
    timetable        the batch size of each epoch; None where all have `batch_size`
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

    def get_metric(self, name: str | None, key: str) -> MetricInfo:
        """Return the metric called `name`; None names that of `eval.metric`. Raises ConfigError, naming the setting `key`."""
        return self.metrics[0] if name is None else find_metric(name, self.metrics, key)

    @cached_property
    def epoch_schedule(self) -> EpochSchedule:
        """When epochs begin, and how many examples their steps have."""
        examples = self.train_examples or self.steps_per_epoch * self.batch_size
        return self.explicit_schedule or EpochSchedule.constant(examples, self.batch_size)


@dataclass(frozen=True)
class TrainerHandles:
    """What stands once the trainer is built; every object in a slot that has a `bind` is given it, once.

    model            the network by its plain names; its parameters may be shards (DTensor), and on a pipeline stage only its own
    optimizers       those that step
    training_batches `training_batches(steps)`: this rank's share of the batches of that many steps, prepared as for training (augmented,
                     mixed), always the same ones: for statistics, such as those of batch norm. As many on all ranks: some may be empty
    collect          what the ranks compute together
    """

    model: Module
    optimizers: Sequence[Optimizer]
    training_batches: Callable[[int], Iterator[Batch]]
    collectives: Collectives
