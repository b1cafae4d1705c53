"""Your own optimizer: a torch.optim.Optimizer in a Python file, which is run as code.

class SignSGD(torch.optim.Optimizer):
    def __init__(self, params, lr, weight_decay=0.0, momentum=0.9): ...

dnntrain optim=custom optim.file=mine.py optim.name=SignSGD optim.args.momentum=0.8
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dnntrain.choices.optim._base import OptimizerChoice
from dnntrain.choices.optim._param_groups import ParameterOptions
from dnntrain.config.fields import Arguments, NonNegative, Positive
from dnntrain.errors import ConfigError
from dnntrain.protocols import LayoutRequirement
from dnntrain.utils.user_objects import check_keywords, describe_error, load_object


@dataclass(frozen=True)
class CustomOptimizer(OptimizerChoice):
    """Your class, called with the parameter groups, `lr` and the arguments of `args`.

    A group has `lr`, `weight_decay` and `params`. Each rank must compute the same step from the same
    gradients; of a sharded model it sees shards, so a step that relates the elements of a tensor, such
    as a norm, needs whole tensors.
    """

    lr: Positive = 1e-3  # base learning rate; the schedule multiplies it
    weight_decay: NonNegative = 0.0  # weight decay of the class; biases and norms have none
    file: str | None = None  # path of a Python file, which is run
    name: str | None = None  # name of the class in the file; null: its only torch.optim.Optimizer
    args: Arguments = Arguments()  # further arguments of the constructor, as optim.args.momentum=0.8
    elementwise: bool = False  # true: each element has a step of its own, so shards of a tensor may be stepped

    @property
    def needs(self) -> frozenset[LayoutRequirement]:
        return frozenset() if self.elementwise else frozenset({LayoutRequirement.WHOLE_PARAMETER})

    def list_code_options(self) -> tuple[str, ...]:
        return ("file",) if self.file else ()

    def build(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        if self.file is None:
            raise ConfigError("optim=custom needs optim.file", "for example: optim.file=mine.py optim.name=SignSGD")
        maker = load_object(
            Path(self.file).expanduser(),
            "optim",
            self.name,
            lambda value: isinstance(value, type) and issubclass(value, torch.optim.Optimizer),
            "classes that are a torch.optim.Optimizer",
        )
        args = self.args.values
        check_keywords(maker, args, "optim.args")
        try:
            optimizer = maker(self.make_param_groups(model, options), lr=self.lr, **args)
        except Exception as error:
            raise ConfigError(
                f"{maker.__name__} of optim.file={self.file} cannot be built: {describe_error(error)}"
            ) from error
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(f"{maker.__name__} of optim.file={self.file} must be a torch.optim.Optimizer")
        if self.weight_decay and "weight_decay" not in optimizer.defaults and not self.decoupled_weight_decay:
            raise ConfigError(
                f"optim.weight_decay={self.weight_decay:g} has no effect: {maker.__name__} has no weight_decay",
                "leave it out, or add optim.decoupled_weight_decay=true",
            )
        return (optimizer,)
