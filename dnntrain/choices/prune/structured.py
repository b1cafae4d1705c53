"""Structured pruning: channels, heads and hidden widths go, and the network really becomes smaller.

Channels that one removal concerns are found by tracing (`dnntrain/pruning/trace.py`), as in
DepGraph (Fang et al., 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from dnntrain.choices.prune._find_cut import (
    CutOptions,
    check_limit,
    check_tensor_parallel,
    find_cut,
    find_groups_to_cut,
)
from dnntrain.choices.prune._options import find_steps, list_ratios
from dnntrain.config.fields import Annotated, Duration, Fraction, Literal, PositiveInt, Range
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import (
    BuildContext,
    Claim,
    Hooks,
    ModelStage,
    PruneChoice,
    Refusal,
    ReshapeInputs,
    Reshaping,
    Role,
    RunFacts,
    WidthMultiple,
)
from dnntrain.pruning.cut import Cut
from dnntrain.pruning.selection import Rules
from dnntrain.utils.hardware import Hardware

#: The name of the state that holds the multiple of widths.
STATE = "prune"


class SavedMultiple:
    """The multiple of widths; `auto` keeps that of the machine on which the run began."""

    def __init__(self, setting: int | str, automatic: int) -> None:
        self._is_auto = setting == "auto"
        self.value = automatic if isinstance(setting, str) else setting

    def state_dict(self) -> dict[str, Any]:
        return {"round_to": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._is_auto:
            self.value = int(state.get("round_to", self.value))


@dataclass(frozen=True)
class Structured(PruneChoice):
    """Remove the channels, heads and hidden units with the lowest scores, and train on.

    Parameters, moments and averages are cut alike. Channels that an operator unknown to pruning
    reads, and the outputs, stay.
    """

    ratio: Annotated[float, Range(above=0, below=1)] = 0.5  # share of the target that is removed
    target: Literal["params", "flops", "size", "latency"] = (
        "flops"  # the cost that ratio is about; latency: of one image, measured on the cut network
    )
    criterion: Literal["magnitude", "random", "taylor", "fpgm", "bn_scale", "lamp", "obd"] = (
        "magnitude"  # score by which channels stay
    )
    scope: Literal["local", "global", "isomorphic"] = (
        "global"  # channels that compete: of each group, of all groups, or of groups of the same form
    )
    protect: Fraction = 0.1  # share of each group that stays at least
    exclude: tuple[str, ...] = ()  # patterns of modules that stay as they are, such as stages.0.*
    round_to: Literal["auto"] | PositiveInt = (
        1  # widths in channels stay multiples of it, such as 8 or 16; auto: what the hardware computes well
    )
    schedule: Literal["one_shot", "iterative", "gradual"] = (
        "one_shot"  # one cut; several that each remove the same share of the rest; several, most of them early
    )
    at: Duration = Duration(50, "%")  # time of the first cut
    until: Duration = Duration(75, "%")  # time of the last cut of several
    cuts: PositiveInt = 4  # cuts of the schedules iterative and gradual
    compensate: Literal["none", "ridge"] = (
        "none"  # ridge: fit the next layers, so that the channels that stay stand in for those that go
    )
    recalibrate: bool = True  # measure the statistics of batch norm again after a cut
    examples: PositiveInt = 256  # training examples that taylor, obd, compensate and recalibrate read

    def get_claims(self) -> tuple[Claim, ...]:
        return (Claim(Role.LAYER_WEIGHTS, "prune=structured", "use prune=none"),)

    def find_refusals(self, facts: RunFacts) -> Iterator[Refusal]:
        if self.target == "latency" and facts.ranks > 1:
            yield Refusal(
                f"prune.target=latency does not support {facts.ranks} ranks, because each would measure another time",
                "use prune.target=flops, or one process",
            )

    def build(self, context: BuildContext) -> Hooks:
        steps = find_steps(self.at, self.until, self.cuts, context, self.schedule != "one_shot")
        ratios = list_ratios(self.ratio, len(steps), self.schedule == "gradual")
        shape = ModelShape.from_spec(context.spec)
        multiple = SavedMultiple(self.round_to, context.width_multiple)
        rules = Rules(self.scope, self.protect, multiple.value)
        options = CutOptions(
            self.criterion,
            rules,
            self.target,
            self.exclude,
            self.examples,
            context.seed,
            shape,
            self.compensate,
            self.recalibrate,
            context.device,
        )

        def check(model: nn.Module) -> frozenset[str]:
            groups = find_groups_to_cut(model.eval(), options).groups
            check_tensor_parallel(model, groups, multiple.value, context.tensor_ranks)
            check_limit(model, groups, options, self.ratio)
            return frozenset(name for group in groups for name, _ in group.axes)

        def cut(inputs: ReshapeInputs) -> Cut:
            multiple.load_state_dict(inputs.states.get(STATE, {}))
            saved_options = replace(options, rules=replace(rules, round_to=multiple.value))
            return find_cut(saved_options, (1 - ratios[inputs.number]) / (1 - [0.0, *ratios][inputs.number]), inputs)

        return Hooks(reshaping=Reshaping(steps, cut, check), state={STATE: multiple})

    def notes(self, hardware: Hardware, multiple: WidthMultiple) -> tuple[str, ...]:
        if self.round_to != "auto":
            return ()
        return (f"prune.round_to=auto: widths stay multiples of {multiple.value}, because {multiple.reason}",)

    def check_with(self, hooks: Hooks) -> None:
        if any(transform.stage is ModelStage.QUANTIZE for transform in hooks.model_transforms):
            raise ConfigError(
                "prune=structured does not support rounding in the same run, because its layers have other names",
                "prune first, then train the result: init_from=RUN quant=qat",
            )
        if hooks.feature_taps:
            raise ConfigError(
                "prune=structured does not support distillation from inner features, because a cut changes their width",
                "use distill=kd or distill=dkd",
            )
