"""Partitions, cohorts and exact sums are pure functions of seed and round."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dnntrain.errors import ConfigError
from dnntrain.federated.cohort import Cohorts, share_tasks
from dnntrain.federated.exact_sum import ExactSum
from dnntrain.federated.partition import deal_like, make_parts
from dnntrain.federated.payload import Payload
from dnntrain.federated.server import MeanServer
from dnntrain.federated.transmission import count_bytes_up, round_to_int8
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


def test_numbers_have_no_classes_to_divide_by() -> None:
    with pytest.raises(ConfigError, match="needs one class for each example"):
        make_parts(Partition("dirichlet"), 3, INDEX, INDEX.astype(np.float32), None, 0)


def test_evaluation_examples_follow_the_class_shares_of_clients() -> None:
    parts = [INDEX[LABELS < 5], INDEX[LABELS >= 5]]
    first, second = deal_like(parts, LABELS, INDEX, LABELS, 0)
    assert set(LABELS[first]) == {0, 1, 2, 3, 4}
    assert set(LABELS[second]) == {5, 6, 7, 8, 9}


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
        whole.add(term)
    for place in reversed(range(50)):
        (first if place % 3 else second).add(terms[place])
    first.reduce(lambda high: high)
    first._high += second._high
    first._low += second._low
    assert torch.equal(first.value(), whole.value())
    assert torch.allclose(whole.value(), terms.sum(0), rtol=1e-12)


def test_one_term_is_its_own_sum_to_the_bit() -> None:
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, 1000)
    total = ExactSum(1000, "cpu")
    total.add(weights.double() * 288)
    assert torch.equal((total.value() / 288).float(), weights)


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
    vector = payload.read() + 0.25
    payload.write(vector)
    assert torch.equal(model[1].running_mean, torch.full((2,), 0.25))
    assert int(model[1].num_batches_tracked) == 0
