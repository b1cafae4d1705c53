"""A rank without examples computes placeholder rows, which leave no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dnntrain.choices.norm.ghost import Ghost
from dnntrain.choices.norm.sync import Sync, normalize_over_ranks
from dnntrain.distributed.loss_divisor import FixedDivisor
from dnntrain.distributed.spmd import SpmdExecutor
from dnntrain.nn.placeholder_rows import fill_empty, ignore_rows
from dnntrain.protocols import Batch, ModelOutputs, SingleProcess, StepBatch


class Flat(nn.Module):
    """A network that cannot compute zero rows, as most networks of others cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        assert len(images), "zero rows"
        outputs: Tensor = self.head(self.norm(images).reshape(len(images), -1))
        return outputs


def sum_outputs(outputs: ModelOutputs, batch: Batch) -> Tensor:
    assert len(outputs.outputs) == len(batch)
    return outputs.outputs.square().sum()


def make_batch(inputs: Tensor) -> Batch:
    index = torch.arange(len(inputs)).numpy()
    return Batch(inputs, torch.zeros(len(inputs), dtype=torch.int64), index, index)


def test_full_inputs_are_returned_unchanged() -> None:
    inputs = torch.ones(3, 1, 2, 2)
    assert fill_empty(inputs) is inputs


def test_empty_inputs_become_the_same_noise_each_time() -> None:
    rows = fill_empty(torch.empty(0, 3, 4, 4))
    assert rows.shape == (2, 3, 4, 4)
    assert torch.equal(rows, fill_empty(torch.empty(0, 3, 4, 4)))
    assert rows.std() > 0.5


def test_an_idle_rank_has_zero_gradients_and_keeps_its_statistics() -> None:
    model = Flat()
    before = copy.deepcopy(dict(model.named_buffers()))
    empty = make_batch(torch.empty(0, 1, 2, 2))
    divisor = FixedDivisor(lambda batch: batch.examples, "cpu", 2)
    executor = SpmdExecutor(model, sum_outputs, device="cpu", divisor=divisor, empty_batch=empty)
    loss = executor.compute_gradients(StepBatch([], 3, 1))
    assert float(loss.total) == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_a_placeholder_pass_adds_nothing_to_the_gradients_of_a_step() -> None:
    inputs = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    plain, padded = Flat(), Flat()
    padded.load_state_dict(plain.state_dict())
    empty = make_batch(torch.empty(0, 1, 2, 2))
    for model, passes in ((plain, 1), (padded, 2)):
        executor = SpmdExecutor(model, sum_outputs, device="cpu", empty_batch=empty)
        executor.compute_gradients(StepBatch([make_batch(inputs)], 3, passes))
    for ours, theirs in zip(padded.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(padded.buffers(), plain.buffers(), strict=True))


def test_outputs_of_no_examples_have_no_rows() -> None:
    executor = SpmdExecutor(Flat(), sum_outputs, device="cpu")
    assert executor.compute_outputs(make_batch(torch.empty(0, 1, 2, 2))).shape == (0, 3)


class OtherRank(SingleProcess):
    """Adds the moments of a second rank to a sum."""

    data_ranks = 2

    def __init__(self, other: Tensor) -> None:
        self.other = other

    def data_sum(self, tensor: Tensor) -> Tensor:
        return tensor + self.other


def test_joint_statistics_leave_placeholder_rows_out() -> None:
    other = torch.tensor([4 * 3.0, 4 * (2.0 + 9.0), 4.0], dtype=torch.float64)
    with ignore_rows(nn.Identity()):
        outputs, mean, var, count = normalize_over_ranks(
            torch.full((2, 1, 1, 1), 100.0), None, None, 0.0, OtherRank(other)
        )
    assert (float(mean), float(count)) == (3.0, 4.0)
    assert float(var) == pytest.approx(2.0)
    assert float(outputs[0]) == pytest.approx((100 - 3) / 2**0.5)


def test_a_synchronized_layer_learns_the_statistics_of_the_other_ranks() -> None:
    other = torch.tensor([4 * 3.0, 4 * (2.0 + 9.0), 4.0], dtype=torch.float64)
    model = Sync().convert(nn.Sequential(nn.BatchNorm2d(1)), OtherRank(other))
    with ignore_rows(model):
        model(torch.full((2, 1, 1, 1), 100.0))
    assert float(model.get_buffer("0.running_mean")) == pytest.approx(0.3)
    assert float(model.get_buffer("0.running_var")) == pytest.approx(0.9 + 0.1 * 2 * 4 / 3)


def test_a_ghost_layer_counts_no_virtual_batch_of_placeholder_rows() -> None:
    other = torch.tensor([3.0, 2.0, 1.0])
    model = Ghost(virtual_batch_size=2).convert(nn.Sequential(nn.BatchNorm2d(1)), OtherRank(other))
    with ignore_rows(model):
        model(torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 50)
    assert float(model.get_buffer("0.running_mean")) == pytest.approx(0.3)
    assert int(model.get_buffer("0.num_batches_tracked")) == 1
