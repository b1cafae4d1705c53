"""Structured pruning: channels, heads and hidden widths go, and the network really becomes smaller.

Channels that one removal concerns are found by tracing (`dnntrain/pruning/trace.py`), as in
DepGraph (Fang et al., 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dnntrain.choices.prune._find_cut import CutOptions, check_limit, find_cut, find_groups_to_cut
from dnntrain.choices.prune._options import find_divided_models, find_steps, list_ratios
from dnntrain.config.fields import Annotated, Duration, Fraction, Literal, PositiveInt, Range
from dnntrain.distributed.parallel_dims import ParallelDims
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
)
from dnntrain.pruning.cut import Cut
from dnntrain.pruning.selection import Rules


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
    round_to: PositiveInt = 1  # the widths that stay are multiples of it, such as 8 or 16
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

    def find_layout_refusals(self, dims: ParallelDims) -> Iterator[Refusal]:
        return find_divided_models("structured", dims, "the widths before the cut")

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
        rules = Rules(self.scope, self.protect, self.round_to)
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
        )
        assert context.build_model is not None, "the trainer gives a model to every method"
        model = context.build_model().eval()
        check_limit(model, find_groups_to_cut(model, options).groups, options, self.ratio)

        def cut(inputs: ReshapeInputs) -> Cut:
            return find_cut(options, (1 - ratios[inputs.number]) / (1 - [0.0, *ratios][inputs.number]), inputs)

        return Hooks(reshaping=Reshaping(steps, cut))

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
