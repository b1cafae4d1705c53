"""AdamW with its two means in 8 bits, by torchao.optim.AdamW8bit.

Dettmers et al., "8-bit optimizers via block-wise quantization", 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import nn

from dnntrain.choices.optim._base import OptimizerChoice
from dnntrain.choices.optim._matrix_views import make_matrix_groups, swap_in_matrix_gradients
from dnntrain.choices.optim._param_groups import ParameterOptions
from dnntrain.config.fields import Fraction, Literal, NonNegative, Positive
from dnntrain.protocols import LayoutRequirement, Refusal
from dnntrain.utils.hardware import Hardware

#: The means of a parameter, and whether each has a sign.
_MEANS = {"exp_avg": True, "exp_avg_sq": False}

#: Means of fewer numbers stay in float32.
_MIN_CODES = 4096


@dataclass(frozen=True)
class AdamW8bit(OptimizerChoice):
    """AdamW that stores means of 4,096 numbers or more as 8-bit codes.

    Each block of 256 numbers has its largest value as its scale.
    """

    lr: Positive = 2e-3  # base learning rate; the schedule multiplies it
    weight_decay: NonNegative = 0.01  # weight decay; biases and norms have none
    beta1: Fraction = 0.9  # decay of the mean of gradients
    beta2: Fraction = 0.999  # decay of the mean of squared gradients
    eps: Positive = 1e-8  # added to the root of the second moment

    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.WHOLE_PARAMETER})
    state_floats_per_parameter: ClassVar[float] = 2 * (1 / 4 + 1 / 256)
    supports_loss_scale: ClassVar[bool] = False
    width_rule: ClassVar[Literal["elementwise", "spectral", "other"]] = "elementwise"

    def build(
        self, model: nn.Module, options: Mapping[str, ParameterOptions] | None = None
    ) -> tuple[torch.optim.Optimizer, ...]:
        groups = self.make_param_groups(model, options)
        optimizer: torch.optim.Optimizer = _make_matrix_adamw_8bit()(
            groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.eps
        )
        return (optimizer,)

    def list_uncuttable_parameters(self, model: nn.Module) -> frozenset[str]:
        # The codes and scales of a mean run over blocks of 256 numbers.
        return frozenset(name for name, parameter in model.named_parameters() if parameter.numel() >= _MIN_CODES)

    def find_hardware_refusal(self, hardware: Hardware) -> Refusal | None:
        if hardware.device not in ("cpu", "cuda"):
            return Refusal(
                f"has 8-bit kernels for CPU and CUDA, not for {hardware.device}", "use optim=adamw or device=cpu"
            )
        if find_spec("torchao") is None:
            return Refusal("needs the package torchao", "install it: pip install torchao")
        return None

    def notes(self, hardware: Hardware) -> tuple[str, ...]:
        if hardware.device != "cpu":
            return ()
        return (
            "optim=adamw_8bit is for GPUs: its steps take 4 to 45 times as long as those of optim=adamw on a CPU, and "
            "save 6 bytes of memory for each parameter",
        )


@cache
def _make_matrix_adamw_8bit() -> Any:
    """Return the optimizer class; define it at first use because torchao is slow to import."""
    from torchao.optim import AdamW8bit as TorchaoAdamW8bit
    from torchao.optim.subclass_8bit import OptimState8bit

    class MatrixAdamW8bit(TorchaoAdamW8bit):
        """torchao's AdamW8bit over matrix views, with a state of plain tensors.

        torchao's blocks need contiguous parameters. Between steps each mean is stored as
        `NAME_codes`, `NAME_scale` and `NAME_qmap`, which a checkpoint can hold; torchao's own
        tensors share their memory. It is compiled on a GPU with Triton; elsewhere compilation costs
        more than it saves.
        """

        def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
            view_groups, self._parameter_by_view = make_matrix_groups(groups)
            super().__init__(view_groups, **options)

        def add_param_group(self, param_group: dict[str, Any]) -> None:
            rate = float(param_group.get("lr", self.defaults["lr"]))
            super().add_param_group(param_group)
            # torchao holds a float32 tensor, which schedules would replace by a number; a step converts it.
            self.param_groups[-1]["lr"] = rate

        @torch.no_grad()
        def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
            """Do one step; `closure` is not used."""
            rates = [group["lr"] for group in self.param_groups]
            for group in self.param_groups:
                group["lr"] = torch.tensor(group["lr"], dtype=torch.float32)
            for state in self.state.values():
                _wrap_state(state, OptimState8bit)
            with swap_in_matrix_gradients(self._parameter_by_view), _get_compiler_stance(self.param_groups):
                super().step()  # type: ignore[no-untyped-call]
            for state in self.state.values():
                _unwrap_state(state, OptimState8bit)
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
            return None

    return MatrixAdamW8bit


def _wrap_state(state: dict[str, Any], state_class: Any) -> None:
    for name, signed in _MEANS.items():
        if f"{name}_codes" in state:
            attributes = [state.pop(f"{name}_{attribute}") for attribute in state_class.tensor_attrs]
            state[name] = state_class(*attributes, signed, torch.float32)


def _unwrap_state(state: dict[str, Any], state_class: Any) -> None:
    for name in _MEANS:
        if isinstance(state[name], state_class):
            mean = state.pop(name)
            state.update({f"{name}_{attribute}": getattr(mean, attribute) for attribute in state_class.tensor_attrs})


def _get_compiler_stance(groups: list[dict[str, Any]]) -> Any:
    device = groups[0]["params"][0].device.type if groups else "cpu"
    can_compile = device == "cuda" and find_spec("triton") is not None
    return nullcontext() if can_compile else torch.compiler.set_stance("force_eager")
