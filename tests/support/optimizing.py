"""A small network, fixed gradients, and steps of an optimizer on them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

Formula = Callable[[int, Tensor, Tensor], Tensor]


def network() -> nn.Sequential:
    """Every kind of parameter: a convolution, a norm, a hidden and a last linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8), nn.ReLU(), nn.Linear(8, 5)
    )


def give_gradients(model: nn.Module, number: int) -> None:
    """The gradients of step `number`: the same for equal models, of a size that differs from step to step."""
    generator = torch.Generator().manual_seed(number)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=generator) * (1 + number % 3)
        parameter.grad = _like(gradient, parameter)


def _like(gradient: Tensor, parameter: nn.Parameter) -> Tensor:
    """As autograd leaves it: in the memory format of its parameter, and sharded as it is."""
    if isinstance(parameter, DTensor):
        return distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
    return torch.empty_like(parameter).copy_(gradient)


def optimize(model: nn.Module, optimizers: tuple[Optimizer, ...], steps: int, first: int = 0) -> None:
    for number in range(first, first + steps):
        give_gradients(model, number)
        for optimizer in optimizers:
            optimizer.step()


def by_hand(model: nn.Module, steps: int, formula: Callable[[str], Formula]) -> dict[str, Tensor]:
    """float64 parameters after `steps` of `formula(name)(t, weights, gradient) -> new weights`, t from 1."""
    weights = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    rules = {name: formula(name) for name in weights}
    for number in range(steps):
        give_gradients(model, number)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            weights[name] = rules[name](number + 1, weights[name], parameter.grad.double())
    return weights


def assert_weights(model: nn.Module, expected: dict[str, Tensor], rtol: float = 1e-5, atol: float = 1e-6) -> None:
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=rtol, atol=atol, msg=name)


def decays(name: str) -> bool:
    """True for the weights of `network()` that decay by default."""
    return name in ("0.weight", "4.weight", "6.weight")
