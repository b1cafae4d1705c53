"""How the ranks are divided: copies, shards, tensor-parallel ranks and pipeline stages. Arithmetic only; no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dnntrain.config.fields import Literal, Positive, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from torch.nn import Module

#: The dimensions of the device mesh, the slowest first: ranks of one tensor-parallel group are neighbours.
DIMENSIONS = ("pp", "dp", "shard", "tp")

#: The layouts that use FSDP2 whatever their degrees are.
_SHARDING = ("fsdp", "hsdp")


@dataclass(frozen=True)
class Degrees:
    """Ranks along each dimension of the device mesh; their product is the number of ranks."""

    dp: int = 1
    shard: int = 1
    tp: int = 1
    pp: int = 1

    @property
    def ranks(self) -> int:
        """All processes of the run."""
        return self.dp * self.shard * self.tp * self.pp

    @property
    def data_ranks(self) -> int:
        """Ranks among which a batch is divided."""
        return self.dp * self.shard

    @property
    def sharded(self) -> bool:
        """True where a parameter may be in parts on several ranks."""
        return self.shard > 1 or self.tp > 1

    @property
    def plain(self) -> bool:
        """True where every rank holds the whole model: one process, or data parallelism alone."""
        return not self.sharded and self.pp == 1

    def place(self, world: World) -> Place:
        """Where rank `world.rank` stands."""
        rest, tp = divmod(world.rank, self.tp)
        rest, shard = divmod(rest, self.shard)
        pp, dp = divmod(rest, self.dp)
        data = World(dp * self.shard + shard, self.data_ranks, world.local_rank, world.launched)
        return Place(self, data, tp, pp)

    def __str__(self) -> str:
        parts = [f"{name} {getattr(self, name)}" for name in reversed(DIMENSIONS) if getattr(self, name) > 1]
        return " × ".join(parts) or "one process"


@dataclass(frozen=True)
class Place:
    """One rank's coordinates: which share of a batch (`data`), which slice of a layer (`tp`), which stage (`pp`)."""

    degrees: Degrees
    data: World
    tp: int = 0
    pp: int = 0

    @property
    def counts(self) -> bool:
        """True on the one rank of each data rank whose losses and predictions are counted: it sees the last stage's outputs."""
        return self.tp == 0 and self.pp == self.degrees.pp - 1


@dataclass(frozen=True)
class Arranged:
    """`model` has plain names and this rank's part of the parameters. `run` are the modules to call: the model, wrapped, or its stages."""

    model: Module
    run: Sequence[Module]
    stages: Sequence[int] = (0,)


@dataclass(frozen=True)
class Layout:
    """What all choices of `parallel` share: the degrees, and the options of each kind of parallelism.

    A degree of null is what the others leave of the ranks. All layouts lie on one device mesh of dimensions pp × dp × shard × tp.
    """

    dp: PositiveInt | None = (
        1  # copies of the model, each computing its share of the batch; null: the ranks that are left
    )
    shard: PositiveInt | None = 1  # ranks that share one copy's weights, gradients and optimizer state (FSDP2)
    tp: PositiveInt | None = 1  # ranks that share the width of each layer (tensor parallelism)
    pp: PositiveInt | None = 1  # ranks that share the depth of the model (pipeline parallelism)
    bucket_mb: Positive = 25.0  # ddp: size of a gradient bucket, MiB
    static_graph: bool = False  # ddp: promise that every step uses the same parameters, which saves a search
    compress: Literal["none", "bf16", "fp16", "powersgd"] = "none"  # ddp: form in which gradients are sent
    reshard_after_forward: bool = True  # fsdp: free gathered weights after the forward pass, and gather them again
    param_dtype: Literal["fp32", "bf16"] = "fp32"  # fsdp: number format in which weights are gathered and used
    cpu_offload: bool = False  # fsdp: keep shards in host memory (GPUs)
    schedule: Literal["gpipe", "1f1b", "interleaved"] = "1f1b"  # pp: order of forward and backward passes
    stages_per_rank: PositiveInt = 1  # pp: stages that one rank holds; interleaved needs 2 or more

    #: Whether the choice means several processes where nothing else says so.
    processes: ClassVar[str] = "many"

    def degrees(self, ranks: int) -> Degrees:
        """The degrees for `ranks` processes. Raises ConfigError where their product is another number."""
        asked = {name: getattr(self, name) for name in DIMENSIONS}
        free = [name for name, degree in asked.items() if degree is None]
        if len(free) > 1:
            raise ConfigError(
                f"parallel.{free[0]}=null and parallel.{free[1]}=null: only one degree can be what the others leave",
                f"set parallel.{free[1]}=1 or another number",
            )
        fixed = math.prod(degree for degree in asked.values() if degree is not None)
        if free:
            if ranks % fixed:
                raise ConfigError(
                    f"{_equation(asked)} = {fixed} does not divide {ranks} ranks, so nothing is left for parallel.{free[0]}",
                    f"use launch.nproc={max(1, ranks // fixed) * fixed}, or degrees whose product divides {ranks}",
                )
            asked[free[0]] = ranks // fixed
        elif fixed != ranks:
            raise ConfigError(
                f"{_equation(asked)} = {fixed} ranks, but {ranks} are there",
                f"use launch.nproc={fixed}, or {_nearest(asked, ranks)}",
            )
        return Degrees(**{name: int(degree or 1) for name, degree in asked.items()})

    @property
    def stated_ranks(self) -> int | None:
        """The number of processes where every degree is given; None where one of them is what is left."""
        asked = [getattr(self, name) for name in DIMENSIONS]
        return None if None in asked else math.prod(asked)


def uses_fsdp(layout: object, degrees: Degrees) -> bool:
    """FSDP2 carries shards, and copies beside tensor or pipeline parallelism; a layout that names it uses it at degree 1 too."""
    return degrees.shard > 1 or (degrees.dp > 1 and not degrees.plain) or layout_name(layout) in _SHARDING


def computes_together(name: str, degrees: Degrees) -> bool:
    """True where a forward pass is work of several ranks under the layout of this name: not of one process, nor of DDP."""
    return not degrees.plain or name in _SHARDING


def layout_name(layout: object) -> str:
    """The choice that a layout is an object of, as it is typed."""
    return type(layout).__name__.lower()


def _equation(asked: dict[str, int | None]) -> str:
    return (
        " × ".join(f"parallel.{name}={asked[name]}" for name in reversed(DIMENSIONS) if asked[name] not in (None, 1))
        or "1"
    )


def _nearest(asked: dict[str, int | None], ranks: int) -> str:
    """The degrees with the data dimension changed so that the product fits, where that can be."""
    for name in ("dp", "shard"):
        others = math.prod(degree or 1 for other, degree in asked.items() if other != name)
        if ranks % others == 0:
            return f"parallel.{name}={ranks // others}"
    return f"parallel.dp={ranks} with every other degree 1"


def balanced(costs: Sequence[float], parts: int) -> list[int]:
    """Bounds [parts + 1] that cut `costs` into `parts` runs, none of them empty, whose largest sum is least.

    Dynamic programming over the last cut, O(parts · n²). Raises ValueError where there are more parts than costs.
    """
    count = len(costs)
    if not 1 <= parts <= count:
        raise ValueError(f"{count} pieces cannot be cut into {parts} parts")
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    best = [sums[end] for end in range(count + 1)]
    cuts: list[list[int]] = []
    for part in range(2, parts + 1):
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
