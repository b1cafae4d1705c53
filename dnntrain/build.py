"""Plan → Trainer: one written order, one function a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from dnntrain.batch_sizes import counting
from dnntrain.capture import Capturing, add_adapters
from dnntrain.checkpoint.ranks import Ranks
from dnntrain.checkpoint.state import Digests
from dnntrain.checkpoint.stateful import ModelState, OptimizerState, RandomState, ScalerState
from dnntrain.config.run import RunConfig
from dnntrain.data.joint import JointPipeline
from dnntrain.data.pipeline import Pipeline, build_pipeline, evaluation_batches
from dnntrain.data.source import DataSet, Source
from dnntrain.errors import ConfigError
from dnntrain.evaluation import evaluate
from dnntrain.events import Evaluator, Saver, SignalWatch, applied
from dnntrain.guarding import Guarding, with_recovery
from dnntrain.keys import Index, Key, derive
from dnntrain.loop import Loop
from dnntrain.metrics import Listener, Metrics, Timer
from dnntrain.mixers import one_mixer
from dnntrain.model.cost import unfilled
from dnntrain.model.initialise import initialise
from dnntrain.model.shape import ModelShape
from dnntrain.objective import Objective, build_objective
from dnntrain.parallel.communicate import any_ranks, gather, gather_bytes, reduce_sum, start
from dnntrain.parallel.degrees import Arranged, Layout, Place
from dnntrain.parallel.spmd import SpmdExecutor
from dnntrain.planner import Plan, known
from dnntrain.progress import Cadence, Event, Progress, event
from dnntrain.protocols import (
    Alone,
    Batch,
    BatchStage,
    Built,
    Collectives,
    Context,
    Control,
    Executor,
    Moment,
    Once,
    Parts,
    Stateful,
    Target,
)
from dnntrain.reg.grad_clip import clip_by_norm
from dnntrain.run_directory import RunDirectory
from dnntrain.update import build_apply, plain
from dnntrain.world import World

if TYPE_CHECKING:
    from dnntrain.parallel.mesh import Mesh

#: Seconds between two looks at the display.
_TICK_S = 0.25

#: Groups of which one method is chosen, and that give parts besides the optimizer's.
_GROUPS = ("norm", "sched", "quant", "distill", "prune")

#: What gives a run a value that a schedule may multiply.
_SETS = {
    Target.MOMENTUM: "choose an optimizer that has it, as in optim=sgd optim.momentum=0.9",
    Target.WEIGHT_DECAY: "set optim.weight_decay",
    Target.DROP_RATE: "add reg=[dropout] to a network with dropout, or set model.dropout",
}

#: Images that data-dependent first weights are worked out from.
_SAMPLE_IMAGES = 1000


@dataclass(frozen=True)
class Prepared:
    """The data of a run: the set, the numbers of the examples that train, validate and test, and what methods have loaded besides."""

    dataset: DataSet
    train: Index
    val: Index
    test: Index
    once: Once = field(default_factory=Once)


@dataclass(frozen=True)
class Trainer:
    """A run that is ready to be trained, or gone on with."""

    loop: Loop
    model: nn.Module
    outputs: Callable[[Batch], torch.Tensor]
    parts: Parts
    states: Mapping[str, Stateful]
    metrics: Metrics
    evaluator: Evaluator
    saver: Saver
    signals: SignalWatch
    pipeline: Pipeline
    timer: Timer
    batches_of: Callable[[Source, Index, World], Any]
    guarding: Guarding | None = None


def build(
    config: RunConfig,
    plan: Plan,
    data: Prepared,
    run: RunDirectory | None,
    world: World,
    device: str,
    digests: Digests,
    listeners: Sequence[Listener],
    warn: Callable[[str], None],
    tick: Callable[[int], None] | None = None,
) -> Trainer:
    """Assembles everything in the order below. Only the main rank has a `run`. `tick` is called a few times a second."""
    layout, mesh, collect_ranks = make_mesh(config, plan, world, device)
    place = plan.degrees.place(world)
    # What cannot be keyed, such as dropout inside a model, draws from torch's generators, one stream for each share of the batch.
    torch.manual_seed(derive(config.seed, "torch", place.data.rank))
    progress = Progress(config.train.duration, plan.timetable)
    # 1. what each chosen method contributes
    context = make_context(config, plan, data, device, world, collect_ranks)
    parts = collect(config, context)
    # 2. model: build, norm and structural transforms, quantisation; weights; memory format; device
    model = make_model(config, plan, data, parts, device)
    # 3. layout, then compilation
    add_adapters(model, parts.captures)
    optim = config.optim.scaled(plan.batch_size)
    settings = optim.settings(model)
    arranged = place_on_ranks(config, plan, model, parts, layout, place, mesh)
    model = arranged.model
    if plan.compile:
        arranged.run[0].compile()
    # 4. optimizers over the model's own parameters
    if plan.degrees.pp > 1 and not any(parameter.requires_grad for parameter in model.parameters()):
        frozen = " besides those that reg.whitening keeps as they are" if parts.first_weights else ""
        fewer = f"parallel.pp={plan.degrees.pp - 1}" if plan.degrees.pp > 2 else "parallel=ddp"
        raise ConfigError(
            f"stage {place.pp} of parallel.pp={plan.degrees.pp} holds no weights that are trained{frozen}",
            f"use {fewer}" + (", or reg.whitening.freeze=false" if frozen else ""),
        )
    optimizers = optim.build(model, settings)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # 5. objective, executor, update
    scaler = torch.amp.GradScaler(device.split(":")[0]) if plan.precision.scaler else None
    autocast = getattr(torch, plan.precision.autocast) if plan.precision.autocast else None
    device_type = device.split(":")[0]
    objective = build_objective(parts.label_smoothing, parts.loss, parts.task_weight)
    empty = no_examples(data.dataset, device, parts)
    executor: Executor
    if plan.degrees.pp > 1:
        assert mesh is not None
        executor = make_pipeline(config, plan, arranged, objective, mesh, place, data.dataset, device, autocast, parts)
        outputs = executor.outputs
    else:
        executor = SpmdExecutor(
            arranged.run[0],
            objective,
            device=device_type,
            autocast=autocast,
            scaler=scaler,
            ranks=plan.degrees.data_ranks,
            empty=empty,
            replayable=parts.update is not None,
            counts=place.counts,
            unsynchronised=contexts_of(arranged.run[0], layout),
        )
        # DDP's own forward pass would wait for ranks that have fewer batches; FSDP's must be called by all, as often.
        called = arranged.run[0] if plan.in_step else model
        outputs = SpmdExecutor(called, objective, device=device_type, autocast=autocast).outputs
    # 6. batches
    pipeline = training_pipeline(config, plan, data, parts, place.data, device)
    batches_of = partial(_evaluation_batches, config, data.dataset, device, plan.channels_last)
    # 7. metrics, evaluation, saving
    timer = Timer(progress)
    metrics = Metrics(
        run.path / "metrics.jsonl" if run else None,
        progress,
        learning_rate=lambda: learning_rate(optimizers),
        scheduled=scheduled_values(parts.controls, optimizers, model),
        reduce=reduce_sum,
        listeners=listeners,
        decisions=parts.decisions,
    )
    states: dict[str, Stateful] = {}
    saver = Saver(
        run.checkpoints if run else None,
        states,
        digests,
        keep=config.checkpoint.keep,
        timer=timer,
        warn=warn if config.checkpoint.on_error == "warn" else None,
        ranks=Ranks(world.rank, partial(gather_bytes, device=device)) if plan.ranks > 1 else Ranks(),
    )
    # Where ranks compute together, each calls the model as often as the one with the most batches.
    rounds = most_batches(len(data.val), place.data.size, config.eval.batch_size) if plan.in_step else 0

    def validate() -> Mapping[str, float | int]:
        with applied(parts.evaluation, model):
            if mesh is not None:
                ready_to_evaluate(model, arranged.run, mesh)
            batches = batches_of(data.dataset.train, data.val, place.data)
            found = evaluate(
                model, outputs, batches, reduce_sum, device, counts=place.counts, rounds=rounds, empty=empty
            )
        if mesh is not None:
            settled(arranged.run)
        return found

    evaluator = Evaluator(validate, metrics, saver, timer, config.eval.metric)
    signals = SignalWatch(progress, partial(any_ranks, device=device) if plan.ranks > 1 else None)
    # 8. bind what acts on the model, and list the state, in the order of restoring
    bind(parts, Built(model, optimizers, partial(training_batches, pipeline, empty=empty), context.collect))
    scaler_state: dict[str, Stateful] = {} if scaler is None else {"scaler": ScalerState(scaler)}
    states.update(
        {
            "model": ModelState(model, part=plan.degrees.pp > 1),
            "optimizer": OptimizerState(optimizers, part=plan.degrees.pp > 1),
            **scaler_state,
            **parts.state,
            "evaluator": evaluator,
            "progress": progress,
            "metrics": metrics,
            "random": RandomState(device, world.rank, partial(gather, device=device)),
        }
    )
    # 9. the loop
    events = [
        *([Event(signals.agree, next_step=signals.next_step)] if plan.ranks > 1 else []),
        event(metrics.train_row, config.log.every, progress),
        *([event(evaluator, config.eval.every, progress)] if len(data.val) else []),
        event(saver, config.checkpoint.every, progress),
        *([Event(tick, every_s=_TICK_S)] if tick is not None else []),
    ]
    guarding = (
        Guarding(
            parts.guards,
            parts.state["recovery"],  # type: ignore[arg-type]
            step=lambda: progress.step,
            write=partial(metrics.write, "event"),
            reduce=reduce_sum,
            collect=context.collect,
            optimizers=optimizers,
            buffers=model.buffers(),
            device=device,
            scaled=scaler is not None,
        )
        if parts.guards
        else None
    )
    loop = Loop(
        progress=progress,
        batches=guarding.batches(pipeline) if guarding else pipeline,
        controls=bind_controls(parts.controls, optimizers, model, must_find=plan.degrees.pp == 1),
        executor=executor,
        update=guarding.update(parts.update or plain) if guarding else parts.update or plain,
        apply=build_apply(
            optimizers, trained, parts.gradient, metrics.observe, scaler, guarding.passes if guarding else None
        ),
        after_step=parts.after_step,
        metrics=metrics,
        cadence=Cadence(events, progress.total_steps),
    )
    return Trainer(
        loop, model, outputs, parts, states, metrics, evaluator, saver, signals, pipeline, timer, batches_of, guarding
    )


def make_mesh(
    config: RunConfig, plan: Plan, world: World, device: str
) -> tuple[Layout | None, Mesh | None, Collectives]:
    """(the chosen layout, its device mesh, its collectives); of one process that asked for no layout (None, None, the plain ones)."""
    layout = config.parallel
    if not isinstance(layout, Layout):
        return None, None, Alone()
    from dnntrain.parallel.mesh import Mesh, Together

    start(world, device, alone=True)
    mesh = Mesh(plan.degrees, device.split(":")[0])
    return layout, mesh, Together(mesh)


def place_on_ranks(
    config: RunConfig,
    plan: Plan,
    model: nn.Module,
    parts: Parts,
    layout: Layout | None,
    place: Place,
    mesh: Mesh | None,
) -> Arranged:
    """The model, laid out over the ranks, with what captures its features around it."""

    def outer(model: nn.Module) -> nn.Module:
        return Capturing(model, parts.captures) if parts.captures else model

    checkpointing = config.train.activation_checkpointing
    if layout is None and checkpointing == "none":
        return Arranged(model, [outer(model)])
    from dnntrain.parallel.arrange import arrange

    return arrange(
        model,
        layout,
        plan.degrees,
        place,
        mesh,
        bounds=plan.stage_bounds,
        activation_checkpointing=checkpointing,
        outer=outer,
    )


def make_pipeline(
    config: RunConfig,
    plan: Plan,
    arranged: Arranged,
    objective: Objective,
    mesh: Mesh,
    place: Place,
    dataset: DataSet,
    device: str,
    autocast: torch.dtype | None,
    parts: Parts,
) -> Executor:
    """The executor of the pipeline's stages on this rank."""
    from dnntrain.parallel.pipeline import PipelineExecutor, autocast_forward

    if autocast is not None:
        for stage in arranged.run:
            autocast_forward(stage, device.split(":")[0], autocast)
    return PipelineExecutor(
        arranged.run,
        arranged.stages,
        objective,
        mesh,
        schedule=config.parallel.schedule,
        micro_batch_size=plan.micro_batch_size,
        micro_batches=plan.accumulation,
        evaluation_size=config.eval.batch_size,
        input_shape=dataset.input_shape,
        num_classes=len(dataset.class_names),
        device=device,
        counts=place.counts,
        replayable=parts.update is not None,
    )


def contexts_of(module: nn.Module, layout: Layout | None) -> Callable[[], AbstractContextManager[None]]:
    """The context of backward passes that only add up this rank's gradients."""
    if layout is None:
        return nullcontext
    from dnntrain.parallel.wrap import unsynchronised

    return unsynchronised(module)


def ready_to_evaluate(model: nn.Module, run: Sequence[nn.Module], mesh: Mesh) -> None:
    """All ranks evaluate with the same running statistics, and gather the weights that are in place now."""
    from dnntrain.parallel.wrap import settle, share_buffers

    share_buffers(model, mesh)
    settle(run)


def settled(run: Sequence[nn.Module]) -> None:
    """After other weights were in place: the next forward pass gathers the live ones."""
    from dnntrain.parallel.wrap import settle

    settle(run)


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


def make_model(config: RunConfig, plan: Plan, data: Prepared, parts: Parts, device: str) -> nn.Module:
    """The model with its first weights, on the device."""
    dataset = data.dataset
    model: nn.Module = config.model.build(ModelShape(len(dataset.class_names), *dataset.input_shape))
    for transform in parts.model:
        model = transform.apply(model)
    initialise(model, config.seed)
    if parts.first_weights:
        images = sample_images(config, data)
        for set_weights in parts.first_weights:
            set_weights(model, images)
    if config.init_from is not None:
        from dnntrain.model.weights import load_weights

        load_weights(model, config.init_from, replace_head=config.init_replace_head)
    if plan.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.to(device)


def sample_images(config: RunConfig, data: Prepared) -> torch.Tensor:
    """Up to 1,000 training images as the model sees them, unaugmented: float [n, channels, height, width]."""
    index = data.train[:_SAMPLE_IMAGES]
    batches = _evaluation_batches(config, data.dataset, "cpu", False, data.dataset.train, index, World())
    return torch.cat([batch.images.clone() for batch in batches])


def training_pipeline(
    config: RunConfig, plan: Plan, data: Prepared, parts: Parts, world: World, device: str
) -> Pipeline:
    """The batches of the rank `world` among those that share a batch."""
    joint = [transform for transform in parts.batch if transform.joint]
    pipeline = build_pipeline(
        config.data,
        data.dataset,
        data.train,
        seed=config.seed,
        batch_size=plan.timetable.size(0),
        micro_batch_size=plan.micro_batch_size,
        world=world,
        device=device,
        channels_last=plan.channels_last,
        transforms=[transform for transform in parts.batch if not transform.joint],
        pixels=parts.pixels,
        repeats=parts.repeats,
        timetable=plan.timetable,
    )
    return JointPipeline(pipeline, joint, no_examples(data.dataset, device, parts), config.seed) if joint else pipeline


def most_batches(examples: int, ranks: int, batch_size: int) -> int:
    """Batches of the rank that has the most, where `examples` are divided among `ranks`."""
    return math.ceil(math.ceil(examples / ranks) / batch_size)


def training_batches(pipeline: Pipeline, steps: int, empty: Batch | None = None) -> Iterator[Batch]:
    """The micro-batches of this rank in the first `steps` steps of the run, as many on all ranks: `empty` fills up."""
    for step in range(min(steps, pipeline.steps_per_epoch)):
        micro, _, passes = pipeline.take(step)
        yield from micro
        if empty is not None:
            yield from [empty] * (passes - len(micro))


def no_examples(dataset: DataSet, device: str, parts: Parts) -> Batch:
    """A batch without examples: what a rank computes in a step that has none for it, so that all ranks reduce together."""
    none = np.empty(0, np.int64)
    images = torch.empty(0, *dataset.input_shape, device=device)
    batch = Batch(images, torch.empty(0, dtype=torch.int64, device=device), none, none)
    for transform in parts.batch:
        if transform.stage is BatchStage.TEACHER:
            batch = transform.apply(batch, Key(0))
    return batch


def learning_rate(optimizers: Sequence[torch.optim.Optimizer]) -> float:
    """The learning rate now, before what a group's own factor makes of it."""
    group = optimizers[0].param_groups[0]
    return float(group["lr"]) / float(group["lr_scale"])


def scheduled_values(
    controls: Sequence[Control], optimizers: Sequence[torch.optim.Optimizer], model: nn.Module
) -> Callable[[], dict[str, float]]:
    """Reads momentum, weight decay and drop rate as they are now, by name, those that are controlled: of the first place that has one."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    places: dict[Target, Iterable[Callable[[], float]]] = {
        Target.MOMENTUM: (partial(momentum_of, group) for group in groups if momentum_of(group)),
        Target.WEIGHT_DECAY: (
            partial(group.__getitem__, "weight_decay") for group in groups if group.get("weight_decay")
        ),
        Target.DROP_RATE: (partial(getattr, module, name) for module, name in dropouts(model) if getattr(module, name)),
    }
    named = {control.target for control in controls if isinstance(control.target, Target)}
    firsts = {target.value: next(iter(found), None) for target, found in places.items() if target in named}
    return lambda: {name: float(read()) for name, read in firsts.items() if read is not None}


def bind_controls(
    controls: Sequence[Control],
    optimizers: Sequence[torch.optim.Optimizer],
    model: nn.Module,
    must_find: bool = True,
) -> list[Callable[[Moment], None]]:
    """One setter for each target that is controlled. Factors of several learning-rate controls are multiplied; the batch size stands in
    the plan.

    Raises ConfigError where a control finds nothing that it could set or multiply, unless the model is only a part of one.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    setters: list[Callable[[Moment], None]] = []
    factors = [control.value for control in controls if control.target is Target.LEARNING_RATE]
    if factors:
        setters.append(partial(_set_learning_rate, factors, [(group, group["lr"]) for group in groups]))
    for control in controls:
        if not isinstance(control.target, Target):
            setters.append(partial(_set, [(control.target(model), None)], control.value))
        elif control.target not in (Target.LEARNING_RATE, Target.BATCH_SIZE):
            setters.append(
                partial(_set, _places(control.target, groups, model, control.relative, must_find), control.value)
            )
    return setters


def _set_learning_rate(
    factors: Sequence[Callable[[Moment], float]], groups: Sequence[tuple[dict[str, Any], float]], moment: Moment
) -> None:
    factor = math.prod([value(moment) for value in factors])
    for group, base in groups:
        group["lr"] = base * factor


def _set(
    places: Sequence[tuple[Callable[[float], None], float | None]], value: Callable[[Moment], float], moment: Moment
) -> None:
    number = value(moment)
    for setter, base in places:
        setter(number if base is None else base * number)


def _places(
    target: Target, groups: Sequence[dict[str, Any]], model: nn.Module, relative: bool, must_find: bool
) -> list[tuple[Callable[[float], None], float | None]]:
    """(setter, base) of everything that `target` names; the base is None where the control's value is the value itself."""
    found: list[tuple[Callable[[float], None], float]]
    if target is Target.MOMENTUM:
        found = [(partial(_set_momentum, group), momentum_of(group)) for group in groups if momentum_of(group)]
    elif target is Target.WEIGHT_DECAY:
        decaying = [group for group in groups if group.get("weight_decay")]
        found = [(partial(group.__setitem__, "weight_decay"), group["weight_decay"]) for group in decaying]
    else:
        found = [(partial(setattr, module, name), float(getattr(module, name))) for module, name in dropouts(model)]
    if must_find and (not found or (relative and not any(base for _, base in found))):
        raise ConfigError(
            f"the {target.value.replace('_', ' ')} is scheduled, but nothing in this run has one above 0",
            f"{_SETS[target]}, or leave {target.value} out of sched.param"
            + (" (with sched=one_cycle: sched.cycle_momentum=false)" if target is Target.MOMENTUM else ""),
        )
    return [(setter, base if relative else None) for setter, base in found]


def momentum_of(group: Mapping[str, Any]) -> float:
    """The momentum of a parameter group, or the first of Adam's betas; 0 where it has none."""
    return float(group["betas"][0]) if "betas" in group else float(group.get("momentum", 0.0))


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum


def dropouts(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Every module of the model that drops numbers, and the attribute with its rate; not those that drop residual branches."""
    return [
        (module, "p" if isinstance(module, _DropoutNd) else "dropout")
        for module in model.modules()
        if isinstance(module, _DropoutNd | nn.MultiheadAttention)
    ]


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


def _evaluation_batches(
    config: RunConfig, dataset: DataSet, device: str, channels_last: bool, source: Source, index: Index, world: World
) -> Any:
    return evaluation_batches(
        config.data,
        dataset,
        source,
        index,
        batch_size=config.eval.batch_size,
        world=world,
        device=device,
        channels_last=channels_last,
    )
