"""Check a planned run on a network without weights, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dnntrain.config.run_config import RunConfig
from dnntrain.errors import ConfigError
from dnntrain.input.prepared import PreparedData
from dnntrain.nn.freezing import freeze_model
from dnntrain.nn.partition import get_sections
from dnntrain.nn.shape import ModelShape
from dnntrain.planning.plan import Plan
from dnntrain.protocols import Action, Hooks, ScheduledParam
from dnntrain.training.data import load_sample_images
from dnntrain.training.scheduled_values import bind_scheduled_values
from dnntrain.training.setup import build_unfilled_model


def check_scheduled_values(config: RunConfig, plan: Plan, data: PreparedData, hooks: Hooks) -> None:
    """Bind all schedules to a network without weights.

    This is skipped if only the learning rate and the batches are scheduled. Raises ConfigError if a
    schedule has no value to set, or if a loss does not follow the length of a step.
    """
    targets = {control.target for control in hooks.scheduled_values if isinstance(control.target, ScheduledParam)}
    if ScheduledParam.SEQ_LEN in targets and hooks.loss_terms:
        raise ConfigError(
            f"sched.applies_to=seq_len does not support the loss {hooks.loss_terms[0].name!r}, which is made for whole "
            "windows",
            f"leave seq_len out of sched.applies_to, or the method of the loss {hooks.loss_terms[0].name!r} out",
        )
    if all(target.is_in_every_run for target in targets):
        return
    model = build_unfilled_model(config, ModelShape.from_spec(data.spec), hooks)
    named_values = [control for control in hooks.scheduled_values if isinstance(control.target, ScheduledParam)]
    bind_scheduled_values(named_values, config.optim.adapt_lr(plan.batch_size).build(model), model)


def check_pipeline_stages(config: RunConfig, plan: Plan, data: PreparedData, hooks: Hooks) -> None:
    """Check that each rank of the pipeline trains something. Raises ConfigError if not."""
    ranks = plan.degrees.pp
    if ranks == 1:
        return
    model = build_unfilled_model(config, ModelShape.from_spec(data.spec), hooks)
    images = load_sample_images(config, data) if hooks.weight_inits else torch.empty(0)
    for set_weights in hooks.weight_inits:
        set_weights(model, images)
    fixed = config.optim.list_fixed_parameters(model)
    freeze_model(model, config.train.freeze, fixed)
    trainable_names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    section_names = [section.owned_names for section in get_sections(model)]
    names_of_ranks = [
        [
            owned_name
            for stage in range(rank, len(plan.stage_bounds) - 1, ranks)
            for owned_name in _iterate_owned_names(plan, section_names, stage)
        ]
        for rank in range(ranks)
    ]
    for rank, rank_names in enumerate(names_of_ranks):
        other_names = [owned_name for names in names_of_ranks if names is not rank_names for owned_name in names]
        if all(_is_owned_by(name, other_names) for name in trainable_names):
            freeze_note = " besides the weights that reg.whitening keeps frozen" if hooks.weight_inits else ""
            if config.train.freeze or fixed:
                raise ConfigError(
                    f"stage {rank} of parallel.pp={ranks} holds no weights that are trained: "
                    f"{'train.freeze' if config.train.freeze else 'optim.param_groups'} keeps all of them",
                    "use parallel=ddp or parallel=fsdp",
                )
            raise ConfigError(
                f"stage {rank} of parallel.pp={ranks} holds no weights that are trained{freeze_note}",
                f"use {f'parallel.pp={ranks - 1}' if ranks > 2 else 'parallel=ddp'}"
                + (", or reg.whitening.freeze=false" if freeze_note else ""),
            )


def _iterate_owned_names(plan: Plan, section_names: Sequence[Sequence[str]], stage: int) -> Iterator[str]:
    """Yield the names of the modules and parameters that the sections of this stage own."""
    for names in section_names[plan.stage_bounds[stage] : plan.stage_bounds[stage + 1]]:
        yield from names


def _is_owned_by(name: str, owned_names: Sequence[str]) -> bool:
    return any(name == owned_name or name.startswith(f"{owned_name}.") for owned_name in owned_names)


def check_reshaping(config: RunConfig, data: PreparedData, hooks: Hooks) -> None:
    """Check that the network, and the optimizer's state, can be cut as configured. Raises ConfigError if not."""
    if hooks.reshaping is None:
        return
    model = build_unfilled_model(config, ModelShape.from_spec(data.spec), hooks)
    if uncuttable := hooks.reshaping.check(model) & config.optim.list_uncuttable_parameters(model):
        choices = config.resolved["choices"]
        raise ConfigError(
            f"prune={choices['prune']} does not support optim={choices['optim']} here, because its state of "
            f"{min(uncuttable)} does not have the shape of the weight and cannot be cut with it",
            "use optim=adamw",
        )


def check_unfreezing(config: RunConfig, hooks: Hooks) -> None:
    """Check that the methods support `train.unfreeze_at`. Raises ConfigError if not."""
    if config.train.unfreeze_at is None:
        return
    if not config.optim.supports_unfreezing:
        raise ConfigError(
            f"train.unfreeze_at does not support optim={config.resolved['choices']['optim']}, whose corrections count "
            "the steps of all parameters together",
            "use optim=adamw",
        )
    if any(guard.action is Action.ROLLBACK for guard in hooks.step_guards):
        raise ConfigError(
            "train.unfreeze_at does not support a monitor that rolls back, because a rollback may cross that step",
            "set its action to log, skip or stop, or leave train.unfreeze_at out",
        )


def check_init_weights(config: RunConfig, data: PreparedData, hooks: Hooks) -> tuple[str, ...]:
    """Check that `init_from` exists, is undamaged, and fits the network. Raises an error if not.

    Returns a note if a part is loaded, or if the file or the network has tensors that the other lacks.
    """
    from dnntrain.nn.weight_names import NamePrefix
    from dnntrain.nn.weights import check_weights

    if hooks.weight_inits:
        raise ConfigError(
            "init_from would overwrite the filters that reg.whitening computes from the images",
            "leave out one of them",
        )
    _check_tokens(str(config.init_from), data)
    model = build_unfilled_model(config, ModelShape.from_spec(data.spec), hooks)
    prefix = None if config.init_prefix is None else NamePrefix.parse(config.init_prefix)
    report = check_weights(model, str(config.init_from), config.init_replace_head, prefix)
    return (f"init_from: {report}",) if report.is_partial or prefix is not None else ()


def _check_tokens(init_from: str, data: PreparedData) -> None:
    """Raise ConfigError if the weights were trained with other tokens than those of the data."""
    from dnntrain.checkpoint.saved_vocabulary import find_vocabulary

    vocabulary = data.spec.inputs.vocabulary
    trained = None if vocabulary is None else find_vocabulary(Path(init_from).expanduser())
    if vocabulary is None or trained is None:
        return
    if vocabulary.size != trained.size or replace(vocabulary, separates=trained.separates) != trained:
        raise ConfigError(
            f"init_from={init_from} was trained with {trained.size} tokens ({trained.kind}), and the data are cut into "
            f"{vocabulary.size} others ({vocabulary.kind})",
            f"use its tokens: data.vocabulary_from={init_from}",
        )


def check_quantization(config: RunConfig, data: PreparedData) -> None:
    """Check that `quant` can quantize the run's model with its data. Raises an error if not."""
    from dnntrain.export.preflight import check_image_counts, check_quantizable

    name = config.resolved["choices"]["quant"]
    check_image_counts(config.quant, name, len(data.train), len(data.val) or len(data.test))
    model = config.norm.convert_for_export(build_unfilled_model(config, ModelShape.from_spec(data.spec)))
    check_quantizable(config.quant, name, model, data.spec.inputs.make_zeros(2))
