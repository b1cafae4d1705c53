"""Return outputs of inner modules beside the logits, from a wrapper of the model.

Compilation, DDP and FSDP see this module.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from dnntrain.errors import ConfigError
from dnntrain.protocols import FeatureTap

#: The name of the adapters in the model during training.
ADAPTERS = "capture_adapters"


def add_adapters(model: nn.Module, taps: Sequence[FeatureTap]) -> None:
    """Add copies of the adapters of `taps` to the model.

    They are then placed, trained and saved with it.
    """
    adapters = {capture.name: copy.deepcopy(capture.adapter) for capture in taps if capture.adapter is not None}
    if adapters:
        device = next((parameter.device for parameter in model.parameters()), None)
        model.add_module(ADAPTERS, nn.ModuleDict(adapters).to(device))


def remove_adapters(model: nn.Module) -> None:
    """Remove adapters and captures from the model: they are not exported."""
    if hasattr(model, ADAPTERS):
        delattr(model, ADAPTERS)
    for module in model.modules():
        for number, hook in list(module._forward_hooks.items()):
            if getattr(hook, "func", None) is _store_output:
                del module._forward_hooks[number]


class FeatureCapture(nn.Module):
    """Maps images to (logits, {name of a tap: output of its module and adapter})."""

    def __init__(self, model: nn.Module, taps: Sequence[FeatureTap]) -> None:
        super().__init__()
        self.model = model
        self._names = [tap.name for tap in taps]
        self._features: dict[str, Tensor] = {}
        modules = dict(model.named_modules())
        for tap in taps:
            if tap.module not in modules:
                raise ConfigError(
                    f"the model does not have a module {tap.module!r}",
                    f"its modules are {', '.join(name for name in modules if name)}",
                )
            modules[tap.module].register_forward_hook(partial(_store_output, self._features, tap.name))

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits: Tensor = self.model(images)
        adapters = getattr(self.model, ADAPTERS, {})
        features = {
            name: adapters[name](self._features[name]) if name in adapters else self._features[name]
            for name in self._names
        }
        self._features.clear()
        return logits, features


def _store_output(features: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    features[name] = output
