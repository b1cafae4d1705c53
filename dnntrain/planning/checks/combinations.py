"""Which combinations are refused before anything starts: condition, reason, and the nearest override that works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeVar

from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.config.run_config import RunConfig
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.errors import ConfigError
from dnntrain.planning.checks.regularization import find_regularization_refusals
from dnntrain.protocols import LayoutRequirement, TaskFeature, find_metric
from dnntrain.utils.epochs import BatchSizeSchedule
from dnntrain.utils.hardware import Hardware
from dnntrain.utils.units import Duration

Need = TypeVar("Need", LayoutRequirement, TaskFeature)


@dataclass(frozen=True)
class Rule:
    """Refuses where `applies`; `reason` and `fix` are formatted with the configuration as `c`."""

    applies: Callable[[RunConfig, Hardware, int], bool]
    reason: str
    fix: str


RULES: tuple[Rule, ...] = (
    Rule(
        lambda c, hardware, ranks: (
            c.train.microbatch is not None
            and c.train.microbatch > c.train.batch_size
            and "batch_size" not in get_scheduled_params(c)
        ),
        "train.microbatch={c.train.microbatch} is more than train.batch_size={c.train.batch_size}",
        "use train.microbatch={c.train.batch_size} or less",
    ),
    Rule(
        lambda c, hardware, ranks: c.train.duration.value == 0,
        "train.duration={c.train.duration} trains nothing",
        "use train.duration=1step or more",
    ),
    Rule(
        lambda c, hardware, ranks: c.train.duration.unit == "%",
        "train.duration={c.train.duration} is a part of itself",
        "give it as 10ep, 5000step or 90s",
    ),
    Rule(
        lambda c, hardware, ranks: any(every.value == 0 for every in (c.eval.every, c.checkpoint.every, c.log.every)),
        "eval.every, checkpoint.every and log.every must be longer than nothing",
        "use 1step or more",
    ),
    Rule(
        lambda c, hardware, ranks: type(c.precision).__name__ == "Fp16" and hardware.device == "cpu",
        "precision=fp16 is for GPUs; a CPU computes it slowly",
        "use precision=bf16 or precision=auto",
    ),
    Rule(
        lambda c, hardware, ranks: not c.optim.supports_loss_scale and c.precision.build(hardware).uses_loss_scale,
        "optim={c.resolved[choices][optim]} takes no loss scale, which float16 needs",
        "use precision=bf16 or precision=fp32, or optim=adamw",
    ),
    Rule(
        lambda c, hardware, ranks: ranks > 1 and type(c.parallel).__name__ == "Single",
        "parallel=single in {ranks} processes would train the same network {ranks} times",
        "use parallel=ddp, or start one process",
    ),
    Rule(
        lambda c, hardware, ranks: ranks == 1 and c.parallel.processes == "one" and (c.launch.nproc or 1) > 1,
        "launch.nproc={c.launch.nproc} is for layouts of several processes, and parallel={c.resolved[choices][parallel]} starts one: "
        "the others would have nothing to do",
        "use parallel=ddp, or launch.nproc=1",
    ),
    Rule(
        lambda c, hardware, ranks: ranks > 1 and any(length.unit == "s" for length in _get_durations(c)),
        "{ranks} ranks have a clock each, and would not end, evaluate or save at the same step by a number of seconds",
        "give train.duration, eval.every, checkpoint.every and log.every in steps or epochs",
    ),
    Rule(
        lambda c, hardware, ranks: "early_stopping" in c.monitor and c.data.val_fraction == 0,
        "monitor=[early_stopping] looks at the validation part, and data.val_fraction=0 leaves it empty",
        "set data.val_fraction=0.1, or leave early_stopping out",
    ),
    Rule(
        lambda c, hardware, ranks: "straggler" in c.monitor and ranks == 1,
        "monitor=[straggler] compares ranks, and this run has one",
        "leave straggler out, or use parallel=ddp",
    ),
    Rule(
        lambda c, hardware, ranks: getattr(c.norm, "precise", 0) > 0 and c.data.val_fraction == 0,
        "norm.precise={c.norm.precise} recomputes statistics for each evaluation, and data.val_fraction=0 leaves none",
        "set data.val_fraction=0.1, or norm.precise=0",
    ),
    Rule(
        lambda c, hardware, ranks: getattr(c.sched, "looks_at_validation", False) and c.data.val_fraction == 0,
        "sched={c.resolved[choices][sched]} looks at the validation part, and data.val_fraction=0 leaves it empty",
        "set data.val_fraction=0.1, or another schedule",
    ),
    Rule(
        lambda c, hardware, ranks: "drop_rate" in get_scheduled_params(c) and c.train.compile == "on",
        "sched.param names the drop rate, and train.compile=on would compile the network anew for each rate",
        "use train.compile=off, or leave drop_rate out of sched.param",
    ),
    Rule(
        lambda c, hardware, ranks: type(c.quant).__name__ == "Float8Training" and hardware.capability < (8, 9),
        "quant=float8_training computes in 8-bit floating point, which needs a GPU of compute capability 8.9 or more",
        "use precision=bf16, or quant=none",
    ),
    Rule(
        lambda c, hardware, ranks: (
            _get_class_name(c.quant) == "Qat" and _get_class_name(c.norm) == "WeightStandardization"
        ),
        "quant=qat cannot quantise layers that compute with their weight in a way of their own, as those of "
        "norm=weight_standardization do",
        "use norm=none, or quant=int8_static, which quantises what was trained",
    ),
    Rule(
        lambda c, hardware, ranks: (
            getattr(c.quant, "backend", "") == "onnxruntime" and find_spec("onnxruntime") is None
        ),
        "quant.backend=onnxruntime needs onnxruntime, which is not installed",
        "run: pip install 'dnntrain[onnx]', or use quant.backend=inductor",
    ),
    Rule(
        lambda c, hardware, ranks: (
            getattr(c.quant, "backend", "") == "inductor" and not getattr(c.quant, "per_channel", True)
        ),
        "quant.per_channel=false: Inductor's integer layers have a scale a channel",
        "use quant.per_channel=true, or quant.backend=onnxruntime",
    ),
)


def _get_class_name(choice: object) -> str:
    return type(choice).__name__


def get_scheduled_params(config: RunConfig) -> tuple[str, ...]:
    """What the schedule multiplies: a name or several."""
    param = getattr(config.sched, "param", ())
    return (param,) if isinstance(param, str) else tuple(param)


def _get_durations(config: RunConfig) -> tuple[Duration, ...]:
    return (config.train.duration, config.eval.every, config.checkpoint.every, config.log.every)


def find_refusals(config: RunConfig, hardware: Hardware, ranks: int) -> list[str]:
    """Every reason to refuse this configuration on this hardware with this number of ranks."""
    reasons = [
        f"{rule.reason}\n  {rule.fix}".format(c=config, ranks=ranks)
        for rule in RULES
        if rule.applies(config, hardware, ranks)
    ]
    try:
        find_metric(config.eval.metric, config.task.list_infos(), "eval.metric")
    except ConfigError as error:
        reasons.append(str(error))
    if isinstance(config.quant, PostTraining) and (refusal := config.quant.refusal(hardware)):
        reasons.append("quant={} {}\n  {}".format(config.resolved["choices"]["quant"], *refusal))
    reasons += find_task_refusals(config)
    if refusal := config.optim.refusal(hardware):
        reasons.append("optim={} {}\n  {}".format(config.resolved["choices"]["optim"], *refusal))
    return reasons


def find_unmet_requirements(
    config: RunConfig, dims: ParallelDims, micro_batch_size: int, sizes: BatchSizeSchedule
) -> list[str]:
    """What the layout cuts, and each need of a chosen method that it does not provide: no rule is written for a pair."""
    met_requirements = get_met_requirements(dims)
    return find_regularization_refusals(config, dims.data_ranks, micro_batch_size, sizes) + [
        f"{name} needs {requirement.value}, which the layout ({dims}) does not give\n  use parallel=ddp, or do without {name}"
        for name, method in _list_methods(config).items()
        for requirement in sorted(
            _get_needs(method, LayoutRequirement) - met_requirements, key=lambda requirement: requirement.value
        )
    ]


def find_task_refusals(config: RunConfig) -> list[str]:
    """Return each need of a chosen method that the task does not meet."""
    task_name = config.resolved["choices"]["task"]
    return [
        f"{name} needs {feature.value}, which task={task_name} does not have\n  leave {name} out, or choose another task"
        for name, method in _list_methods(config).items()
        for feature in sorted(_get_needs(method, TaskFeature) - config.task.features, key=lambda feature: feature.value)
    ]


def _list_methods(config: RunConfig) -> dict[str, Any]:
    """Return the chosen methods that have needs, by the setting that chooses each."""
    single_groups = ("norm", "optim", "sched", "quant", "distill", "prune")
    methods = {f"{name}={config.resolved['choices'][name]}": getattr(config, name) for name in single_groups}
    return methods | {
        f"{group}.{name}": method for group in ("reg", "monitor") for name, method in getattr(config, group).items()
    }


def _get_needs(method: Any, kind: type[Need]) -> frozenset[Need]:
    return frozenset(need for need in getattr(method, "needs", frozenset()) if isinstance(need, kind))


def get_met_requirements(dims: ParallelDims) -> frozenset[LayoutRequirement]:
    """What methods may need of a layout of these degrees."""
    missing = set()
    if dims.is_sharded:
        missing |= {LayoutRequirement.WHOLE_PARAMETER, LayoutRequirement.WHOLE_MODEL}
    if dims.tp > 1:
        missing |= {LayoutRequirement.WHOLE_LAYER}
    if dims.pp > 1:
        missing |= {LayoutRequirement.WHOLE_MODEL, LayoutRequirement.FEATURES}
    return frozenset(LayoutRequirement) - missing
