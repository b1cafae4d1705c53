"""Collect the sizes of the data and the costs of the model for a plan."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dnntrain.config.run_config import RunConfig
from dnntrain.input.decoded_cache import CachingSource
from dnntrain.input.prepared import PreparedData
from dnntrain.nn.added_parameters import count_added_parameters
from dnntrain.nn.channels_last import overflows_in_channels_last
from dnntrain.nn.cost import (
    build_with_zero_weights,
    compute_zero_outputs,
    count_forward_cost,
    count_parameters,
    count_section_flops,
    measure_activation_bytes,
    measure_largest_activation,
    measure_train_flops_factor,
    record_batch_norm_values,
)
from dnntrain.nn.freezing import find_frozen_names, freeze_model
from dnntrain.nn.partition import find_blocks, get_divisible_sizes, supports_shared_sequence
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.checks.memory import check_weights_fit, explain_missing_memory
from dnntrain.planning.plan import DataFacts, ModelFacts
from dnntrain.protocols import TargetKind
from dnntrain.protocols.result_checks import is_builtin
from dnntrain.utils.user_code import describe_value, make_result_error


def collect_data_facts(config: RunConfig, data: PreparedData) -> DataFacts:
    """Return the sizes of the data set and of its splits."""
    dataset = data.dataset
    is_read_again = dataset.train.get_resident_inputs() is None
    resident = config.data.pipeline not in ("streaming", "cached") and not is_read_again
    return DataFacts(
        name=get_choice_name(config, "data"),
        train=len(data.train),
        val=len(data.val),
        test=len(data.test),
        spec=data.spec,
        resident=resident,
        notes=dataset.notes,
        is_read_again=is_read_again,
        can_cache=isinstance(dataset.train, CachingSource),
        class_counts=_count_classes(data),
    )


def _count_classes(data: PreparedData) -> tuple[int, ...]:
    targets = data.dataset.targets
    if targets.kind is not TargetKind.CLASS:
        return ()
    labels = data.dataset.train.labels[data.train]
    return tuple(np.bincount(labels, minlength=len(targets.names)).tolist())


def collect_model_facts(config: RunConfig, data: DataFacts) -> ModelFacts:
    """Return the cost of the model, measured on a copy with uninitialized weights."""
    shape = ModelShape.from_spec(data.spec)
    with explain_missing_memory(config):
        model = config.norm.convert(build_with_zero_weights(lambda: config.model.build(shape)))
        parameters = count_parameters(model)
        model = config.adapt.convert(model)
        parameters += count_added_parameters(model)
    check_weights_fit(config, model)
    config.optim.get_parameter_options(model)  # raises ConfigError for a pattern that matches no name
    _check_outputs(config, data, model, shape)
    with record_batch_norm_values(model) as batch_norm_values:
        flops_per_example, operators = count_forward_cost(model, shape)
    largest_activation_bytes = measure_largest_activation(model, shape, 1, 4)
    divided, section_flops = get_divisible_sizes(model), count_section_flops(model, shape)
    frozen_names, fixed = find_frozen_names(model, config.train.freeze), config.optim.list_fixed_parameters(model)
    frozen = (
        parameters
        - count_parameters(model)
        + sum(
            parameter.numel()
            for name, parameter in model.named_parameters()
            if name in frozen_names | fixed and parameter.requires_grad
        )
    )
    is_frozen_to_the_end = bool(frozen) and config.train.unfreeze_at is None
    if is_frozen_to_the_end:
        freeze_model(model, config.train.freeze, fixed)
    return ModelFacts(
        name=get_choice_name(config, "model"),
        parameters=parameters,
        flops_per_example=flops_per_example,
        operators=operators,
        activation_bytes_per_example=measure_activation_bytes(model, shape, 1, 4),
        largest_activation_bytes=largest_activation_bytes,
        batch_norms=sum(isinstance(module, _BatchNorm) for module in model.modules()),
        batch_norm_values=min(batch_norm_values, default=0),
        blocks=len(find_blocks(model)),
        convolutional=any(isinstance(module, nn.Conv2d) for module in model.modules()),
        overflows_in_channels_last=overflows_in_channels_last(model),
        divided=divided,
        shares_sequence=supports_shared_sequence(model),
        section_flops=section_flops,
        frozen=frozen,
        largest_kept_bytes=measure_largest_activation(model, shape, 1, 4) if is_frozen_to_the_end else None,
        train_flops_factor=measure_train_flops_factor(model, shape) if is_frozen_to_the_end else 3.0,
    )


def _check_outputs(config: RunConfig, data: DataFacts, model: nn.Module, shape: ModelShape) -> None:
    """Check the form of the outputs of a model from a plug-in. Raises PluginError if it is wrong."""
    if is_builtin(type(config.model)):
        return
    outputs = compute_zero_outputs(model, shape)
    needed_shape = (len(outputs), *data.spec.output.shape) if isinstance(outputs, torch.Tensor) else ()
    if not isinstance(outputs, torch.Tensor) or tuple(outputs.shape) != needed_shape:
        form = list(outputs.shape) if isinstance(outputs, torch.Tensor) else describe_value(outputs)
        raise make_result_error(
            f"must build a module whose outputs are [n, {', '.join(map(str, data.spec.output.shape))}], not {form}",
            type(config.model).build,
        )


def get_choice_name(config: RunConfig, group: str) -> str:
    """Return the name of the choice of `group` as typed; it may be a preset."""
    choices = config.resolved.get("choices", {})
    name: str = choices.get(group) or config.resolved.get(group, {}).get("name", group)
    return name
