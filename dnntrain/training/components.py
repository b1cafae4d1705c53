"""What the chosen methods are built from, the parts that they give, joined, and what is bound to them afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dnntrain.choices.reg._mixing import one_mixer
from dnntrain.choices.reg.grad_clip import clip_by_norm
from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError
from dnntrain.input.prepared import Prepared
from dnntrain.nn.cost import unfilled
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.batch_size import counting
from dnntrain.planning.plan import Plan
from dnntrain.planning.planner import known
from dnntrain.protocols import Built, Collectives, Context, Parts
from dnntrain.training.step_guards import with_recovery
from dnntrain.utils.world import World

#: Groups of which one method is chosen, and that give parts besides the optimizer's.
_GROUPS = ("norm", "sched", "quant", "distill", "prune")


def make_context(
    config: RunConfig, plan: Plan, data: Prepared, device: str, world: World, collect: Collectives
) -> Context:
    """The frozen values that methods build from."""
    dataset = data.dataset
    shape = ModelShape(len(dataset.class_names), *dataset.input_shape)
    context = Context(
        seed=config.seed,
        num_classes=len(dataset.class_names),
        input_shape=dataset.input_shape,
        **known(plan.timetable, plan.total_steps),
        batch_size=plan.batch_size,
        learning_rate=plan.base_learning_rate,
        device=device,
        world=world,
        class_names=tuple(dataset.class_names),
        mean=tuple(dataset.mean),
        std=tuple(dataset.std),
        data_digest=dataset.digest,
        train_examples=len(data.train),
        micro_batch_size=plan.micro_batch_size,
        pair_block=config.data.pair_block,
        student=lambda: unfilled(lambda: config.model.build(shape)),
        collect=collect,
        once=data.once,
    )
    return counting(config, context)


def collect(config: RunConfig, context: Context) -> Parts:
    """The parts of every chosen method, joined in the order of the stages."""
    choices = config.resolved["choices"]
    methods = {f"{group}={choices[group]}": getattr(config, group) for group in _GROUPS}
    methods |= {f"reg.{name}": method for name, method in config.reg.items()}
    methods |= {f"monitor.{name}": method for name, method in config.monitor.items()}
    parts = {name: method.build(context) for name, method in methods.items()}
    parts[f"optim={choices['optim']}"] = config.optim.parts(context)
    if config.train.clip_norm is not None:
        parts["train.clip_norm"] = Parts(gradient=(clip_by_norm(config.train.clip_norm, context.collect),))
    try:
        joined = Parts.joined(parts.values(), list(parts))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for method in methods.values():
        if hasattr(method, "check_with"):
            method.check_with(joined)
    return with_recovery(replace(joined, batch=one_mixer(joined.batch)))


def bind(parts: Parts, built: Built) -> None:
    """Gives what stands to every object in a slot that asks for it, once each."""
    holders: tuple[Any, ...] = (
        *[transform.apply for transform in parts.gradient],
        *parts.after_step,
        *parts.evaluation,
        *parts.decisions,
        *parts.guards,
        parts.update,
        *parts.state.values(),
    )
    for holder in {id(holder): holder for holder in holders if hasattr(holder, "bind")}.values():
        holder.bind(built)
