"""A layout without its hardware: what ranks that are not there hold and send is what real collectives would."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dnntrain.cli.commands.plan import run
from dnntrain.cli.parser import parse_arguments
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.distributed.comm_cost import (
    Links,
    Traffic,
    all_reduce_traffic,
    count_node_neighbors,
    estimate_step_time,
    gather_or_scatter_traffic,
)
from dnntrain.distributed.fake_group import fake_process_group
from dnntrain.distributed.mesh import Mesh
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape
from dnntrain.run.layout_estimate import LayoutEstimate, count_in_flight, estimate_layout
from dnntrain.run.session import Session, open_session
from dnntrain.training.distribute_model import distribute_model
from dnntrain.utils.world import World

MLP = ("model=mlp", "model.hidden=[8]", "device=cpu", "precision=fp32", "train.cpu_threads=1")
#: 64 · 8 + 8 and 8 · 10 + 10.
MLP_NUMBERS = 610
VIT = ("model=vit_tiny", "model.depth=2", "model.embed_dim=16", "model.num_heads=2", "device=cpu", "precision=fp32")


def session(*words: str) -> Session:
    return open_session(decode_config(compose(["train.max_examples=256", *words])), World(), plan_only=True)


def foreseen(*words: str) -> LayoutEstimate:
    found = estimate_layout(session(*words))
    assert found is not None
    return found


def sent(found: LayoutEstimate) -> dict[str, float]:
    return {item.name: item.bytes for item in found.ranks[0].traffic}


def test_a_copy_sends_its_gradients_twice_less_one_part_each() -> None:
    found = foreseen(*MLP, "cluster.world_size=4", "parallel=ddp")
    (rank,) = found.ranks
    assert (rank.parameters, rank.weights, rank.gradients) == (MLP_NUMBERS, 4 * MLP_NUMBERS, 4 * MLP_NUMBERS)
    assert sent(found) == {"gradients": 2 * 3 / 4 * 4 * MLP_NUMBERS}


def test_compressed_gradients_are_half_as_many_bytes() -> None:
    found = foreseen(*MLP, "cluster.world_size=4", "parallel=ddp", "parallel.grad_compression=bf16")
    assert sent(found) == {"gradients": 2 * 3 / 4 * 2 * MLP_NUMBERS}


def test_groups_of_shards_gather_and_scatter_and_sum_over_the_groups() -> None:
    found = foreseen(*MLP, "cluster.world_size=64", "parallel=hsdp", "parallel.shard=8", "train.batch_size=64")
    first, last = found.ranks
    # Rows of 8, 8, 10 and 10 on 8 ranks: 1, 1, 2 and 2 rows of the first; the last has none of the 10.
    chunk = 64 + 1 + 2 * 8 + 2
    assert (first.rank, first.parameters) == (0, chunk)
    assert (last.rank, last.parameters) == (7, 64 + 1)
    assert sent(found) == {
        "gathered weights": 7 / 8 * 2 * 4 * 8 * chunk,
        "scattered gradients": 7 / 8 * 4 * 8 * chunk,
        "gradients between replicas": 2 * 7 / 8 * 4 * chunk,
    }


class _Recorded(TorchDispatchMode):
    """Bytes of the whole tensors of each kind of collective."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name == "c10d._allgather_base_.default":
            self.bytes["gathers"] += args[0].nbytes
        elif name == "_c10d_functional.all_gather_into_tensor.default":
            self.bytes["positions"] += args[0].nbytes * args[1]
        elif name == "_c10d_functional.reduce_scatter_tensor.default":
            self.bytes["positions"] += args[0].nbytes
        elif name == "c10d._reduce_scatter_base_.default":
            self.bytes["scatters"] += args[1].nbytes
        elif name == "_c10d_functional.all_reduce.default":
            self.bytes["sums"] += args[0].nbytes
        return func(*args, **(kwargs or {}))


def recorded(opened: Session, micro: int) -> dict[str, int]:
    """The collectives that torch calls in a real forward and backward pass of rank 0."""
    plan, config = opened.plan, opened.config
    data = plan.data
    with fake_process_group(plan.ranks, 0):
        model = config.model.build(ModelShape.from_spec(data.spec))
        place = plan.degrees.locate_rank(World(0, plan.ranks))
        checkpointing = config.train.activation_checkpointing
        mesh = Mesh(plan.degrees, "cpu")
        arranged = distribute_model(model, (), checkpointing, config.parallel, plan, place, mesh)
        with _Recorded() as seen:
            inputs = ModelShape.from_spec(data.spec).make_zeros(micro, torch.device("cpu"))
            arranged.run_modules[0](inputs).sum().backward()
    return seen.bytes


@pytest.mark.slow
@pytest.mark.parametrize("reshard", ["true", "false"])
def test_the_bytes_of_shards_are_those_that_torch_gathers_and_scatters(reshard: str) -> None:
    words = (*VIT, "cluster.world_size=4", "parallel=fsdp", f"parallel.reshard_after_forward={reshard}")
    found, seen = sent(foreseen(*words)), recorded(session(*words), 8)
    assert found["gathered weights"] == pytest.approx(3 / 4 * seen["gathers"])
    assert found["scattered gradients"] == pytest.approx(3 / 4 * seen["scatters"])


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_the_bytes_of_divided_layers_are_those_that_torch_sums(checkpointing: str) -> None:
    words = (*VIT, "cluster.world_size=2", "parallel=tp", f"train.activation_checkpointing={checkpointing}")
    found, seen = sent(foreseen(*words)), recorded(session(*words), 32)
    sums = 2 * 1 / 2 * seen["sums"]
    # A block of 4 sums is computed anew with 2, of which torch leaves out the last.
    assert found["sums within layers"] == pytest.approx(sums if checkpointing == "none" else sums * 6 / 5)


#: The head is the embedding, so that its logits are not gathered.
TEXT = (
    *("task=language_model", "data=python_library", "data.context=32", "model=gpt", "model.tied_head=true"),
    *("model.embed_dim=16", "model.depth=2", "model.num_heads=2", "device=cpu", "precision=fp32"),
    *("train.batch_size=8", "cluster.world_size=2", "parallel=tp"),
)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_the_bytes_of_shared_positions_are_those_that_torch_gathers_and_scatters(checkpointing: str) -> None:
    words = (*TEXT, "parallel.sequence=true", f"train.activation_checkpointing={checkpointing}")
    found, seen = sent(foreseen(*words)), recorded(session(*words), 8)
    # 2 blocks of 10, and 2 at the ends; torch recomputes all of a block's 4 but the last.
    share = 1.0 if checkpointing == "none" else (2 * 14 + 2) / (2 * 13 + 2)
    assert found["positions of layers"] == pytest.approx(1 / 2 * seen["positions"] * share)
    assert found["sums within layers"] == 0


@pytest.mark.slow
def test_shared_positions_keep_less_for_the_backward_pass() -> None:
    whole, shared = foreseen(*TEXT).ranks[0], foreseen(*TEXT, "parallel.sequence=true").ranks[0]
    # A block keeps 4 tensors of its width that ranks can share, beside 12 that tensor parallelism divides already.
    assert 0.55 < shared.activations / whole.activations < 0.85
    assert shared.weights == whole.weights


@pytest.mark.slow
def test_stages_send_activations_on_and_gradients_back() -> None:
    found = foreseen(*VIT, "cluster.world_size=3", "parallel=pp", "train.batch_size=32", "train.micro_batch_size=4")
    by_stage = [rank.traffic[0].bytes for rank in found.ranks]
    assert by_stage[1] == by_stage[0] + by_stage[2]
    assert by_stage[0] == by_stage[2] > 0
    assert sum(rank.parameters for rank in found.ranks) == session(*VIT).plan.model.parameters


@pytest.mark.sampled
@pytest.mark.parametrize(
    "words",
    [
        (*MLP, "cluster.world_size=4", "parallel=ddp"),
        (*VIT, "cluster.world_size=4", "parallel=fsdp"),
        (*VIT, "cluster.world_size=2", "parallel=tp"),
        (*VIT, "cluster.world_size=3", "parallel=pp", "train.batch_size=32", "train.micro_batch_size=4"),
    ],
)
def test_the_memory_of_the_plan_is_that_of_the_rank_that_holds_the_most(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run(parse_arguments(["plan", "train.max_examples=256", *words, "--json"]))
    made = json.loads(capsys.readouterr().out)
    memory = made["memory"]
    largest = max(made["foresight"]["ranks"], key=lambda rank: int(rank["memory_bytes"]))
    for name in ("weights", "gradients", "optimizer", "averages", "activations"):
        assert memory[name] == largest[name]
    others = memory["process"] + memory["data"] + memory["evaluation"]
    assert made["memory_bytes"] == largest["memory_bytes"] + others


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [(*MLP, "cluster.world_size=4", "parallel=ddp"), (*VIT, "cluster.world_size=4", "parallel=ddp")]
)
def test_copies_keep_the_activations_that_the_whole_model_does(words: tuple[str, ...]) -> None:
    (rank,) = foreseen(*words).ranks
    assert rank.activations == pytest.approx(session(*words).plan.memory.activations, rel=0.05)


@pytest.mark.parametrize(
    ("schedule", "several", "alive"),
    [("gpipe", 1, [8, 8, 8, 8]), ("1f1b", 1, [4, 3, 2, 1]), ("interleaved", 2, [11, 9, 7, 5])],
)
def test_activations_under_way_are_those_before_the_first_backward_pass(
    schedule: Any, several: int, alive: list[int]
) -> None:
    layout = ParallelConfig(pp=4, schedule=schedule, stages_per_rank=several)
    assert [count_in_flight(layout, ParallelDims(pp=4), stage, 8) for stage in range(4)] == alive


@pytest.mark.parametrize(
    ("ranks", "stride", "per_node", "together"),
    [(8, 1, 8, 8), (64, 1, 8, 8), (8, 8, 8, 1), (4, 2, 8, 4), (8, 2, 8, 4), (8, 1, 12, 4), (2, 16, 8, 1)],
)
def test_a_group_crosses_nodes_where_a_node_does_not_hold_it(
    ranks: int, stride: int, per_node: int, together: int
) -> None:
    assert count_node_neighbors(ranks, stride, per_node) == together


def test_a_transfer_takes_the_slowest_link_and_the_latency_of_each_hop() -> None:
    links = Links(rank_bandwidth=100.0, node_bandwidth=10.0, ranks_per_node=4, latency_s=0.5)
    within = all_reduce_traffic("a", 200.0, calls=1, ranks=2, stride=1, beside="nothing")
    assert links.compute_seconds(within) == 200 / 100 + 2 * 0.5
    across = gather_or_scatter_traffic("b", 160.0, calls=2, ranks=8, stride=1, beside="computation")
    assert links.compute_seconds(across) == 140 / 40 + 14 * 0.5
    assert links.compute_bandwidth(Traffic("c", 1.0, 1, 2, 4, "nothing", ring=False)) == 10


def test_a_step_is_computing_blocking_idle_and_what_nothing_hides() -> None:
    links = Links(rank_bandwidth=1.0, node_bandwidth=1.0, ranks_per_node=4, latency_s=0.0)
    traffic = [
        Traffic("layers", 2.0, 0, 2, 1, "nothing"),
        Traffic("gathers", 9.0, 0, 2, 1, "computation"),
        Traffic("sums", 3.0, 0, 2, 1, "backward"),
    ]
    found = estimate_step_time(6.0, traffic, links, stages=3, stages_per_rank=2, micro_batches=4, backward_share=2 / 3)
    assert (found.computing, found.blocking, found.idle) == (6.0, 2.0, 8 * 2 / 8)
    assert found.exposed == pytest.approx((9 - 6) + (3 - 2 / 3 * 6 / 4))
    assert found.total == pytest.approx(6 + 2 + 2 + 5)


@pytest.mark.slow
def test_the_command_prints_it_and_tells_which_figures_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", *MLP, "cluster.world_size=64", "+parallel=hsdp", "parallel.shard=8", "train.batch_size=64"]
    assert run(parse_arguments(words)) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "shard 8 × replicate 8" in text
    assert "not predicted: state cluster.device_tflops=N, cluster.link_gbps=N, cluster.ranks_per_node=N" in text
    figures = ["cluster.device_tflops=100", "cluster.link_gbps=100", "cluster.ranks_per_node=8"]
    assert run(parse_arguments([*words, *figures, "--json"])) == 0
    assert json.loads(capsys.readouterr().out)["foresight"]["missing"] == ["cluster.node_link_gbps=N"]
    assert run(parse_arguments([*words, *figures, "cluster.node_link_gbps=50", "--json"])) == 0
    step = json.loads(capsys.readouterr().out)["foresight"]["step_s"]
    # Two forward passes' worth back: 3 · 2 · (64 · 8 + 8 · 10) operations for the one example of each rank.
    assert step["computing"] == pytest.approx(3 * 2 * 592 / (100e12 * 0.4))


def test_what_does_not_divide_is_refused_without_the_ranks() -> None:
    with pytest.raises(ConfigError, match=r"parallel\.tp=64 does not divide 2"):
        session(*VIT, "cluster.world_size=64", "parallel=tp")


def test_ranks_that_are_not_there_train_nothing() -> None:
    config = decode_config(compose([*MLP, "cluster.world_size=64", "parallel=ddp", "train.batch_size=64"]))
    with pytest.raises(ConfigError, match=r"cluster\.world_size=64 is for planning only, but this run has 2 processes"):
        open_session(config, World())
