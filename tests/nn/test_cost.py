"""The counted costs agree with torch's own counter and with what autograd really keeps."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dnntrain.choices.model.mlp import Mlp
from dnntrain.choices.model.mobilenet_v3_small import MobilenetV3Small
from dnntrain.choices.model.resnet_cifar import ResnetCifar
from dnntrain.choices.model.small_cnn import SmallCnn
from dnntrain.choices.model.vit_tiny import VitTiny
from dnntrain.nn.cost import (
    build_with_zero_weights,
    count_forward_cost,
    count_parameters,
    measure_activation_bytes,
)
from dnntrain.nn.shape import ModelShape

CIFAR = ModelShape(10, 3, 32, 32)


class Products(nn.Module):
    """Every kind of product that is counted, once."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 2, 3, 2)
        self.grouped = nn.Conv2d(2, 4, 3, groups=2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        features = self.grouped(self.up(images))
        square = features[..., :8, :8]
        square = torch.einsum("bcij,bcjk->bcik", square, square)
        square = torch.einsum("...ij,...jk->...ik", square, square) @ square
        flat = square.flatten(0, 1)
        flat = torch.baddbmm(flat, flat, flat.bmm(flat))
        mixed, _ = self.attention(flat, flat, flat, need_weights=True)
        result: Tensor = torch.addmm(mixed[0], mixed[0], mixed[1].mm(mixed[0]))
        return result


@pytest.mark.parametrize(
    "build",
    [
        lambda: SmallCnn().build(CIFAR),
        lambda: Mlp((32, 16)).build(CIFAR),
        lambda: ResnetCifar(depth=8).build(CIFAR),
        lambda: VitTiny(depth=2).build(CIFAR),
        lambda: MobilenetV3Small().build(CIFAR),
        Products,
    ],
    ids=["small_cnn", "mlp", "resnet", "vit", "mobilenet", "products"],
)
@pytest.mark.filterwarnings("ignore")
def test_operations_are_those_that_torch_counts(build: Any) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = build_with_zero_weights(build).eval()
    # torch's counter does not see into the fused kernels of the CPU.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(torch.zeros(2, 3, 32, 32))
        assert count_forward_cost(model, CIFAR)[0] == counter.get_total_flops() / 2
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_kept_bytes_of_a_perceptron_are_its_inputs_and_hidden_layers() -> None:
    model = Mlp((32, 16)).build(CIFAR)
    assert measure_activation_bytes(model, CIFAR, 4, 4) == 4 * 4 * (3072 + 32 + 16)
    assert measure_activation_bytes(model, CIFAR, 4, 2) == 4 * 2 * (3072 + 32 + 16)


def test_kept_bytes_of_small_cnn_are_counted_by_hand() -> None:
    shape = ModelShape(10, 1, 8, 8)
    model = SmallCnn().build(shape)
    # images, first features, second features, their pooled maximum, places of the maximum (int64), hidden
    floats = 64 + 32 * 36 + 64 * 16 + 64 * 4 + 128
    assert measure_activation_bytes(model, shape, 1, 4) == 4 * floats + 8 * 64 * 4


def test_counting_leaves_the_generator_and_the_threads_as_they_were() -> None:
    model = SmallCnn(dropout=0.5).build(CIFAR)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    count_forward_cost(model, CIFAR)
    measure_activation_bytes(model, CIFAR, 2, 4)
    build_with_zero_weights(lambda: SmallCnn().build(CIFAR))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_models_are_built_with_zeros_where_random_numbers_would_stand() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.norm = nn.BatchNorm2d(4)
            self.token = nn.Parameter(nn.init.trunc_normal_(torch.empty(4)))
            self.other = nn.Parameter(torch.empty(4))
            self.other = nn.init.uniform_(self.other)

    model: Any = build_with_zero_weights(Net)
    assert not any(tensor.any() for tensor in (model.linear.weight, model.linear.bias, model.token, model.other))
    assert (model.norm.weight == 1).all()


def test_frozen_and_shared_parameters_are_not_counted_twice() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    model[1].bias.requires_grad = False
    assert count_parameters(model) == 20


@pytest.mark.slow
def test_costs_are_counted_without_importing_torchs_compiler() -> None:
    code = """
import sys
from dnntrain.choices.model.small_cnn import SmallCnn
from dnntrain.nn.cost import build_with_zero_weights, count_forward_cost, count_parameters, measure_activation_bytes
from dnntrain.nn.shape import ModelShape
shape = ModelShape(10, 1, 28, 28)
model = build_with_zero_weights(lambda: SmallCnn(init="orthogonal").build(shape))
assert count_parameters(model) and count_forward_cost(model, shape)[0] and measure_activation_bytes(model, shape, 8, 4)
print([name for name in ("torch._dynamo", "sympy", "torchvision") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
