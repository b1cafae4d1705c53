"""The base classes of groups about devices and processes: precision, parallel, launch, and track.

They declare every attribute of a choice that other code reads, with a default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from dnntrain.protocols.choice import Choice
from dnntrain.utils.units import Duration

if TYPE_CHECKING:
    import torch

    from dnntrain.distributed.parallel_dims import ParallelDims
    from dnntrain.utils.hardware import Hardware


@dataclass(frozen=True)
class WidthMultiple:
    """A multiple of channels that the hardware computes without waste, and the reason for it."""

    value: int = 1
    reason: str = ""


@dataclass(frozen=True)
class PrecisionPolicy:
    """The number formats of a run; weights stay float32.

    autocast_dtype   name of the torch dtype of matrix products and convolutions, or None
    uses_loss_scale  whether the loss is scaled so that float16 gradients do not vanish
    reason           reason for the formats, as the plan shows it
    """

    autocast_dtype: str | None
    uses_loss_scale: bool
    reason: str

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The torch dtype called `autocast_dtype`, or None."""
        import torch

        return None if self.autocast_dtype is None else getattr(torch, self.autocast_dtype)

    @property
    def name(self) -> str:
        """Short name of the number format of matrix products."""
        return {None: "fp32", "bfloat16": "bf16", "float16": "fp16"}[self.autocast_dtype]


class PrecisionChoice(Choice):
    """The number formats of training on given hardware."""

    def build(self, hardware: Hardware) -> PrecisionPolicy:
        raise NotImplementedError

    def avoid_loss_scale(self, policy: PrecisionPolicy) -> PrecisionPolicy:
        """Return the policy for a layout that does not support the loss scale of `policy`, which `build` returned.

        A choice with one format returns it unchanged, which is then an error.
        """
        return policy


@dataclass(frozen=True)
class DeviceDemand:
    """Estimated memory of a run, in bytes.

    state   weights, gradients and optimizer state, which sharding divides
    other   activations of one rank, which sharding does not divide
    memory  memory of one device
    """

    state: float
    other: float
    memory: float


class ParallelChoice(Choice):
    """A layout over processes.

    processes        "many" if the layout uses several processes by default, else "one"
    chooses_degrees  whether `fit` chooses the degrees by the model
    uses_fsdp        whether it uses FSDP2 at any degrees
    schedule         order of the passes of a pipeline
    stages_per_rank  stages of a pipeline that one rank holds
    gradient_copies  tensors of the size of the gradients that a rank keeps from step to step
    """

    processes: ClassVar[str] = "many"
    chooses_degrees: ClassVar[bool] = False
    uses_fsdp: ClassVar[bool] = False
    schedule: str = "1f1b"
    stages_per_rank: int = 1

    @property
    def required_ranks(self) -> int | None:
        """The number of processes if the choice fixes it, else None."""
        return None

    @property
    def gradient_copies(self) -> int:
        return 0

    def build(self, ranks: int) -> ParallelDims:
        """Return the degrees for `ranks` processes. Raises ConfigError if none fit."""
        raise NotImplementedError

    def fit(self, ranks: int, demand: DeviceDemand) -> tuple[ParallelDims, str]:
        """Return the degrees for `ranks` processes, and the reason for them.

        By default these are the degrees of `build`, without a reason. A choice that picks degrees by
        memory overrides this method.
        """
        return self.build(ranks), ""


class LaunchChoice(Choice):
    """How processes are started.

    nproc         number of processes on each machine, if set
    nodes         number of machines
    max_restarts  largest number of restarts from the last checkpoint after a rank failed
    hang_timeout  silence after which a rank counts as hung
    scheduler     queueing system that runs the processes; empty for this machine
    """

    nproc: int | None = None
    nodes: int = 1
    max_restarts: int = 0
    hang_timeout: Duration = Duration(600, "s")
    scheduler: ClassVar[str] = ""

    @property
    def tasks_per_node(self) -> int:
        """Number of ranks on each machine."""
        return self.nproc or 1

    def build(self, accelerators: int) -> int:
        """Return the number of processes of a multi-process layout.

        `accelerators` is the number of accelerators of this machine.
        """
        raise NotImplementedError

    def make_batch_script(self, name: str, folder: Path, program: Sequence[str]) -> str:
        """Return the batch script of the scheduler for a run called `name` in `folder`."""
        raise NotImplementedError

    def make_sweep_command(self, arguments: Sequence[str]) -> str:
        """Return the command that queues a sweep as one job."""
        raise NotImplementedError


class Tracker(Protocol):
    """An experiment tracker of one run. The main rank alone calls it, between steps."""

    def start(self, run_dir: str, config: Mapping[str, Any]) -> None:
        """Begin or resume the run in `run_dir`; `config` is the resolved configuration."""

    def log_row(self, row: Mapping[str, Any]) -> None:
        """Log a row of metrics, as metrics.jsonl has it."""

    def close(self, result: Mapping[str, Any]) -> None:
        """End the run with its result, as result.json has it."""


class TrackChoice(Choice):
    """An experiment tracker."""

    @property
    def max_wait_s(self) -> float:
        """Seconds that the start and the end of a run wait for the tracker."""
        return 20.0

    def build(self) -> Tracker:
        raise NotImplementedError
