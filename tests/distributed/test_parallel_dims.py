"""How ranks are divided: every rank has its own place, products fit, stages are balanced, and `auto` shards as little as fits."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnntrain.choices.parallel.auto import Auto, choose_parallel_dims
from dnntrain.choices.parallel.ddp import Ddp
from dnntrain.choices.parallel.fsdp import Fsdp
from dnntrain.choices.parallel.hsdp import Hsdp
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims, partition_costs
from dnntrain.errors import ConfigError
from dnntrain.utils.world import World

SMALL = st.integers(1, 4)


@given(SMALL, SMALL, SMALL, SMALL)
def test_every_rank_has_a_place_of_its_own(dp: int, shard: int, tp: int, pp: int) -> None:
    degrees = ParallelDims(dp, shard, tp, pp)
    places = [degrees.locate_rank(World(rank, degrees.ranks)) for rank in range(degrees.ranks)]
    coordinates = {(place.data_world.rank, place.tp, place.pp) for place in places}
    assert coordinates == set(itertools.product(range(dp * shard), range(tp), range(pp)))
    assert all(place.data_world.size == dp * shard for place in places)


def test_tensor_parallel_ranks_are_neighbors_and_stages_the_farthest_apart() -> None:
    places = [ParallelDims(replicate=2, shard=2, tp=2, pp=2).locate_rank(World(rank, 16)) for rank in range(16)]
    assert [place.tp for place in places[:4]] == [0, 1, 0, 1]
    assert [place.data_world.rank for place in places[:8]] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [place.pp for place in places] == [0] * 8 + [1] * 8


@given(SMALL, SMALL, SMALL, SMALL)
def test_one_rank_of_each_share_of_the_batch_counts_its_losses(dp: int, shard: int, tp: int, pp: int) -> None:
    degrees = ParallelDims(dp, shard, tp, pp)
    places = [degrees.locate_rank(World(rank, degrees.ranks)) for rank in range(degrees.ranks)]
    assert sorted(place.data_world.rank for place in places if place.should_count) == list(range(dp * shard))


@pytest.mark.parametrize(
    ("layout", "ranks", "degrees"),
    [
        (Ddp(), 4, ParallelDims(replicate=4)),
        (Ddp(tp=2), 8, ParallelDims(replicate=4, tp=2)),
        (Fsdp(), 6, ParallelDims(shard=6)),
        (Fsdp(replicate=None, shard=2), 6, ParallelDims(replicate=3, shard=2)),
        (Hsdp(), 64, ParallelDims(replicate=2, shard=32)),
        (Hsdp(shard=8), 64, ParallelDims(replicate=8, shard=8)),
        (ParallelConfig(replicate=2, shard=2, tp=2, pp=2), 16, ParallelDims(2, 2, 2, 2)),
        (ParallelConfig(), 1, ParallelDims()),
    ],
)
def test_a_degree_of_null_is_what_the_others_leave(layout: ParallelConfig, ranks: int, degrees: ParallelDims) -> None:
    assert layout.build(ranks) == degrees


@pytest.mark.parametrize(
    ("layout", "ranks", "reason", "fix"),
    [
        (
            ParallelConfig(replicate=3),
            4,
            "parallel.replicate=3 = 3 ranks, but the run has 4",
            "launch.nproc=3, or parallel.replicate=4",
        ),
        (
            ParallelConfig(replicate=2, tp=2),
            8,
            "= 4 ranks, but the run has 8",
            "launch.nproc=4, or parallel.replicate=4",
        ),
        (
            ParallelConfig(tp=3),
            4,
            "= 3 ranks, but the run has 4",
            "launch.nproc=3, or parallel.replicate=4 with every other degree 1",
        ),
        (Ddp(tp=3), 8, "does not divide 8 ranks", "launch.nproc=6"),
        (ParallelConfig(replicate=None, shard=None), 4, "only one degree", "parallel.shard=1"),
    ],
)
def test_a_product_that_is_not_the_ranks_names_the_nearest_that_is(
    layout: ParallelConfig, ranks: int, reason: str, fix: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        layout.resolve_dims(ranks)
    assert reason in str(refused.value)
    assert fix in str(refused.value)


def test_ranks_are_stated_where_every_degree_is() -> None:
    assert ParallelConfig(replicate=2, tp=3).required_ranks == 6
    assert Ddp().required_ranks is None
    assert Auto().required_ranks is None


def largest(costs: list[int], bounds: tuple[int, ...]) -> int:
    return max(sum(costs[a:b]) for a, b in itertools.pairwise(bounds))


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.data())
def test_stages_are_as_even_as_any_cut_can_make_them(costs: list[int], data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, len(costs)))
    bounds = partition_costs(costs, parts)
    cuts = itertools.combinations(range(1, len(costs)), parts - 1)
    best = min(largest(costs, (0, *cut, len(costs))) for cut in cuts)
    assert len(bounds) == parts + 1
    assert (bounds[0], bounds[-1]) == (0, len(costs))
    assert all(a < b for a, b in itertools.pairwise(bounds))
    assert largest(costs, tuple(bounds)) == best


def test_more_stages_than_sections_are_no_cut() -> None:
    with pytest.raises(ValueError, match="cannot partition 2 costs into 3 parts"):
        partition_costs([1.0, 2.0], 3)


@pytest.mark.parametrize(
    ("state", "other", "degrees"),
    [
        (50, 20, ParallelDims(replicate=12)),  # 70 of 80 are free
        (80, 20, ParallelDims(replicate=6, shard=2)),  # 40 + 20
        (100, 30, ParallelDims(replicate=6, shard=2)),  # 50 + 30, just
        (101, 30, ParallelDims(replicate=4, shard=3)),  # 33.7 + 30
        (600, 30, ParallelDims(shard=12)),  # 50 + 30, and a sixth would be 100 + 30
        (9000, 30, ParallelDims(shard=12)),  # nothing fits: the most that can be saved
    ],
)
def test_auto_shards_as_little_as_fits_a_device(state: float, other: float, degrees: ParallelDims) -> None:
    chosen, reason = choose_parallel_dims(12, state, other, device_bytes=100, headroom=0.2)
    assert chosen == degrees
    assert reason.split(":")[0].split(" ")[0] in ("ddp", "fsdp", "hsdp")


def test_auto_on_one_device_is_one_process() -> None:
    assert choose_parallel_dims(1, 1e12, 0, 1.0, 0.2)[0] == ParallelDims()
