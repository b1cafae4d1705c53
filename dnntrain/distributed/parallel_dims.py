"""Compute the degrees of parallelism.

The module does arithmetic only, without torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dnntrain.config.fields import Literal, Positive, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.protocols import ParallelChoice
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from torch.nn import Module

#: The dimensions of the device mesh, the slowest first: ranks of one tensor-parallel group are neighbors.
MESH_DIMS = ("pp", "replicate", "shard", "tp")


@dataclass(frozen=True)
class ParallelDims:
    """The degrees of parallelism: the size of each dimension of the device mesh.

    sequence  whether tensor-parallel ranks share the positions of a text between layers
    """

    replicate: int = 1
    shard: int = 1
    tp: int = 1
    pp: int = 1
    sequence: bool = False

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """The degrees in the order of MESH_DIMS."""
        return self.pp, self.replicate, self.shard, self.tp

    @property
    def ranks(self) -> int:
        """Number of ranks: the product of the degrees."""
        return self.replicate * self.shard * self.tp * self.pp

    @property
    def data_ranks(self) -> int:
        """Number of ranks over which a batch is divided."""
        return self.replicate * self.shard

    @property
    def is_sharded(self) -> bool:
        """True if parameters may be sharded over several ranks."""
        return self.shard > 1 or self.tp > 1

    @property
    def has_whole_model(self) -> bool:
        """True if every rank holds the full model: one process, or data parallelism alone."""
        return not self.is_sharded and self.pp == 1

    def locate_rank(self, world: World) -> RankCoords:
        """Return the coordinates of rank `world.rank`."""
        rest, tp = divmod(world.rank, self.tp)
        rest, shard = divmod(rest, self.shard)
        pp, dp = divmod(rest, self.replicate)
        data = World(dp * self.shard + shard, self.data_ranks, world.local_rank, world.is_launched)
        return RankCoords(self, data, tp, pp)

    def __str__(self) -> str:
        sizes = zip(reversed(MESH_DIMS), reversed(self.sizes), strict=True)
        terms = [f"{name} {size}" for name, size in sizes if size > 1]
        return (" × ".join(terms) or "one process") + (", shared positions" if self.sequence else "")


@dataclass(frozen=True)
class RankCoords:
    """The coordinates of one rank.

    data_world  position among the data ranks: its share of a batch
    tp          position among the tensor-parallel ranks: its slice of a layer
    pp          position among the pipeline ranks: its stages
    """

    dims: ParallelDims
    data_world: World
    tp: int = 0
    pp: int = 0

    @property
    def should_count(self) -> bool:
        """True if the losses and predictions of this rank are counted.

        Exactly one rank of the ranks with the same examples counts. It has the last stage.
        """
        return self.tp == 0 and self.pp == self.dims.pp - 1


@dataclass(frozen=True)
class ParallelizedModel:
    """A model after parallelism was applied.

    model          the model with plain names and this rank's part of the parameters
    run_modules    the modules to call: the wrapped model, or its stages
    stage_indices  the pipeline stages of this rank
    """

    model: Module
    run_modules: Sequence[Module]
    stage_indices: Sequence[int] = (0,)


@dataclass(frozen=True)
class ParallelConfig(ParallelChoice):
    """The options of all choices of `parallel`.

    A degree of null takes the ranks that the other degrees leave. All layouts use a device mesh of
    dimensions pp × replicate × shard × tp.
    """

    replicate: PositiveInt | None = (
        1  # replicas of the model, each with its share of the batch; null: the remaining ranks
    )
    shard: PositiveInt | None = 1  # ranks that share one replica's weights, gradients and optimizer state (FSDP2)
    tp: PositiveInt | None = 1  # ranks that share the width of each layer (tensor parallelism)
    pp: PositiveInt | None = 1  # ranks that share the depth of the model (pipeline parallelism)
    sequence: bool = False  # tp: the ranks also share the positions of a text between layers, which saves memory
    bucket_size_mb: Positive = 25.0  # ddp: size of a gradient bucket, MiB
    static_graph: bool = False  # ddp: promise that every step uses the same parameters, which saves a search
    grad_compression: Literal["none", "bf16", "fp16", "powersgd"] = "none"  # ddp: format of gradients between ranks
    reshard_after_forward: bool = True  # fsdp: free gathered weights after the forward pass, and gather them again
    param_dtype: Literal["fp32", "bf16"] = "fp32"  # fsdp: number format in which weights are gathered and used
    cpu_offload: bool = False  # fsdp: keep shards in host memory (GPUs)
    schedule: Literal["gpipe", "1f1b", "interleaved"] = "1f1b"  # pp: order of forward and backward passes
    stages_per_rank: PositiveInt = 1  # pp: stages per rank; interleaved needs 2 or more

    def build(self, ranks: int) -> ParallelDims:
        return self.resolve_dims(ranks)

    def resolve_dims(self, ranks: int) -> ParallelDims:
        """Return the degrees for `ranks` processes.

        Raises ConfigError if their product differs.
        """
        degree_by_name = self._requested_degrees
        free_names = [name for name, degree in degree_by_name.items() if degree is None]
        if len(free_names) > 1:
            raise ConfigError(
                f"parallel.{free_names[0]}=null and parallel.{free_names[1]}=null: only one degree can be null",
                f"use parallel.{free_names[1]}=1 or another number",
            )
        fixed_product = math.prod(degree for degree in degree_by_name.values() if degree is not None)
        if free_names:
            if ranks % fixed_product:
                raise ConfigError(
                    f"{_format_product(degree_by_name)} = {fixed_product} does not divide {ranks} ranks, so "
                    f"parallel.{free_names[0]}=null cannot be computed",
                    f"use launch.nproc={max(1, ranks // fixed_product) * fixed_product}, or degrees whose "
                    f"product divides {ranks}",
                )
            degree_by_name[free_names[0]] = ranks // fixed_product
        elif fixed_product != ranks:
            raise ConfigError(
                f"{_format_product(degree_by_name)} = {fixed_product} ranks, but the run has {ranks}",
                f"use launch.nproc={fixed_product}, or {_suggest_dims(degree_by_name, ranks)}",
            )
        degrees = {name: int(degree or 1) for name, degree in degree_by_name.items()}
        return ParallelDims(**degrees, sequence=self.sequence and degrees["tp"] > 1)

    @property
    def required_ranks(self) -> int | None:
        """The number of processes if every degree is set, or None if a degree is null."""
        degrees = [degree for degree in self._requested_degrees.values() if degree is not None]
        return math.prod(degrees) if len(degrees) == len(MESH_DIMS) else None

    @property
    def gradient_copies(self) -> int:
        """1 for PowerSGD, which keeps the error of its factors; else 0."""
        return int(self.grad_compression == "powersgd")

    @property
    def _requested_degrees(self) -> dict[str, int | None]:
        """The degrees by name as set, the slowest dimension first."""
        return {"pp": self.pp, "replicate": self.replicate, "shard": self.shard, "tp": self.tp}


def uses_fsdp(layout: ParallelChoice | None, dims: ParallelDims) -> bool:
    """Return whether the layout uses FSDP2.

    It does for shards, and for replicas with tensor or pipeline parallelism. `parallel=fsdp` also uses
    it at degree 1.
    """
    is_fsdp_layout = layout is not None and layout.uses_fsdp
    return dims.shard > 1 or (dims.replicate > 1 and not dims.has_whole_model) or is_fsdp_layout


def is_forward_collective(layout: ParallelChoice, dims: ParallelDims) -> bool:
    """Return whether a forward pass is the work of several ranks.

    It is not for one process and for DDP.
    """
    return not dims.has_whole_model or layout.uses_fsdp


def _format_product(degree_by_name: dict[str, int | None]) -> str:
    return (
        " × ".join(
            f"parallel.{name}={degree_by_name[name]}"
            for name in reversed(MESH_DIMS)
            if degree_by_name[name] not in (None, 1)
        )
        or "1"
    )


def _suggest_dims(degree_by_name: dict[str, int | None], ranks: int) -> str:
    """Return an override of a data dimension with which the product fits."""
    for name in ("replicate", "shard"):
        other_product = math.prod(degree or 1 for other_name, degree in degree_by_name.items() if other_name != name)
        if ranks % other_product == 0:
            return f"parallel.{name}={ranks // other_product}"
    return f"parallel.replicate={ranks} with every other degree 1"


def partition_costs(costs: Sequence[float], num_parts: int) -> list[int]:
    """Partition `costs` into consecutive parts with minimal largest sum.

    Returns the bounds of the parts, [num_parts + 1]; no part is empty. Dynamic programming over the
    last bound, O(num_parts · n²). Raises ValueError if there are more parts than costs.
    """
    count = len(costs)
    if not 1 <= num_parts <= count:
        raise ValueError(f"cannot partition {count} costs into {num_parts} parts")
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    best = [sums[end] for end in range(count + 1)]
    cuts: list[list[int]] = []
    for part in range(2, num_parts + 1):
        previous, best, cut = best, [math.inf] * (count + 1), [0] * (count + 1)
        for end in range(part, count + 1):
            for start in range(part - 1, end):
                largest = max(previous[start], sums[end] - sums[start])
                if largest < best[end]:
                    best[end], cut[end] = largest, start
        cuts.append(cut)
    bounds = [count]
    for cut in reversed(cuts):
        bounds.append(cut[bounds[-1]])
    return [0, *reversed(bounds)]
