"""Base class of optimizer choices: learning rate, weight decay and parameter groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, ClassVar, Self

from torch import nn

from dnntrain.choices.optim._decoupled_decay import build_decoupled_decay
from dnntrain.choices.optim._param_groups import GroupRule, ParameterOptions, make_param_groups, make_parameter_options
from dnntrain.config.fields import Annotated, Literal, NonNegative, Positive, PositiveInt, Range, Text
from dnntrain.errors import ConfigError
from dnntrain.nn.width_factors import get_width_factors
from dnntrain.protocols import BuildContext, Hooks, OptimChoice, Refusal
from dnntrain.utils.hardware import Hardware

_DEFAULT_BASE_BATCH = 256


@dataclass(frozen=True)
class OptimizerChoice(OptimChoice):
    """Options that all optimizers share, and the methods that the plan calls.

    package      the package of the optimizer, if it is an extra of dnntrain
    batch_rule   how its learning rate usually follows the batch size: see `compute_lr_scale`
    """

    lr: Positive = 1e-3  # base learning rate; the schedule multiplies it
    weight_decay: NonNegative = 0.0  # weight decay; biases and norms have none
    no_weight_decay: tuple[str, ...] = ()  # patterns of further parameter names without weight decay, as ["embed.*"]
    param_groups: tuple[
        Annotated[
            str,
            Text(
                r"\S+( (lr_scale|weight_decay)=\d+(\.\d*)?(e[+-]?\d+)?){1,2}",
                "a pattern of parameter names and its settings, as 'head.* lr_scale=10 weight_decay=0'",
            ),
        ],
        ...,
    ] = ()  # learning rate factor (0: not trained) or decay by name, as ["head.* lr_scale=10 weight_decay=0"]; a later one wins
    layer_decay: Annotated[float, Range(above=0, at_most=1)] = (
        1.0  # factor on the learning rate per block before the last
    )
    lr_scaling: Literal["none", "linear", "sqrt"] = (
        "none"  # scale rates by batch_size / lr_base_batch_size, or its square root
    )
    lr_base_batch_size: PositiveInt = 256  # batch size for which lr is meant, if lr_scaling is not none

    decoupled_weight_decay: bool = False  # true: shrink the weights before each step, apart from the gradient
    weight_decay_layer_factor: Positive = (
        1.0  # decoupled decay: factor from each layer to the one before it; below 1, early layers decay less
    )
    weight_decay_parameters: str = (
        "*"  # decoupled decay: pattern of weight names, as stages.*; biases and norms never decay
    )

    package: ClassVar[str] = ""
    batch_rule: ClassVar[Literal["linear", "sqrt"]] = "sqrt"

    #: How large a step is: of one size in each number ("elementwise"), of one spectral norm ("spectral"), or otherwise.
    width_rule: ClassVar[Literal["elementwise", "spectral", "other"]] = "other"

    def __post_init__(self) -> None:
        if self.lr_scaling == "none" and self.lr_base_batch_size != _DEFAULT_BASE_BATCH:
            raise ValueError(
                f"lr_base_batch_size={self.lr_base_batch_size} has no effect with lr_scaling=none; use linear or sqrt"
            )
        if self.no_weight_decay and not self.weight_decay:
            raise ValueError(
                "no_weight_decay has no effect with weight_decay=0; "
                "set optim.weight_decay, or leave optim.no_weight_decay out"
            )
        rules = [GroupRule.parse(rule) for rule in self.param_groups]
        if self.decoupled_weight_decay:
            self._check_decoupled_decay(rules)
        elif self.weight_decay_layer_factor != 1 or self.weight_decay_parameters != "*":
            raise ValueError(
                "weight_decay_layer_factor and weight_decay_parameters have no effect "
                "without decoupled_weight_decay=true"
            )

    def _check_decoupled_decay(self, rules: Sequence[GroupRule]) -> None:
        if not self.weight_decay:
            raise ValueError("decoupled_weight_decay has no effect with weight_decay=0; set weight_decay=0.05")
        if self.no_weight_decay:
            raise ValueError(
                "no_weight_decay has no effect with decoupled_weight_decay; select weights with weight_decay_parameters"
            )
        if any(rule.weight_decay is not None for rule in rules):
            raise ValueError(
                "param_groups cannot set weight_decay with decoupled_weight_decay; use weight_decay_parameters, "
                "or decoupled_weight_decay=false"
            )

    def build_hooks(self, context: BuildContext) -> Hooks:
        if not self.decoupled_weight_decay:
            return Hooks()
        return build_decoupled_decay(
            self.weight_decay, self.weight_decay_layer_factor, self.weight_decay_parameters, context
        )

    def find_hardware_refusal(self, hardware: Hardware) -> Refusal | None:
        if self.package and find_spec(self.package) is None:
            return Refusal(f"needs the package {self.package}", f"install it: pip install 'dnntrain[{self.package}]'")
        return None

    def adapt_lr(self, batch_size: int) -> Self:
        """Return the same choice with its learning rates for `batch_size` examples a step."""
        factor = compute_lr_scale(self.lr_scaling, batch_size, self.lr_base_batch_size)
        rates = {name: rate for name, rate in vars(self).items() if name in self.lr_fields}
        return replace(self, **{name: rate * factor for name, rate in rates.items()}) if factor != 1 else self

    def format_lr_equation(self, batch_size: int) -> str:
        """Return the learning rate as `0.1 × 1024 / 256 = 0.4 (optim.lr_scaling=linear)`."""
        if self.lr_scaling == "none":
            return f"{self.lr:g}"
        ratio = f"{batch_size} / {self.lr_base_batch_size}"
        factor = ratio if self.lr_scaling == "linear" else f"√({ratio})"
        return f"{self.lr:g} × {factor} = {self.adapt_lr(batch_size).lr:g} (optim.lr_scaling={self.lr_scaling})"

    def list_rules_for_batch_size(self, batch_size: int) -> tuple[tuple[str, ...], ...]:
        """Return both rules of `lr_scaling`, that of the optimizer first; one empty group if a rule is set."""
        if self.lr_scaling != "none":
            return ((),)
        rules = sorted(("linear", "sqrt"), key=lambda rule: rule != self.batch_rule)
        return tuple((f"optim.lr_scaling={rule}", f"optim.lr_base_batch_size={batch_size}") for rule in rules)

    def get_parameter_options(self, model: nn.Module) -> dict[str, ParameterOptions]:
        """Return the options of each parameter of the whole model.

        Raises ConfigError if a pattern matches no parameter.
        """
        rules = [GroupRule.parse(rule) for rule in self.param_groups]
        weight_decay = 0.0 if self.decoupled_weight_decay else self.weight_decay
        factors = self.get_rate_factors(model)
        return make_parameter_options(model, weight_decay, self.no_weight_decay, rules, self.layer_decay, factors)

    def get_rate_factors(self, model: nn.Module) -> Mapping[str, float]:
        """Return the factors on the rates of a model that is parametrized for transfer over widths, by name.

        Raises ConfigError if such a model does not say how this optimizer's rates follow the width.
        """
        factors = get_width_factors(model)
        if not factors or self.width_rule == "spectral":
            return {}
        if self.width_rule == "elementwise":
            return factors
        raise ConfigError(
            "model.parametrization=mup states rates for optimizers whose steps do not depend on the size of the "
            "gradient, and for optim=muon",
            "use optim=adamw, or model.parametrization=standard",
        )

    def list_fixed_parameters(self, model: nn.Module) -> frozenset[str]:
        if not any(GroupRule.parse(rule).lr_scale == 0 for rule in self.param_groups):
            return frozenset()
        return frozenset(name for name, item in self.get_parameter_options(model).items() if item.lr_scale == 0)

    def make_param_groups(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None
    ) -> list[dict[str, Any]]:
        """Return all trainable parameters of `model` in groups, at the rate `lr`."""
        return make_param_groups(model.named_parameters(), options or self.get_parameter_options(model), self.lr)


def compute_lr_scale(rule: str, batch_size: int, base: int) -> float:
    """Return the factor on a learning rate that is meant for `base` examples a step.

    linear  batch_size / base (Goyal et al., "Accurate, large minibatch SGD", 2017)
    sqrt    its root (Krizhevsky, "One weird trick", 2014), for Adam-like optimizers (Malladi et
            al., 2022)
    """
    ratio = batch_size / base
    return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[rule]


def check_nesterov(nesterov: bool, momentum: float) -> None:
    """Raise ValueError if the look-ahead form is set without momentum."""
    if nesterov and not momentum:
        raise ValueError("nesterov=true has no effect without momentum; set momentum=0.9, or nesterov=false")
