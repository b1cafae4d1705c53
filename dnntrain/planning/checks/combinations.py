"""Find combinations of settings that cannot run, before anything starts.

Conditions of a single choice are part of that choice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from dnntrain.config.run_config import LightConfig, RunConfig
from dnntrain.distributed.parallel_dims import ParallelDims
from dnntrain.errors import ConfigError
from dnntrain.planning.checks.example_blocks import find_block_refusals
from dnntrain.planning.checks.federated import find_federated_refusals, find_joined_norm_refusals
from dnntrain.planning.checks.lengths import find_length_refusals
from dnntrain.planning.checks.seq_len import find_seq_len_refusals
from dnntrain.protocols import (
    Claim,
    DataFeature,
    InputKind,
    LayoutRequirement,
    Method,
    OptimChoice,
    OutputKind,
    Refusal,
    Role,
    RunFacts,
    ScheduledParam,
    TaskFeature,
    find_metric,
)
from dnntrain.utils.epochs import BatchSizeSchedule
from dnntrain.utils.hardware import Hardware


def find_refusals(config: RunConfig, hardware: Hardware, ranks: int) -> list[Refusal]:
    """Return every reason why this configuration cannot run.

    The layout is not known yet.

    The reasons may depend on the hardware and on the number of ranks.
    """
    facts = collect_run_facts(config, hardware, ranks)
    return [
        *find_length_refusals(config, ranks),
        *find_process_refusals(config, ranks),
        *find_loss_scale_refusals(config, config.optim.supports_loss_scale, facts.uses_loss_scale),
        *find_compile_refusals(config),
        *find_metric_refusals(config),
        *find_fold_refusals(config),
        *find_federated_refusals(config),
        *find_joined_norm_refusals(config),
        *find_seq_len_refusals(config),
        *_find_task_refusals(config),
        *find_double_claims(facts.claims),
        *_find_choice_refusals(config, facts),
    ]


def collect_run_facts(config: RunConfig, hardware: Hardware, ranks: int) -> RunFacts:
    """Return the facts about the run that choices can check."""
    choices = config.name_choices()
    return RunFacts(
        hardware=hardware,
        ranks=ranks,
        batch_size=config.train.batch_size,
        has_validation=config.data.val_fraction > 0,
        has_test=config.eval.run_test,
        uses_loss_scale=config.precision.build(hardware).uses_loss_scale,
        varies_images=config.data.varies_images
        or any(method.changes_images_of(config.data) for method in config.augment.values()),
        claims=[claim for choice in choices.values() for claim in choice.get_claims()],
    )


def find_prefix_refusals(config: LightConfig) -> Iterator[Refusal]:
    """Find a part of a file of initial weights without a file."""
    if config.init_prefix is not None and config.init_from is None:
        yield Refusal(
            f"init_prefix={config.init_prefix} has no effect without init_from", "name a file with init_from="
        )


def find_fold_refusals(config: LightConfig) -> Iterator[Refusal]:
    """Find settings of a cross-validation that have no effect, or that it does not support."""
    if config.fold is not None and (config.folds is None or config.fold >= config.folds):
        folds = "null" if config.folds is None else str(config.folds)
        yield Refusal(f"fold={config.fold} must be a part of folds={folds}, from 0 on", "as in folds=5 fold=0")
    if config.folds is not None and config.fold is None and config.launch.scheduler:
        yield Refusal(
            f"folds={config.folds} starts its runs itself, and a job of launch=slurm is one run",
            f"one job for each part: dnntrain -m folds={config.folds} fold=range(0,{config.folds}) launch=slurm …",
        )
    if config.folds is not None and not config.eval.run_test:
        yield Refusal(
            "folds needs the test of each run, which eval.run_test=false leaves out", "leave eval.run_test out"
        )


def find_process_refusals(config: LightConfig, ranks: int) -> Iterator[Refusal]:
    if config.parallel.processes != "one":
        return
    name = config.resolved["choices"]["parallel"]
    if ranks > 1:
        yield Refusal(
            f"parallel={name} in {ranks} processes would train the same network {ranks} times",
            "use parallel=ddp, or start one process",
        )
    elif (config.launch.nproc or 1) > 1:
        yield Refusal(
            f"parallel={name} does not support launch.nproc={config.launch.nproc}: it uses one process",
            "use parallel=ddp, or launch.nproc=1",
        )


def find_loss_scale_refusals(config: LightConfig, supports_it: bool, uses_it: bool) -> Iterator[Refusal]:
    """Find an optimizer that does not support the loss scale of the precision."""
    if uses_it and not supports_it:
        yield Refusal(
            f"optim={config.resolved['choices']['optim']} does not support the loss scale that float16 needs",
            "use precision=bf16 or precision=fp32, or optim=adamw",
        )


def find_compile_refusals(config: LightConfig) -> Iterator[Refusal]:
    """Find a schedule that would compile the network again and again."""
    if ScheduledParam.DROP_RATE in config.sched.scheduled_params and config.train.compile == "on":
        yield Refusal(
            "train.compile=on does not support drop_rate in sched.applies_to: each rate would compile the "
            "network again",
            "use train.compile=off, or leave drop_rate out of sched.applies_to",
        )


def find_metric_refusals(config: LightConfig) -> Iterator[Refusal]:
    """Find an unknown metric."""
    try:
        find_metric(config.eval.metric, config.task.list_infos(), "eval.metric")
    except ConfigError as error:
        is_optional = config.eval.metric in config.task.optional_metrics
        yield Refusal(error.message, f"add task.metrics=[{config.eval.metric}]" if is_optional else error.hint)


def find_validation_refusals(setting: str, uses_validation: bool, has_validation: bool) -> Iterator[Refusal]:
    """Find a setting that reads evaluations of an empty validation split."""
    if uses_validation and not has_validation:
        yield Refusal(
            f"{setting} needs the validation split, which is empty with data.val_fraction=0",
            f"use data.val_fraction=0.1, or leave {setting} out",
        )


def _find_task_refusals(config: RunConfig) -> Iterator[Refusal]:
    """Find needs that the task or the data does not meet."""
    for name, method in _list_methods(config).items():
        yield from find_missing_features(config, name, method.needs)


def find_missing_features(
    config: LightConfig, setting: str, needs: Iterable[LayoutRequirement | TaskFeature | DataFeature]
) -> Iterator[Refusal]:
    """Find needs of a setting that the task or the data does not meet."""
    choices = config.resolved["choices"]
    other = "use distill=outputs, which serves every task; or " if setting.startswith("distill=") else ""
    for kind, features, group in (
        (TaskFeature, config.task.features, "task"),
        (DataFeature, config.data.features, "data"),
    ):
        missing = {need for need in needs if isinstance(need, kind)} - features
        for feature in sorted(missing, key=lambda feature: feature.value):
            yield Refusal(
                f"{setting} needs {feature.value}, which {group}={choices[group]} does not have",
                f"{other}leave {setting} out, or choose another {'task' if group == 'task' else 'data set'}",
            )


def find_input_refusals(config: LightConfig, kinds: Collection[InputKind]) -> Iterator[Refusal]:
    """Find a model that supports other `kinds` of inputs than the kind of the data."""
    choices = config.resolved["choices"]
    if config.data.input_kind not in kinds:
        needed = " or ".join(sorted(kind.value for kind in kinds))
        yield Refusal(
            f"model={choices['model']} needs {needed}; data={choices['data']} has {config.data.input_kind.value}",
            f"use model={'gpt' if config.data.input_kind is InputKind.TOKENS else 'mlp'}, or other data",
        )


#: The advice if a model does not give such outputs.
_OUTPUT_HINTS = {
    OutputKind.VECTOR: "use another model, or task=segmentation",
    OutputKind.MAP: "use model=unet, or another task",
    OutputKind.TOKENS: "use model=gpt, or another task",
}


def find_output_refusals(config: LightConfig, kinds: Collection[OutputKind]) -> Iterator[Refusal]:
    """Find a model that gives other `kinds` of outputs than the kind that the task needs."""
    choices, needed = config.resolved["choices"], config.task.output_kind
    if needed not in kinds:
        given = " or ".join(sorted(kind.value for kind in kinds))
        yield Refusal(
            f"task={choices['task']} needs {needed.value}; model={choices['model']} gives {given}",
            _OUTPUT_HINTS[needed],
        )


def check_inputs(config: RunConfig) -> None:
    """Raise ConfigError if the model does not support the inputs of the data or the outputs of the task."""
    for refusal in (
        *find_input_refusals(config, config.model.input_kinds),
        *find_output_refusals(config, config.model.output_kinds),
    ):
        raise ConfigError(refusal.reason, refusal.hint)


def _list_methods(config: RunConfig) -> dict[str, Method | OptimChoice]:
    """Return the choices that have `needs`, by the setting as typed."""
    choices = config.name_choices()
    return {name: choice for name, choice in choices.items() if isinstance(choice, Method | OptimChoice)}


def _find_choice_refusals(config: RunConfig, facts: RunFacts) -> Iterator[Refusal]:
    """Find the reasons that each choice reports."""
    for name, choice in config.name_choices().items():
        if refusal := choice.find_hardware_refusal(facts.hardware):
            yield Refusal(f"{name} {refusal.reason}", refusal.hint)
        if isinstance(choice, Method):
            yield from find_validation_refusals(name, choice.uses_validation, facts.has_validation)
        yield from choice.find_refusals(facts)


def find_double_claims(claims: Sequence[Claim]) -> Iterator[Refusal]:
    """Find roles that several settings of the run take."""
    for role in Role:
        owners = [claim for claim in claims if claim.role is role]
        if len(owners) > 1:
            yield Refusal(
                f"{' and '.join(claim.setting for claim in owners)} both {role.value}",
                ", or ".join(claim.remedy for claim in owners),
            )


def find_unmet_requirements(
    config: RunConfig, dims: ParallelDims, micro_batch_size: int, sizes: BatchSizeSchedule
) -> list[Refusal]:
    """Return the needs that the layout does not meet, and blocks that it splits.

    The comparison is general: there is no rule for a particular pair of method and layout.
    """
    methods = _list_methods(config)
    unmet = [
        refusal for name, method in methods.items() for refusal in find_unmet_layout_needs(name, method.needs, dims)
    ]
    relations = {
        name: method.example_relation
        for name, method in methods.items()
        if isinstance(method, Method) and method.example_relation
    }
    return [
        *find_block_refusals(config, relations, dims.data_ranks, micro_batch_size, sizes),
        *unmet,
        *(refusal for method in methods.values() for refusal in method.find_layout_refusals(dims)),
    ]


def find_unmet_layout_needs(
    setting: str, needs: Iterable[LayoutRequirement | TaskFeature | DataFeature], dims: ParallelDims
) -> Iterator[Refusal]:
    """Find needs of a setting that a layout of these degrees does not meet."""
    unmet = {need for need in needs if isinstance(need, LayoutRequirement)} - get_met_requirements(dims)
    for requirement in sorted(unmet, key=lambda requirement: requirement.value):
        yield Refusal(
            f"{setting} needs {requirement.value}, which the layout ({dims}) does not support",
            f"use parallel=ddp, or leave {setting} out",
        )


def get_met_requirements(dims: ParallelDims) -> frozenset[LayoutRequirement]:
    """Return the requirements that a layout of these degrees meets."""
    missing = set()
    if dims.is_sharded:
        missing |= {LayoutRequirement.WHOLE_PARAMETER, LayoutRequirement.WHOLE_MODEL}
    if dims.tp > 1:
        missing |= {LayoutRequirement.WHOLE_LAYER}
    if dims.pp > 1:
        missing |= {LayoutRequirement.WHOLE_MODEL, LayoutRequirement.FEATURES}
    if dims.sequence:
        missing |= {LayoutRequirement.FEATURES}
    return frozenset(LayoutRequirement) - missing
