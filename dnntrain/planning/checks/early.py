"""Find mistakes of a new run before torch is imported: in its settings, its layout and its paths.

The plan finds all of them, too, with the facts about model and hardware. Here are those that need
neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dnntrain.config.decode import decode_config, decode_light_config
from dnntrain.config.run_config import LightConfig, RunConfig
from dnntrain.distributed.parallel_dims import ParallelConfig, ParallelDims, is_forward_collective
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.nn.model_names import check_model_name
from dnntrain.planning.batch_size import is_batch_size_scheduled
from dnntrain.planning.checks.combinations import (
    find_compile_refusals,
    find_double_claims,
    find_fold_refusals,
    find_input_refusals,
    find_loss_scale_refusals,
    find_metric_refusals,
    find_missing_features,
    find_output_refusals,
    find_prefix_refusals,
    find_process_refusals,
    find_unmet_layout_needs,
    find_validation_refusals,
)
from dnntrain.planning.checks.example_blocks import find_block_refusals
from dnntrain.planning.checks.federated import find_federated_refusals, get_batch_dims
from dnntrain.planning.checks.lengths import find_length_refusals
from dnntrain.planning.checks.parallelism import (
    find_degree_refusals,
    find_format_refusals,
    find_memory_format_refusals,
)
from dnntrain.planning.checks.paths import find_path_errors
from dnntrain.planning.checks.seq_len import find_seq_len_refusals
from dnntrain.planning.parallelism import count_known_ranks, name_rank_count
from dnntrain.protocols import Claim, DataFeature, InputKind, LayoutRequirement, OutputKind, Refusal, Role, TaskFeature
from dnntrain.utils.epochs import BatchSizeSchedule, EpochSchedule
from dnntrain.utils.hardware import Hardware, probe_hardware_without_torch
from dnntrain.utils.world import World


def decode_new_run(container: Mapping[str, Any], world: World, plan_only: bool = False) -> RunConfig:
    """Return the configuration of a run that begins or resumes here.

    Raises the DnntrainError of a mistake, or ConfigError that lists several, before torch is
    imported if it can be found then.
    """
    check_new_run(container, world, plan_only)
    return decode_config(container)


def check_new_run(container: Mapping[str, Any], world: World, plan_only: bool = False) -> None:
    """Raise the mistakes of a new run that are found without torch."""
    config, errors = _find_setting_errors(container, world, plan_only)
    if not config.launch.scheduler or world.is_launched:  # the files may be on other machines
        errors += find_path_errors(config, plan_only)
    _raise_errors(errors)


def check_resumed_run(container: Mapping[str, Any], world: World) -> None:
    """Raise the mistakes in settings of a resumed run that are found without torch.

    Its paths come from a saved configuration, which may not be trusted yet, so none is looked at.
    """
    _raise_errors(_find_setting_errors(container, world, plan_only=False)[1])


def _find_setting_errors(
    container: Mapping[str, Any], world: World, plan_only: bool
) -> tuple[LightConfig, list[DnntrainError]]:
    config, constants = decode_light_config(container)
    refusals = find_early_refusals(config, constants, world, plan_only)
    return config, [ConfigError(refusal.reason, refusal.hint) for refusal in refusals]


def _raise_errors(errors: list[DnntrainError]) -> None:
    """Raise the error, or one ConfigError that lists several."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ConfigError.from_mistakes([str(error) for error in errors])


def find_early_refusals(
    config: LightConfig, constants: Mapping[str, Mapping[str, Any]], world: World, plan_only: bool
) -> list[Refusal]:
    """Return the reasons why the settings cannot run.

    `constants` are the literal class variables of each choice, by its setting.
    """
    try:
        hardware = probe_hardware_without_torch(config.device)
        ranks = count_known_ranks(config, hardware, world, plan_only)
    except ConfigError as error:
        return [Refusal(error.message, error.hint)]
    has_validation = config.data.val_fraction > 0
    return [
        *find_length_refusals(config, ranks or 1),
        *(find_process_refusals(config, ranks) if ranks is not None else ()),
        *find_compile_refusals(config),
        *find_metric_refusals(config),
        *find_fold_refusals(config),
        *find_federated_refusals(config),
        *find_seq_len_refusals(config),
        *find_prefix_refusals(config),
        *(
            refusal
            for setting, values in constants.items()
            for refusal in find_validation_refusals(setting, values.get("uses_validation", False), has_validation)
        ),
        *find_double_claims(
            [
                Claim(Role[role], setting, _suggest_other(setting))
                for setting, values in constants.items()
                for role in values.get("claimed_roles", ())
            ]
        ),
        *_find_precision_refusals(config, constants, hardware),
        *_find_model_refusals(config, constants),
        *(
            refusal
            for setting, values in constants.items()
            for refusal in find_missing_features(config, setting, _read_needs(values))
        ),
        *_find_layout_refusals(config, constants, hardware, ranks),
    ]


def _suggest_other(setting: str) -> str:
    """Return the remedy for a setting as typed: a choice of a single group, or of a list."""
    group, equals, _ = setting.partition("=")
    return f"use another choice of {group}" if equals else f"leave {setting} out"


def _read_needs(constants: Mapping[str, Any]) -> list[LayoutRequirement | TaskFeature | DataFeature]:
    """Return the `needs` of a choice that its source states as a set of enum members."""
    by_name: dict[str, LayoutRequirement | TaskFeature | DataFeature] = {
        str(member): member for kind in (LayoutRequirement, TaskFeature, DataFeature) for member in kind
    }
    return [by_name[need] for need in constants.get("needs", ())]


def _find_model_refusals(config: LightConfig, constants: Mapping[str, Mapping[str, Any]]) -> Iterator[Refusal]:
    """Find a name that the package of the model does not have, and formats that do not suit the model."""
    setting = f"model={config.resolved['choices']['model']}"
    values, name = constants[setting], config.resolved["model"].get("name")
    if values.get("model_package") and isinstance(name, str):
        try:
            check_model_name(values["model_package"], name, f"model.name={name}")
        except ConfigError as error:
            yield Refusal(error.message, error.hint)
    known_kinds = {str(kind): kind for kind in InputKind}
    kinds = [known_kinds[name] for name in values.get("input_kinds", ("InputKind.IMAGES",))]
    yield from find_input_refusals(config, kinds)
    known_outputs = {str(kind): kind for kind in OutputKind}
    outputs = [known_outputs[name] for name in values.get("output_kinds", ("OutputKind.VECTOR",))]
    yield from find_output_refusals(config, outputs)
    yield from find_format_refusals(config, values.get("has_blocks"), values.get("has_convolutions"))


def _find_precision_refusals(
    config: LightConfig, constants: Mapping[str, Mapping[str, Any]], hardware: Hardware | None
) -> Iterator[Refusal]:
    if hardware is None:
        return
    choices = config.resolved["choices"]
    if refusal := config.precision.find_hardware_refusal(hardware):
        yield Refusal(f"precision={choices['precision']} {refusal.reason}", refusal.hint)
    supports_loss_scale = constants[f"optim={choices['optim']}"].get("supports_loss_scale", True)
    yield from find_loss_scale_refusals(config, supports_loss_scale, config.precision.build(hardware).uses_loss_scale)


def _find_layout_refusals(
    config: LightConfig, constants: Mapping[str, Mapping[str, Any]], hardware: Hardware | None, ranks: int | None
) -> Iterator[Refusal]:
    """Find the reasons that follow from the degrees, if these do not depend on the model."""
    if ranks is None or is_batch_size_scheduled(config):
        return
    dims = ParallelDims()
    if config.parallel.processes != "one":
        if not isinstance(config.parallel, ParallelConfig) or config.parallel.chooses_degrees:
            return
        try:
            dims = config.parallel.build(ranks)
        except ConfigError as error:
            yield Refusal(error.message, name_rank_count(error.hint, config))
            return
    size, micro_batch_size = config.train.batch_size, config.train.micro_batch_size
    sizes = BatchSizeSchedule(EpochSchedule.constant(size, size), size)
    dims = get_batch_dims(config, dims)
    yield from find_degree_refusals(config, hardware, dims, sizes)
    model = constants[f"model={config.resolved['choices']['model']}"]
    needs_contiguous = is_forward_collective(config.parallel, dims)
    yield from find_memory_format_refusals(config, model.get("has_convolutions"), needs_contiguous, dims)
    for setting, values in constants.items():
        yield from find_unmet_layout_needs(setting, _read_needs(values), dims)
    if dims.pp == 1:
        relations = {
            setting: values["example_relation"]
            for setting, values in constants.items()
            if values.get("example_relation")
        }
        yield from find_block_refusals(config, relations, dims.data_ranks, micro_batch_size or size, sizes)
