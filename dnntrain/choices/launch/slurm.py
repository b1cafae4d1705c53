"""Start a Slurm job with one task per rank, on one or more nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dnntrain.config.fields import Annotated, Duration, NonNegative, PositiveInt, Range, Text, Units
from dnntrain.protocols import LaunchChoice


@dataclass(frozen=True)
class SlurmLaunch(LaunchChoice):
    """Start `nodes` × `nproc` tasks, each one rank.

    A job that is preempted or reaches its time limit saves, and is queued again.
    """

    nodes: PositiveInt = 1  # nodes of the job
    nproc: PositiveInt | None = None  # ranks per node; null: gpus_per_node, or one without GPUs
    gpus_per_node: Annotated[int, Range(at_least=0)] = 0  # GPUs per node
    cpus_per_rank: PositiveInt | None = None  # cores per rank; null: the partition's default
    mem_per_node: Annotated[str, Text(r"\d+[KMGT]?", "a size as in 16G")] | None = (
        None  # memory per node, as in 16G; null: the partition's default
    )
    time: Annotated[str, Text(r"\d+|(\d+-)?\d+(:\d+){1,2}", "a time as in 30, 1:30:00 or 2-12:00:00")] | None = (
        None  # time limit, minutes or [D-]H:M:S; null: the partition's default
    )
    partition: Annotated[str, Text(r"[\w.,-]+", "the name of a partition")] | None = (
        None  # partition; null: the cluster's default
    )
    account: Annotated[str, Text(r"[\w.@-]+", "the name of an account")] | None = (
        None  # account that the job is charged to
    )
    requeue: bool = True  # true: queue the job again after preemption or at its time limit, and resume
    signal_before_end_s: NonNegative = 120.0  # seconds before the time limit at which the run must save
    setup: tuple[str, ...] = ()  # shell lines before the run, such as: module load cuda
    hang_timeout: Annotated[Duration, Range(above=0), Units("s")] = Duration(
        600, "s"
    )  # a rank without a sign of life for this long counts as hung

    scheduler: ClassVar[str] = "slurm"

    def list_code_options(self) -> tuple[str, ...]:
        return ("setup",) if self.setup else ()

    def make_batch_script(self, name: str, folder: Path, program: Sequence[str]) -> str:
        from dnntrain.choices.launch._slurm_script import make_batch_script

        return make_batch_script(self, name, folder, program)

    def make_sweep_command(self, arguments: Sequence[str]) -> str:
        from dnntrain.choices.launch._slurm_script import make_sweep_command

        return make_sweep_command(self, arguments)

    def build(self, accelerators: int) -> int:
        """Return the number of ranks of the job."""
        return self.nodes * self.tasks_per_node

    @property
    def tasks_per_node(self) -> int:
        """Return the number of ranks on each node."""
        return self.nproc or self.gpus_per_node or 1
