"""TODO"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError
from dnntrain.input.prepared import Prepared
from dnntrain.nn.cost import (
    unfilled,
)
from dnntrain.nn.partition import sections
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.plan import Plan
from dnntrain.protocols import Parts
from dnntrain.training.data import sample_images

if TYPE_CHECKING:
    pass
from dnntrain.protocols import Target
from dnntrain.training.scheduled_values import bind_controls


def check_controls(config: RunConfig, plan: Plan, data: Prepared, parts: Parts) -> None:
    """Binds the controls of more than the learning rate to a network without weights. Raises ConfigError where one finds nothing."""
    named = {control.target for control in parts.controls if isinstance(control.target, Target)}
    if not named - {Target.LEARNING_RATE, Target.BATCH_SIZE}:
        return
    shape = ModelShape(len(data.dataset.class_names), *data.dataset.input_shape)
    model = unfilled(lambda: config.model.build(shape))
    for transform in parts.model:
        model = transform.apply(model)
    kept = [control for control in parts.controls if isinstance(control.target, Target)]
    bind_controls(kept, config.optim.scaled(plan.batch_size).build(model), model)


def check_stages(config: RunConfig, plan: Plan, data: Prepared, parts: Parts) -> None:
    """Raises ConfigError where a rank of the pipeline would hold nothing that is trained."""
    ranks = plan.degrees.pp
    if ranks == 1:
        return
    shape = ModelShape(len(data.dataset.class_names), *data.dataset.input_shape)
    model = unfilled(lambda: config.model.build(shape))
    for transform in parts.model:
        model = transform.apply(model)
    images = sample_images(config, data) if parts.first_weights else torch.empty(0)
    for set_weights in parts.first_weights:
        set_weights(model, images)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    owners = [section.owns for section in sections(model)]
    parts_of_rank = [
        [own for stage in range(rank, len(plan.stage_bounds) - 1, ranks) for own in _owned(plan, owners, stage)]
        for rank in range(ranks)
    ]
    for rank, owned in enumerate(parts_of_rank):
        others = [own for part in parts_of_rank if part is not owned for own in part]
        if all(_within(name, others) for name in trained):
            frozen = " besides those that reg.whitening keeps as they are" if parts.first_weights else ""
            raise ConfigError(
                f"stage {rank} of parallel.pp={ranks} holds no weights that are trained{frozen}",
                f"use {f'parallel.pp={ranks - 1}' if ranks > 2 else 'parallel=ddp'}"
                + (", or reg.whitening.freeze=false" if frozen else ""),
            )


def _owned(plan: Plan, owners: Sequence[Sequence[str]], stage: int) -> Iterator[str]:
    """Names of the modules and parameters that the sections of this stage own."""
    for names in owners[plan.stage_bounds[stage] : plan.stage_bounds[stage + 1]]:
        yield from names


def _within(name: str, owners: Sequence[str]) -> bool:
    return any(name == own or name.startswith(f"{own}.") for own in owners)


def check_first_weights(config: RunConfig, data: Prepared, parts: Parts) -> None:
    """Refuses a run whose `init_from` is missing, damaged, or the weights of another network."""
    from dnntrain.nn.weights import check_weights

    shape = ModelShape(len(data.dataset.class_names), *data.dataset.input_shape)
    model = unfilled(lambda: config.model.build(shape))
    for transform in parts.model:
        model = transform.apply(model)
    check_weights(model, str(config.init_from), config.init_replace_head)


def check_integers(config: RunConfig, data: Prepared) -> None:
    """Refuses a run whose `quant` asks for integers that its model or its data cannot become."""
    from dnntrain.export.preflight import check_images, check_quantised

    name = config.resolved["choices"]["quant"]
    check_images(config.quant, name, len(data.train), len(data.val) or len(data.test))
    shape = ModelShape(len(data.dataset.class_names), *data.dataset.input_shape)
    model = config.norm.exported(unfilled(lambda: config.model.build(shape)))
    check_quantised(config.quant, name, model, torch.zeros(2, *data.dataset.input_shape))
