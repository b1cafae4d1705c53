"""How the ranks are divided: copies, shards, tensor-parallel ranks and pipeline stages. Arithmetic only; no torch."""

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

#: The dimensions of the device mesh, the slowest first: ranks of one tensor-parallel group are neighbours.
MESH_DIMS = ("pp", "replicate", "shard", "tp")


@dataclass(frozen=True)
class ParallelDims:
    """Ranks along each dimension of the device mesh; their product is the number of ranks."""

    replicate: int = 1
    shard: int = 1
    tp: int = 1
    pp: int = 1

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """The degrees in the order of MESH_DIMS."""
        return self.pp, self.replicate, self.shard, self.tp

    @property
    def ranks(self) -> int:
        """All processes of the run."""
        return self.replicate * self.shard * self.tp * self.pp

    @property
    def data_ranks(self) -> int:
        """Ranks among which a batch is divided."""
        return self.replicate * self.shard

    @property
    def is_sharded(self) -> bool:
        """True where a parameter may be in parts on several ranks."""
        return self.shard > 1 or self.tp > 1

    @property
    def has_whole_model(self) -> bool:
        """True where every rank holds the whole model: one process, or data parallelism alone."""
        return not self.is_sharded and self.pp == 1

    def locate_rank(self, world: World) -> RankCoords:
        """Where rank `world.rank` stands."""
        rest, tp = divmod(world.rank, self.tp)
        rest, shard = divmod(rest, self.shard)
        pp, dp = divmod(rest, self.replicate)
        data = World(dp * self.shard + shard, self.data_ranks, world.local_rank, world.is_launched)
        return RankCoords(self, data, tp, pp)

    def __str__(self) -> str:
        sizes = zip(reversed(MESH_DIMS), reversed(self.sizes), strict=True)
        terms = [f"{name} {size}" for name, size in sizes if size > 1]
        return " × ".join(terms) or "one process"


@dataclass(frozen=True)
class RankCoords:
    """One rank's coordinates: which share of a batch (`data`), which slice of a layer (`tp`), which stage (`pp`)."""

    dims: ParallelDims
    data_world: World
    tp: int = 0
    pp: int = 0

    @property
    def should_count(self) -> bool:
        """True on the one rank of each data rank whose losses and predictions are counted: it sees the last stage's outputs."""
        return self.tp == 0 and self.pp == self.dims.pp - 1


@dataclass(frozen=True)
class ParallelizedModel:
    """`model` has plain names and this rank's part of the parameters. `run` are the modules to call: the model, wrapped, or its stages."""

    model: Module
    run_modules: Sequence[Module]
    stage_indices: Sequence[int] = (0,)


@dataclass(frozen=True)
class ParallelConfig(ParallelChoice):
    """What all choices of `parallel` share: the degrees, and the options of each kind of parallelism.

    A degree of null is what the others leave of the ranks. All layouts lie on one device mesh of dimensions pp × replicate × shard × tp.
    """

    replicate: PositiveInt | None = (
        1  # replicas of the model, each with its share of the batch; null: the remaining ranks
    )
    shard: PositiveInt | None = 1  # ranks that share one replica's weights, gradients and optimizer state (FSDP2)
    tp: PositiveInt | None = 1  # ranks that share the width of each layer (tensor parallelism)
    pp: PositiveInt | None = 1  # ranks that share the depth of the model (pipeline parallelism)
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
        """The degrees for `ranks` processes. Raises ConfigError where their product is another number."""
        degree_by_name = self._requested_degrees
        free_names = [name for name, degree in degree_by_name.items() if degree is None]
        if len(free_names) > 1:
            raise ConfigError(
                f"parallel.{free_names[0]}=null and parallel.{free_names[1]}=null: only one degree can be what the others leave",
                f"set parallel.{free_names[1]}=1 or another number",
            )
        fixed_product = math.prod(degree for degree in degree_by_name.values() if degree is not None)
        if free_names:
            if ranks % fixed_product:
                raise ConfigError(
                    f"{_format_product(degree_by_name)} = {fixed_product} does not divide {ranks} ranks, so nothing is left for parallel.{free_names[0]}",
                    f"use launch.nproc={max(1, ranks // fixed_product) * fixed_product}, or degrees whose product divides {ranks}",
                )
            degree_by_name[free_names[0]] = ranks // fixed_product
        elif fixed_product != ranks:
            raise ConfigError(
                f"{_format_product(degree_by_name)} = {fixed_product} ranks, but {ranks} are there",
                f"use launch.nproc={fixed_product}, or {_suggest_dims(degree_by_name, ranks)}",
            )
        return ParallelDims(**{name: int(degree or 1) for name, degree in degree_by_name.items()})

    @property
    def required_ranks(self) -> int | None:
        """The number of processes where every degree is given; None where one of them is what is left."""
        degrees = [degree for degree in self._requested_degrees.values() if degree is not None]
        return math.prod(degrees) if len(degrees) == len(MESH_DIMS) else None

    @property
    def gradient_copies(self) -> int:
        """PowerSGD keeps what its factors left out."""
        return int(self.grad_compression == "powersgd")

    @property
    def _requested_degrees(self) -> dict[str, int | None]:
        """The degrees as set, the slowest dimension first."""
        return {"pp": self.pp, "replicate": self.replicate, "shard": self.shard, "tp": self.tp}


def uses_fsdp(layout: ParallelChoice | None, dims: ParallelDims) -> bool:
    """FSDP2 carries shards, and copies beside tensor or pipeline parallelism; a layout that names it uses it at degree 1 too."""
    is_fsdp_layout = layout is not None and layout.uses_fsdp
    return dims.shard > 1 or (dims.replicate > 1 and not dims.has_whole_model) or is_fsdp_layout


def is_forward_collective(layout: ParallelChoice, dims: ParallelDims) -> bool:
    """Whether a forward pass is work of several ranks: not that of one process, nor of DDP."""
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
    """The degrees with the data dimension changed so that the product fits, where that can be."""
    for name in ("replicate", "shard"):
        other_product = math.prod(degree or 1 for other_name, degree in degree_by_name.items() if other_name != name)
        if ranks % other_product == 0:
            return f"parallel.{name}={ranks // other_product}"
    return f"parallel.replicate={ranks} with every other degree 1"


def partition_costs(costs: Sequence[float], num_parts: int) -> list[int]:
    """Bounds [parts + 1] that cut `costs` into `parts` runs, none of them empty, whose largest sum is least.

    Dynamic programming over the last cut, O(parts · n²). Raises ValueError where there are more parts than costs.
    """
    count = len(costs)
    if not 1 <= num_parts <= count:
        raise ValueError(f"{count} pieces cannot be cut into {num_parts} parts")
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
