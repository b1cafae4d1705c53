"""The model of a run on the meta device, and what its layers cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from dnntrain.distributed.parallel_dims import ParallelConfig
from dnntrain.nn.cost import LayerSizes, measure_kept_by_section, measure_layer_sizes
from dnntrain.nn.feature_capture import add_adapters
from dnntrain.nn.freezing import freeze_model
from dnntrain.nn.partition import get_parallel_plan
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import Hooks
from dnntrain.run.session import Session
from dnntrain.training.setup import build_unfilled_model

#: Bytes of a weight, a gradient and a number of optimizer state.
FLOAT_BYTES = 4


@dataclass(frozen=True)
class ModelCosts:
    """The costs of the whole model for one example.

    They are the inputs and outputs of layers, and the memory of the backward pass of each section.
    """

    hooks: Hooks
    sizes: LayerSizes
    kept_bytes: list[list[int]]

    @classmethod
    def from_session(cls, session: Session) -> ModelCosts:
        hooks, half_dtype = session.hooks, session.plan.precision.torch_dtype
        sizes = measure_layer_sizes(
            build_costed_model(session, hooks),
            ModelShape.from_spec(session.data.spec),
            tuple(get_tensor_plan(session, hooks)),
            half_dtype,
        )
        return cls(hooks, sizes, compute_kept_bytes(session, hooks, 2 if half_dtype else FLOAT_BYTES))


def build_costed_model(session: Session, hooks: Hooks) -> nn.Module:
    """Build the model of the run without filling its weights."""
    model = build_unfilled_model(session.config, ModelShape.from_spec(session.data.spec), hooks)
    config = session.config
    patterns = config.train.freeze if session.plan.unfreeze_step is None else ()
    freeze_model(model, patterns, config.optim.list_fixed_parameters(model))
    add_adapters(model, hooks.feature_taps)
    return model


def count_rank_examples(session: Session) -> int:
    """Return the examples of one rank in a step; in a pipeline all micro-batches have one size."""
    plan = session.plan
    if plan.degrees.pp > 1:
        return plan.accumulation * plan.micro_batch_size
    return math.ceil(plan.timetable.sizes[-1] / plan.degrees.data_ranks)


def get_layout(session: Session) -> ParallelConfig:
    layout = session.config.parallel
    assert isinstance(layout, ParallelConfig)
    return layout


def get_tensor_plan(session: Session, hooks: Hooks) -> dict[str, str]:
    """Return the tensor-parallel plan if it is used."""
    degree = session.plan.degrees.tp
    return dict(get_parallel_plan(build_costed_model(session, hooks), degree) or {}) if degree > 1 else {}


def compute_kept_bytes(session: Session, hooks: Hooks, bytes_per_element: int) -> list[list[int]]:
    """Return the bytes that the backward pass keeps, for the sections of a rank's shard of the model."""
    dims = session.plan.degrees
    if dims.tp == 1:
        return measure_kept_by_section(
            build_costed_model(session, hooks), ModelShape.from_spec(session.data.spec), bytes_per_element
        )
    from dnntrain.distributed.fake_group import fake_process_group
    from dnntrain.distributed.mesh import Mesh
    from dnntrain.distributed.tensor_parallel import apply_tensor_parallel

    with fake_process_group(dims.ranks, 0):
        model = build_costed_model(session, hooks)
        apply_tensor_parallel(model, Mesh(dims, "cpu").tensor, dims.sequence)
        return measure_kept_by_section(model, ModelShape.from_spec(session.data.spec), bytes_per_element)
