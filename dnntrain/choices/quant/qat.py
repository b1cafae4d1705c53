"""Quantisation-aware training (Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
inference", 2018; Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference", 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dnntrain.choices.quant._fake_quant import inserted, prepared, ranges_of, reaches, refold, restored
from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.config.fields import Annotated, Duration, Literal, PositiveInt, Probability, Range
from dnntrain.errors import ConfigError
from dnntrain.protocols import Built, Collectives, Context, Control, ModelStage, ModelTransform, Moment, Need, Parts
from dnntrain.utils.units import Duration as Length


@dataclass(frozen=True)
class Qat(PostTraining):
    """Convolutions, linear layers and residual additions are trained with the rounding of 8-bit integers.

    Activations: uint8, one scale a tensor, whose range is a moving average of the extremes of each step's examples on all ranks:
    range = (1 - averaging) range + averaging extremes, after the step. Weights: int8, one scale a filter, batch normalisation folded in.
    The first step measures ranges, so that rounding begins with the second at the earliest.
    """

    learned: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({Need.WHOLE_MODEL})

    start: Duration = Duration(0, "%")  # when rounding begins; ranges are measured from the first step on
    freeze_batch_norm: Duration = Duration(66, "%")  # when batch normalisation begins to use its running statistics
    freeze_observers: Duration = Duration(80, "%")  # when ranges are measured no more
    averaging: Annotated[float, Range(above=0, at_most=1)] = 0.05  # share of a step's extremes in the range
    backend: Literal["none", "auto", "inductor", "onnxruntime"] = (
        "none"  # integer export that the run writes at its end
    )
    auto_batches: tuple[PositiveInt, ...] = (1, 64)  # batch sizes to measure at; of backend=auto
    min_share: Probability = 0.5  # least share of multiply-adds that must run in integers in an export; else it fails

    def build(self, context: Context) -> Parts:
        self.check()
        self.check_backend()
        for name in ("start", "freeze_batch_norm", "freeze_observers"):
            if getattr(self, name).unit == "s":
                raise ConfigError(f"quant.{name}={getattr(self, name)} is a time", "give it in %, ep or step")
        if reached(self.freeze_observers, Moment(0, 0.0, 0.0)):
            raise ConfigError(
                f"quant.freeze_observers={self.freeze_observers}: no range is ever measured",
                "use quant.freeze_observers=80%",
            )
        if context.total_steps and not reached(self.start, _moment(context, context.total_steps - 1)):
            raise ConfigError(f"quant.start={self.start}: no step is trained with rounding", "use quant.start=0%")
        ranges = Ranges(self.averaging, context.collect)

        def transform(model: nn.Module) -> nn.Module:
            inserted(model, context.input_shape)
            return model

        return Parts(
            model=(ModelTransform(ModelStage.QUANTIZE, transform),),
            controls=(
                Control(ranges.observing, lambda moment: not reached(self.freeze_observers, moment)),
                Control(quantising, lambda moment: moment.step > 0 and reached(self.start, moment)),
                Control(normalising, lambda moment: not reached(self.freeze_batch_norm, moment)),
            ),
            after_step=(SharedStatistics(partial(self._freezes, context)), ranges),
            export=(restored,),
            card=(_card,),
            state={"quant": ranges},
        )

    def _freezes(self, context: Context, moment: Moment) -> bool:
        """True where statistics are frozen from the step after that of `moment` on, and were not before."""
        after = _moment(context, moment.step + 1)
        return reached(self.freeze_batch_norm, after) and not reached(self.freeze_batch_norm, moment)

    def check_with(self, parts: Parts) -> None:
        """Raises ConfigError where another method replaces the statistics that are folded in."""
        if any(view.replaces == "statistics" for view in parts.evaluation):
            knob = "reg.swa.batches" if "swa_statistics" in parts.state else "norm.precise"
            raise ConfigError(
                f"quant=qat folds the statistics of batch normalisation, which {knob} would replace",
                f"use {knob}=0",
            )


def _moment(context: Context, step: int) -> Moment:
    """The moment before step number `step`, from 0."""
    return Moment(step, context.times.epoch_at(step), step / context.total_steps if context.total_steps else 0.0)


def _card(model: nn.Module) -> dict[str, Any]:
    """The ranges, for what is read from the run's files later: evaluation with rounding, and integer exports."""
    ranges = ranges_of(model)
    return {"quantised_ranges": ranges} if ranges else {}


def reached(length: Length, moment: Moment) -> bool:
    """True where `length` of the run is done at `moment`."""
    if length.unit == "%":
        return moment.fraction * 100 >= length.value
    return (moment.epoch if length.unit == "ep" else moment.step) >= length.value


def quantising(model: nn.Module) -> Callable[[float], None]:
    """The setter of whether `model` rounds."""
    return partial(_set_all, prepared(model), "quantises")


def normalising(model: nn.Module) -> Callable[[float], None]:
    """The setter of whether the batch normalisation of `model` uses the statistics of the batch, and follows them."""
    norms: list[nn.Module] = [
        module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    return partial(_set_all, norms, "training")


def _set_all(modules: list[nn.Module], name: str, value: float) -> None:
    for module in modules:
        setattr(module, name, bool(value))


class Ranges:
    """The ranges of all activations that are quantised. What was seen in a step is taken in after it, in one transfer for all."""

    def __init__(self, averaging: float, collect: Collectives) -> None:
        self._averaging = averaging
        self._collect = collect
        self._observing = False
        self._reach: dict[str, Tensor] = {}
        self._seen: list[Tensor] = []
        self._known = torch.zeros(0, dtype=torch.bool)
        self._model: nn.Module = nn.Identity()

    def bind(self, built: Built) -> None:
        self._model = built.model
        found = reaches(built.model)
        self._reach = {name: getattr(module, f"{place}_reach") for name, (module, place) in found.items()}
        self._seen = [getattr(module, f"{place}_seen") for module, place in found.values()]
        device = self._seen[0].device if self._seen else None
        self._known = torch.zeros(len(found), dtype=torch.bool, device=device)
        refold(built.model)

    def observing(self, model: nn.Module) -> Callable[[float], None]:
        """The setter of whether `model` measures."""
        modules = prepared(model)

        def observe(value: float) -> None:
            self._observing = bool(value)
            _set_all(modules, "observes", value)

        return observe

    @torch.no_grad()
    def __call__(self, moment: Moment) -> None:
        refold(self._model)
        if not self._observing or not self._seen:
            return
        seen = self._collect.data_max(torch.stack(self._seen))
        reach = list(self._reach.values())
        new, self._known = followed(torch.stack(reach), self._known, seen, self._averaging)
        for own, value, kept in zip(reach, new, self._seen, strict=True):
            own.copy_(value)
            kept.fill_(-math.inf)

    def state_dict(self) -> dict[str, Any]:
        rounding = any(module.quantises for module in prepared(self._model))
        return {"reach": dict(self._reach), "known": self._known, "quantises": rounding}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if set(state["reach"]) != set(self._reach):
            raise ValueError("the saved ranges are of other layers")
        for name, tensor in self._reach.items():
            tensor.copy_(state["reach"][name])
        self._known = state["known"].to(self._known.device)
        quantising(self._model)(state["quantises"])
        refold(self._model)


class SharedStatistics:
    """Where each rank has statistics of its own: all go on with their mean once they are frozen, so that all train one network."""

    def __init__(self, freezes: Callable[[Moment], bool]) -> None:
        self._freezes = freezes
        self._statistics: list[Tensor] = []

    def bind(self, built: Built) -> None:
        self._collect = built.collect
        self._statistics = [
            buffer
            for module in built.model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        ]

    @torch.no_grad()
    def __call__(self, moment: Moment) -> None:
        if self._collect.data_ranks > 1 and self._statistics and self._freezes(moment):
            flat = torch.cat(self._statistics)
            mean = self._collect.data_sum(flat) / self._collect.data_ranks
            for own, value in zip(
                self._statistics, torch.split(mean, [len(item) for item in self._statistics]), strict=True
            ):
                own.copy_(value)


def followed(reach: Tensor, known: Tensor, seen: Tensor, averaging: float) -> tuple[Tensor, Tensor]:
    """The new (reach, known) of [k] tensors: reach [k, 2] moved towards what was `seen` [k, 2] = (-smallest, largest).

    The first that is seen is taken as it is. A tensor that was not seen, or held a number that is not finite, keeps its range.
    """
    usable = seen.isfinite().all(1, keepdim=True)
    seen = torch.where(usable, seen, reach).clamp_min(0)
    moved = torch.where(known[:, None], reach.lerp(seen, averaging), seen)
    return torch.where(usable, moved, reach), known | usable[:, 0]
