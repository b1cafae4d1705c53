"""Build the chosen methods: their context, their merged hooks, and the handles bound to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from dnntrain.choices.augment._mixing import join_mixers
from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError
from dnntrain.input.prepared import PreparedData
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.batch_size import with_schedule_length
from dnntrain.planning.plan import Plan
from dnntrain.planning.schedule_preview import make_epoch_fields
from dnntrain.protocols import BuildContext, Collectives, Hooks, Method, TargetKind, TrainerHandles
from dnntrain.training.recovery import add_recovery
from dnntrain.training.setup import build_unfilled_model
from dnntrain.utils.world import World

#: The groups of methods in the order in which their hooks run; those of the optimizer come after.
_GROUPS = (
    *("norm", "sched", "adapt", "quant", "distill", "prune", "federated"),
    *("augment", "reg", "average", "monitor"),
)

#: Groups of which several methods are chosen, in the order in which their hooks run.
_LIST_GROUPS = ("augment", "reg", "average", "monitor")


def make_build_context(
    config: RunConfig, plan: Plan, data: PreparedData, device: str, world: World, collectives: Collectives
) -> BuildContext:
    """Return the frozen values that methods are built from."""
    shape = ModelShape.from_spec(data.spec)
    context = BuildContext(
        seed=config.seed,
        spec=data.spec,
        **make_epoch_fields(plan.timetable, plan.total_steps),
        batch_size=plan.batch_size,
        learning_rate=plan.base_learning_rate,
        device=device,
        world=world,
        metrics=plan.metrics,
        data_digest=data.dataset.digest,
        train_examples=len(data.train),
        micro_batch_size=plan.micro_batch_size,
        pair_block=config.data.mix_block_size,
        default_crop_padding=config.data.default_crop_padding,
        default_flip_probability=config.data.default_flip_probability,
        build_model=lambda: build_unfilled_model(config, shape),
        collectives=collectives,
        fits_durations=config.is_debugging,
        tensor_ranks=plan.degrees.tp,
        width_multiple=plan.width_multiple.value,
    )
    return with_schedule_length(config, context)


def build_hooks(
    config: RunConfig, context: BuildContext, change: Callable[[str, Hooks], Hooks] = lambda name, hooks: hooks
) -> Hooks:
    """Build every chosen method, and merge the hooks in the order of the stages.

    `change(name, hooks)` receives the hooks of each method, and returns those to use.
    """
    named_choices = config.name_choices(*_GROUPS)
    methods = {name: choice for name, choice in named_choices.items() if isinstance(choice, Method)}
    hooks_by_method = {name: method.build(context) for name, method in methods.items()}
    hooks_by_method[f"optim={config.resolved['choices']['optim']}"] = config.optim.build_hooks(context)
    if context.spec.targets.kind is TargetKind.MASK:
        _check_masks(hooks_by_method)
    hooks_by_method = {name: change(name, hooks) for name, hooks in hooks_by_method.items()}
    try:
        hooks = Hooks.merge(hooks_by_method.values(), list(hooks_by_method))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for method in methods.values():
        method.check_with(hooks)
    return add_recovery(replace(hooks, batch_transforms=join_mixers(hooks.batch_transforms)))


def _check_masks(hooks_by_method: Mapping[str, Hooks]) -> None:
    """Raise ConfigError for a method that changes images, and does not say how masks follow."""
    for name, hooks in hooks_by_method.items():
        if len(hooks.image_transforms) != len(hooks.mask_transforms):
            raise ConfigError(
                f"{name} does not support masks: it changes images, but fills no Hooks.mask_transforms",
                f"leave {name} out, or fill mask_transforms (keep_masks if no pixel moves)",
            )


def bind_hooks(hooks: Hooks, handles: TrainerHandles) -> None:
    """Give the trainer's handles to all that asks for them."""
    for bind in hooks.bindings:
        bind(handles)
