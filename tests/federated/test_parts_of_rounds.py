"""Partitions, cohorts and exact sums are pure functions of seed and round."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dnntrain.errors import ConfigError, DivergedError
from dnntrain.federated.averaging import MeanJoin, PrivateJoin
from dnntrain.federated.cohort import Cohorts, share_tasks
from dnntrain.federated.exact_sum import ExactSum
from dnntrain.federated.partition import deal_like, make_parts
from dnntrain.federated.payload import Payload
from dnntrain.federated.server import MeanServer
from dnntrain.federated.transmission import Transmission, count_bytes_up, round_to_int8
from dnntrain.protocols.federation import ClientFaults, Compression, Federation, Partition, Privacy

INDEX = np.arange(600)
LABELS = INDEX % 10


def federation(**changes: object) -> Federation:
    base = Federation(20, 0.5, None, 2, Partition(), ClientFaults(), Privacy(), Compression(), MeanServer())
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards"])
def test_each_example_belongs_to_one_client(kind: str) -> None:
    parts = make_parts(Partition(kind, alpha=0.05), 20, INDEX, LABELS, None, 0)  # type: ignore[arg-type]
    assert np.array_equal(np.sort(np.concatenate(parts)), INDEX)
    assert min(map(len, parts)) > 0
    again = make_parts(Partition(kind, alpha=0.05), 20, INDEX, LABELS, None, 0)  # type: ignore[arg-type]
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_a_small_alpha_and_shards_leave_clients_few_classes() -> None:
    def count_classes(partition: Partition) -> float:
        return float(np.mean([len(set(LABELS[part])) for part in make_parts(partition, 20, INDEX, LABELS, None, 0)]))

    assert count_classes(Partition("dirichlet", alpha=0.05)) < count_classes(Partition("dirichlet", alpha=10.0))
    assert count_classes(Partition("shards", shards=1)) <= 2


def test_a_value_of_a_column_belongs_to_one_client() -> None:
    values = [f"shop {number % 7}" for number in INDEX]
    parts = make_parts(Partition("by_column", column="shop"), 3, INDEX, LABELS, values, 0)
    owners = [{values[number] for number in part} for part in parts]
    assert sum(map(len, owners)) == 7
    with pytest.raises(ConfigError, match="7, the number of values of the column shop"):
        make_parts(Partition("by_column", column="shop"), 8, INDEX, LABELS, values, 0)


@pytest.mark.parametrize("kind", ["dirichlet", "shards"])
def test_examples_without_a_class_are_not_divided_by_class(kind: str) -> None:
    with pytest.raises(ConfigError, match="needs one class for each example"):
        make_parts(Partition(kind), 3, INDEX, None, None, 0)  # type: ignore[arg-type]


def test_evaluation_examples_follow_the_class_shares_of_clients() -> None:
    parts = [INDEX[LABELS < 5], INDEX[LABELS >= 5]]
    first, second = deal_like(parts, LABELS, INDEX, 0)
    assert set(LABELS[first]) == {0, 1, 2, 3, 4}
    assert set(LABELS[second]) == {5, 6, 7, 8, 9}
    assert [len(part) for part in deal_like([INDEX[:150], INDEX[150:]], None, INDEX[:8], 0)] == [2, 6]


def test_a_cohort_is_the_same_whatever_was_drawn_before() -> None:
    cohorts = Cohorts(federation(faults=ClientFaults(0.3, 0.5)), (30,) * 20, 8, 0)
    late = cohorts.plan(7)
    assert Cohorts(federation(faults=ClientFaults(0.3, 0.5)), (30,) * 20, 8, 0).plan(7) == late
    assert late.asked == 10
    assert len(late.tasks) < 10
    assert {task.steps for task in late.tasks} != {8}
    assert all(task.first_step == 56 and 1 <= task.steps <= 8 for task in late.tasks)
    assert cohorts.plan(8).clients != late.clients


def test_ranks_share_all_tasks() -> None:
    tasks = Cohorts(federation(), tuple(range(10, 30)), 8, 0).plan(0).tasks
    shares = share_tasks(tasks, 3)
    assert sorted(task.client for share in shares for task in share) == [task.client for task in tasks]


def test_an_exact_sum_does_not_depend_on_order_or_grouping() -> None:
    terms = torch.randn(50, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    terms *= torch.logspace(-12, 6, 50, dtype=torch.float64)[:, None]
    whole, first, second = (ExactSum(1000, "cpu") for _ in range(3))
    for term in terms:
        whole.add(term, 1 / 50)
    for place in reversed(range(50)):
        (first if place % 3 else second).add(terms[place], 1 / 50)
    first.reduce(lambda high: high)
    first._high += second._high
    first._low += second._low
    assert torch.equal(first.value(), whole.value())
    assert torch.allclose(whole.value(), terms.sum(0), rtol=1e-12)


def test_one_term_is_its_own_sum_to_the_bit() -> None:
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 1000)
    total = ExactSum(1000, "cpu")
    total.add(weights.double() * 288, 1.0)
    assert torch.equal((total.value() / 288).float(), weights)


def test_weights_that_would_overflow_the_sum_have_diverged() -> None:
    join = MeanJoin(2, "cpu", 600)
    join.add(0, 300, torch.tensor([7e9, -7e9], dtype=torch.float64))
    join.add(1, 300, torch.tensor([7e9, 7e9], dtype=torch.float64))
    assert join.finish(lambda words: words).tolist() == [7e9, 0.0]
    with pytest.raises(DivergedError, match="too large for the exact sum"):
        join.add(1, 300, torch.tensor([0.0, -7.4e9], dtype=torch.float64))


def test_a_private_sum_is_divided_by_the_mean_number_of_clients() -> None:
    start = torch.zeros(1, dtype=torch.float64)
    join = PrivateJoin(start, "cpu", 2.4, start)
    for place in range(3):
        join.add(place, 10, start + 0.8)
    assert float(join.finish(lambda words: words)) == pytest.approx(1.0)


def make_private_way(mode: str, compression: Compression) -> tuple[Transmission, Payload]:
    model = torch.nn.Linear(8, 4)
    model.register_buffer("position", torch.arange(5))
    payload = Payload(model)
    privacy = Privacy(mode, clip=1.0, noise=2.0)  # type: ignore[arg-type]
    return Transmission(federation(privacy=privacy, compression=compression), payload, 0, "cpu"), payload


@pytest.mark.parametrize("compression", [Compression(), Compression("int8"), Compression("topk", 0.1)])
def test_the_norm_of_an_update_is_bounded_with_the_error_of_the_last_rounds(compression: Compression) -> None:
    way, payload = make_private_way("central", compression)
    start = payload.read("cpu")
    for number in range(6):
        sent = way.send(0, number, start, start + 1.0, False)
        assert float((sent - start).norm()) <= 1.0 + 1e-9
        way.errors.share([0], payload.weights, "cpu", lambda vector: vector)


def test_noise_and_clipping_leave_buffers_alone() -> None:
    way, payload = make_private_way("local", Compression())
    start = payload.read("cpu")
    sent = way.send(0, 0, start, start + 0.01, False)
    assert torch.equal(sent[payload.weights :], start[payload.weights :])
    assert not torch.equal(sent[: payload.weights], start[: payload.weights])
    noise = way.draw_central_noise(0)
    assert float(noise[: payload.weights].std()) == pytest.approx(2.0, rel=0.4)
    assert not noise[payload.weights :].any()


def test_int8_is_a_quarter_of_the_bytes() -> None:
    payload = Payload(torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Linear(128, 10)))
    assert count_bytes_up(Compression("int8"), payload) <= 0.26 * count_bytes_up(Compression(), payload)
    values = torch.tensor([0.0, 1.0, -2.54, 0.011])
    assert (round_to_int8(values) - values).abs().max() <= 0.01
    assert torch.equal(round_to_int8(torch.zeros(3)), torch.zeros(3))


def test_statistics_are_sent_and_frozen_weights_are_not() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    model[0].weight.requires_grad_(False)
    payload = Payload(model)
    assert (payload.weights, payload.size) == (2 + 2 + 2, 6 + 2 + 2 + 1)
    vector = payload.read("cpu") + 0.25
    payload.write(vector)
    assert torch.equal(model[1].running_mean, torch.full((2,), 0.25))
    assert int(model[1].num_batches_tracked) == 0
