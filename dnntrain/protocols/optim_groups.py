"""The base classes of the choices of `optim` and `sched`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from dnntrain.protocols.choice import Choice, Method
from dnntrain.protocols.data_spec import DataFeature
from dnntrain.protocols.hook_types import LayoutRequirement, ScheduledParam
from dnntrain.protocols.hooks import Hooks

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from dnntrain.protocols.context import BuildContext
    from dnntrain.protocols.task import TaskFeature
    from dnntrain.utils.hardware import Hardware


class OptimChoice(Choice):
    """An optimizer; `build_hooks` returns further hooks.

    needs                       properties of the layout and of the task that it needs
    lr                          the base learning rate
    lr_fields                   the options that are learning rates
    lr_scaling                  the rule by which `adapt_lr` scales it; "none" if it does not
    state_floats_per_parameter  float32 numbers of state per parameter, for the plan's memory
    supports_loss_scale         whether its step may follow a float16 loss scale
    supports_unfreezing         whether parameters may get their first gradient after the first step
    """

    lr: float
    lr_scaling: str = "none"
    lr_fields: ClassVar[tuple[str, ...]] = ("lr",)
    state_floats_per_parameter: ClassVar[float] = 2.0
    supports_loss_scale: ClassVar[bool] = True
    supports_unfreezing: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[LayoutRequirement | TaskFeature | DataFeature]:
        return frozenset()

    def build(self, model: nn.Module, options: Mapping[str, Any] | None = None) -> tuple[Optimizer, ...]:
        """Return the optimizers over the parameters of `model`.

        `options` is the result of `get_parameter_options` for the full model.
        """
        raise NotImplementedError

    def build_hooks(self, context: BuildContext) -> Hooks:
        """Return further hooks.

        They reach the optimizers through `TrainerHandles.optimizers`.
        """
        return Hooks()

    def adapt_lr(self, batch_size: int) -> Self:
        """Return the choice with learning rates for `batch_size` examples a step."""
        return self

    def format_lr_equation(self, batch_size: int) -> str:
        """Return the equation of the base learning rate, for the plan."""
        return f"{self.lr:g}"

    def list_rules_for_batch_size(self, batch_size: int) -> tuple[tuple[str, ...], ...]:
        """Return groups of overrides that scale the learning rates to other batch sizes.

        The rates as they are belong to `batch_size`. The usual rule comes first; an empty group leaves
        the rates as they are.
        """
        return ((),)

    def notes(self, hardware: Hardware) -> tuple[str, ...]:
        """Return notes for the plan."""
        return ()

    def list_fixed_parameters(self, model: nn.Module) -> frozenset[str]:
        """Return the names of the parameters that the optimizer does not train; they need no gradient."""
        return frozenset()

    def list_uncuttable_parameters(self, model: nn.Module) -> frozenset[str]:
        """Return the names of the parameters whose state cannot be cut with them.

        Tensors of a state are cut with a parameter if each of their axes has its size or 1.
        """
        return frozenset()

    def get_parameter_options(self, model: nn.Module) -> Mapping[str, Any]:
        """Return the options of each parameter by name.

        Raises ConfigError if a pattern matches no name.
        """
        return {}


class SchedChoice(Method):
    """A schedule of the learning rate, or of the values that `scheduled_params` names."""

    @property
    def scheduled_params(self) -> tuple[ScheduledParam, ...]:
        """The values that the schedule multiplies."""
        return (ScheduledParam.LEARNING_RATE,)

    def notes(self) -> tuple[str, ...]:
        """Return notes for the plan."""
        return ()
