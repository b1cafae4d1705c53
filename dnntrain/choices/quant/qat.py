"""Train with simulated quantization (quantization-aware training).

Sources: Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", 2018; Krishnamoorthi, "Quantizing deep convolutional networks
for efficient inference", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dnntrain.choices.quant._fake_quant import (
    get_ranges,
    insert_fake_quantization,
    list_fake_modules,
    map_reaches,
    remove_fake_quantization,
    update_folding_factors,
)
from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.config.fields import Annotated, Duration, Literal, PositiveInt, Probability, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import (
    BuildContext,
    Claim,
    Collectives,
    Hooks,
    LayoutRequirement,
    ModelStage,
    ModelTransform,
    Refusal,
    Role,
    RunFacts,
    ScheduledValue,
    StepInfo,
    TrainerHandles,
)
from dnntrain.utils.units import Duration as Length


@dataclass(frozen=True)
class Qat(PostTraining):
    """Train convolutions, linear layers and residual sums with 8-bit rounding.

    Activations: uint8, one scale per tensor. The range is a moving average of the extremes of each
    step's examples on all ranks: range = (1 - averaging) range + averaging extremes, after the
    step. Weights: int8, one scale per filter, with folded batch normalization. The first step
    measures ranges, so rounding begins with the second step at the earliest.
    """

    is_quantization_aware: ClassVar[bool] = True
    needs: ClassVar[frozenset[LayoutRequirement]] = frozenset({LayoutRequirement.WHOLE_MODEL})

    start: Duration = Duration(0, "%")  # time at which rounding begins; ranges are measured from the first step
    freeze_batch_norm: Duration = Duration(
        66, "%"
    )  # time at which batch normalization switches to its running statistics
    freeze_observers: Duration = Duration(80, "%")  # time at which the measurement of ranges ends
    averaging_constant: Annotated[float, Range(above=0, at_most=1)] = (
        0.05  # weight of a step's extremes in the moving average of a range
    )
    backend: Literal["none", "auto", "inductor", "onnxruntime"] = "none"  # integer export at the end of the run
    bench_batch_sizes: tuple[PositiveInt, ...] = (1, 64)  # batch sizes that backend=auto measures
    min_quantized_fraction: Probability = (
        0.5  # smallest fraction of multiply-adds in integers; with less, the export fails
    )

    def build(self, context: BuildContext) -> Hooks:
        self.check_options()
        self.check_backend()
        for name, value in vars(self).items():
            if isinstance(value, Length) and value.unit == "s":
                raise ConfigError(
                    f"quant.{name}={value} must not be a time", f"use %, ep or step, as in quant.{name}=50%"
                )
        if has_reached(self.freeze_observers, StepInfo(0, 0.0, 0.0)):
            raise ConfigError(
                f"quant.freeze_observers={self.freeze_observers}: no range is ever measured",
                "use quant.freeze_observers=80%",
            )
        start = self._choose_start(context)
        ranges = ActivationRanges(self.averaging_constant, context.collectives)
        shared_statistics = SharedStatistics(partial(self._is_freeze_step, context))

        def insert_rounding(model: nn.Module) -> nn.Module:
            insert_fake_quantization(model, context.spec.inputs.shape)
            return model

        return Hooks(
            model_transforms=(ModelTransform(ModelStage.QUANTIZE, insert_rounding),),
            scheduled_values=(
                ScheduledValue(
                    ranges.make_observer_setter, lambda step_info: not has_reached(self.freeze_observers, step_info)
                ),
                ScheduledValue(
                    make_rounding_setter, lambda step_info: step_info.step > 0 and has_reached(start, step_info)
                ),
                ScheduledValue(
                    make_batch_norm_setter, lambda step_info: not has_reached(self.freeze_batch_norm, step_info)
                ),
            ),
            after_step_hooks=(shared_statistics, ranges),
            bindings=(shared_statistics.bind, ranges.bind),
            export_transforms=(remove_fake_quantization,),
            export_metadata=(_get_export_metadata,),
            state={"quant": ranges},
        )

    def _choose_start(self, context: BuildContext) -> Length:
        """Return the time at which rounding begins; a debugging run rounds its last step at least."""
        if not context.total_steps or has_reached(self.start, _make_step_info(context, context.total_steps - 1)):
            return self.start
        if context.fits_durations:
            return Length(context.total_steps - 1, "step")
        raise ConfigError(f"quant.start={self.start}: no step is trained with rounding", "use quant.start=0%")

    def _is_freeze_step(self, context: BuildContext, step_info: StepInfo) -> bool:
        """Return whether the statistics are frozen from the next step on.

        True only for the last step before the freeze.
        """
        next_step = _make_step_info(context, step_info.step + 1)
        return has_reached(self.freeze_batch_norm, next_step) and not has_reached(self.freeze_batch_norm, step_info)

    def get_claims(self) -> tuple[Claim, ...]:
        return (Claim(Role.ACTIVATION_RANGES, "quant=qat", "quant=int8_static"),)

    def check_with(self, hooks: Hooks) -> None:
        if any(view.replaces == "statistics" for view in hooks.eval_weights):
            raise ConfigError(
                "quant=qat cannot fold the statistics of batch normalization, because another method replaces them"
            )

    def find_refusals(self, facts: RunFacts) -> Iterator[Refusal]:
        yield from super().find_refusals(facts)
        for claim in (*facts.get_claims(Role.WEIGHT_FORM), *facts.get_claims(Role.LINEAR_FORM)):
            yield Refusal(
                f"quant=qat cannot quantize the layers of {claim.setting}, because they compute with their weight in a "
                "custom way",
                f"{claim.remedy}, or quant=int8_static, which quantizes the trained model",
            )
        for claim in facts.get_claims(Role.BATCH_NORM_STATISTICS):
            yield Refusal(
                f"quant=qat cannot fold the statistics of batch normalization, because {claim.setting} replaces them",
                claim.remedy,
            )


def _make_step_info(context: BuildContext, step: int) -> StepInfo:
    """Return the progress of the run before step number `step`, from 0."""
    return StepInfo(
        step, context.epoch_schedule.epoch_at(step), step / context.total_steps if context.total_steps else 0.0
    )


def _get_export_metadata(model: nn.Module) -> dict[str, Any]:
    """Return the ranges for later readers: evaluation with rounding, and integer exports."""
    ranges = get_ranges(model)
    return {"quantized_ranges": ranges} if ranges else {}


def has_reached(length: Length, step_info: StepInfo) -> bool:
    """Return whether `length` of the run is done at `step_info`."""
    if length.unit == "%":
        return step_info.fraction * 100 >= length.value
    return (step_info.epoch if length.unit == "ep" else step_info.step) >= length.value


def make_rounding_setter(model: nn.Module) -> Callable[[float], None]:
    """Return the setter that switches rounding of `model` on or off."""
    return partial(_set_all, list_fake_modules(model), "quantizes")


def make_batch_norm_setter(model: nn.Module) -> Callable[[float], None]:
    """Return the setter that switches batch statistics on or off.

    If on, the batch normalization of `model` uses the statistics of the batch, and updates its
    running statistics.
    """
    norms: list[nn.Module] = [
        module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    return partial(_set_all, norms, "training")


def _set_all(modules: list[nn.Module], name: str, value: float) -> None:
    for module in modules:
        setattr(module, name, bool(value))


class ActivationRanges:
    """The ranges of all quantized activations.

    They are updated after each step from the extremes of the step, in one transfer for all.
    """

    def __init__(self, averaging: float, collect: Collectives) -> None:
        self._averaging = averaging
        self._collect = collect
        self._observing = False
        self._reach: dict[str, Tensor] = {}
        self._seen: list[Tensor] = []
        self._known = torch.zeros(0, dtype=torch.bool)
        self._model: nn.Module = nn.Identity()

    def bind(self, handles: TrainerHandles) -> None:
        self._model = handles.model
        reach_places = map_reaches(handles.model)
        self._reach = {name: getattr(module, f"{place}_reach") for name, (module, place) in reach_places.items()}
        self._seen = [getattr(module, f"{place}_seen") for module, place in reach_places.values()]
        device = self._seen[0].device if self._seen else None
        self._known = torch.zeros(len(reach_places), dtype=torch.bool, device=device)
        update_folding_factors(handles.model)

    def make_observer_setter(self, model: nn.Module) -> Callable[[float], None]:
        """Return the setter that switches measuring by `model` on or off."""
        modules = list_fake_modules(model)

        def set_observing(value: float) -> None:
            self._observing = bool(value)
            _set_all(modules, "observes", value)

        return set_observing

    @torch.no_grad()
    def __call__(self, step_info: StepInfo) -> None:
        update_folding_factors(self._model)
        if not self._observing or not self._seen:
            return
        extremes = self._collect.data_max(torch.stack(self._seen))
        reach = list(self._reach.values())
        new, self._known = update_ranges(torch.stack(reach), self._known, extremes, self._averaging)
        for range_tensor, value, seen_tensor in zip(reach, new, self._seen, strict=True):
            range_tensor.copy_(value)
            seen_tensor.fill_(-math.inf)

    def state_dict(self) -> dict[str, Any]:
        is_rounding = any(module.quantizes for module in list_fake_modules(self._model))
        return {"reach": dict(self._reach), "known": self._known, "quantizes": is_rounding}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state["reach"]) != set(self._reach):
            raise ValueError("the saved ranges belong to other layers")
        for name, tensor in self._reach.items():
            tensor.copy_(state["reach"][name])
        self._known = state["known"].to(self._known.device)
        make_rounding_setter(self._model)(state["quantizes"])
        update_folding_factors(self._model)


class SharedStatistics:
    """Average the batch normalization statistics over ranks when they are frozen.

    Ranks can have different statistics until then. With their mean, all ranks train one network.
    """

    def __init__(self, is_freeze_step: Callable[[StepInfo], bool]) -> None:
        self._freezes = is_freeze_step
        self._statistics: list[Tensor] = []

    def bind(self, handles: TrainerHandles) -> None:
        self._collect = handles.collectives
        self._statistics = [
            buffer
            for module in handles.model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]

    @torch.no_grad()
    def __call__(self, step_info: StepInfo) -> None:
        if self._collect.data_ranks > 1 and self._statistics and self._freezes(step_info):
            flat = torch.cat(self._statistics)
            mean = self._collect.data_sum(flat) / self._collect.data_ranks
            for statistic, value in zip(
                self._statistics, torch.split(mean, [len(item) for item in self._statistics]), strict=True
            ):
                statistic.copy_(value)


def update_ranges(reach: Tensor, known: Tensor, extremes: Tensor, averaging: float) -> tuple[Tensor, Tensor]:
    """Return the new (reach, known) of k tensors.

    `reach` [k, 2] moves toward the observed `extremes` [k, 2] = (-smallest, largest). The first
    extremes of a tensor are taken unchanged. A tensor that was not observed, or held a value that
    is not finite, keeps its range.
    """
    usable = extremes.isfinite().all(1, keepdim=True)
    extremes = torch.where(usable, extremes, reach).clamp_min(0)
    new_reach = torch.where(known[:, None], reach.lerp(extremes, averaging), extremes)
    return torch.where(usable, new_reach, reach), known | usable[:, 0]
