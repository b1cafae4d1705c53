"""TODO"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dnntrain.config.run_config import RunConfig
from dnntrain.input.prepared import Prepared
from dnntrain.nn.cost import (
    activation_bytes,
    flops_per_example,
    largest_activation_bytes,
    parameter_count,
    section_flops,
    unfilled,
)
from dnntrain.nn.partition import blocks, divided_sizes
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.plan import DataFacts, ModelFacts


def data_facts(config: RunConfig, data: Prepared) -> DataFacts:
    """The sizes that a plan needs."""
    dataset = data.dataset
    resident = config.data.pipeline != "streaming" and dataset.train.resident() is not None
    return DataFacts(
        name=choice_name(config, "data"),
        train=len(data.train),
        val=len(data.val),
        test=len(data.test),
        input_shape=dataset.input_shape,
        num_classes=len(dataset.class_names),
        resident=resident,
    )


def model_facts(config: RunConfig, data: DataFacts) -> ModelFacts:
    """The cost of the model, from a copy whose weights are not filled."""
    shape = ModelShape(data.num_classes, *data.input_shape)
    model = config.norm.converted(unfilled(lambda: config.model.build(shape)))
    config.optim.settings(model)  # patterns of parameter names that match none are refused here
    return ModelFacts(
        name=choice_name(config, "model"),
        parameters=parameter_count(model),
        flops_per_example=flops_per_example(model, shape),
        activation_bytes_per_example=activation_bytes(model, shape, 1, 4),
        largest_activation_bytes=largest_activation_bytes(model, shape, 1, 4),
        batch_norms=sum(isinstance(module, _BatchNorm) for module in model.modules()),
        blocks=len(blocks(model)),
        convolutional=any(isinstance(module, nn.Conv2d) for module in model.modules()),
        divided=divided_sizes(model),
        section_flops=section_flops(model, shape),
    )


def choice_name(config: RunConfig, group: str) -> str:
    """The choice of `group` as it was typed: a preset's own name where there is one."""
    choices = config.resolved.get("choices", {})
    name: str = choices.get(group) or config.resolved.get(group, {}).get("name", group)
    return name
