"""Outputs of inner modules beside the logits, in a way that compilation, DDP and FSDP see: one module around the model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from dnntrain.errors import ConfigError
from dnntrain.protocols import Capture

#: The name under which adapters are kept in the model while it is trained.
ADAPTERS = "capture_adapters"


def add_adapters(model: nn.Module, captures: Sequence[Capture]) -> None:
    """Keeps the adapters of `captures` in the model, so that they are placed, trained and saved with it."""
    adapters = {capture.name: capture.adapter for capture in captures if capture.adapter is not None}
    if adapters:
        device = next((parameter.device for parameter in model.parameters()), None)
        model.add_module(ADAPTERS, nn.ModuleDict(adapters).to(device))


def remove_adapters(model: nn.Module) -> None:
    """Takes adapters and captures out again: they are no part of what is exported."""
    if hasattr(model, ADAPTERS):
        delattr(model, ADAPTERS)
    for module in model.modules():
        for number, hook in list(module._forward_hooks.items()):
            if getattr(hook, "func", None) is _keep:
                del module._forward_hooks[number]


class Capturing(nn.Module):
    """Images → (logits, {name of a capture: outputs of its module, through its adapter})."""

    def __init__(self, model: nn.Module, captures: Sequence[Capture]) -> None:
        super().__init__()
        self.model = model
        self._names = [capture.name for capture in captures]
        self._found: dict[str, Tensor] = {}
        modules = dict(model.named_modules())
        for capture in captures:
            if capture.module not in modules:
                raise ConfigError(
                    f"the model has no module {capture.module!r}",
                    f"it has {', '.join(name for name in modules if name)}",
                )
            modules[capture.module].register_forward_hook(partial(_keep, self._found, capture.name))

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits: Tensor = self.model(images)
        adapters = getattr(self.model, ADAPTERS, {})
        features = {
            name: adapters[name](self._found[name]) if name in adapters else self._found[name] for name in self._names
        }
        self._found.clear()
        return logits, features


def _keep(found: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    found[name] = output
