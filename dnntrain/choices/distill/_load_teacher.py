"""Load a teacher from a run directory, an export, torchvision or timm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from dnntrain.checkpoint.portable_model import load_exported_model
from dnntrain.choices.distill._teacher_path import check_teacher_path
from dnntrain.choices.model._adapters import import_library
from dnntrain.choices.model.timm import Timm
from dnntrain.choices.model.torchvision import Torchvision
from dnntrain.errors import ConfigError
from dnntrain.input.source import compute_digest
from dnntrain.nn.cost import build_with_zero_weights
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import BuildContext, InputSpec, ModelSpec, OutputSpec, TargetSpec
from dnntrain.utils.suggest import did_you_mean

_OTHER_CLASSES_HINT = (
    "train a teacher on this data; or use distill=attention_transfer or distill=fitnet, which use only its features"
)


@dataclass(frozen=True)
class TeacherModel:
    """A frozen model in eval mode on the CPU.

    spec    the model's specification; the class names are empty if a library's classes are not those of a data set
    digest  digest of its architecture, weights and normalization
    """

    source: str
    model: nn.Module
    spec: ModelSpec
    digest: str


def load_teacher(source: str, context: BuildContext, reads_classes: bool) -> TeacherModel:
    """Load the teacher `source`, and check it against the data.

    The input is always checked, the classes only if `reads_classes`. Raises ConfigError if the
    teacher does not fit the data, CheckpointError if a file is damaged.
    """
    library_name, _, name = source.partition(":")
    try:
        if library_name == "torchvision" and name:
            teacher = _load_torchvision(source, name, context, reads_classes)
        elif library_name == "timm" and name:
            teacher = _load_timm(source, name, context, reads_classes)
        else:
            teacher = _load_export(source, context)
    except ConfigError as error:
        hint = error.hint.removeprefix("set model.download=true, or ")
        raise ConfigError(f"distill.teacher={source}: {error.message}", hint) from None
    if reads_classes:
        _check_class_names(teacher, context)
    teacher.model.eval().requires_grad_(False)
    return teacher


def _load_export(source: str, context: BuildContext) -> TeacherModel:
    path = check_teacher_path(source)
    model_export = load_exported_model(path)
    inputs = model_export.spec.inputs
    if inputs.shape != context.spec.inputs.shape:
        teacher_shape, data_shape = ("x".join(map(str, shape)) for shape in (inputs.shape, context.spec.inputs.shape))
        raise ConfigError(
            f"it was trained on images of {teacher_shape}, but the data have {data_shape}",
            f"train a teacher on this data, or choose data of {teacher_shape}",
        )
    for teacher_column, column in zip(inputs.columns, context.spec.inputs.columns, strict=True):
        if teacher_column != column:
            raise ConfigError(
                f"it reads the column {teacher_column.name} otherwise than this run reads {column.name}: other columns or categories",
                "train a teacher on this data, with the same seed",
            )
    facts = [f"{key}={value}" for key, value in model_export.architecture.items()]
    return TeacherModel(
        source,
        model_export.model,
        model_export.spec,
        _compute_digest(model_export.model, [*facts, str(inputs.mean), str(inputs.std)]),
    )


def _load_torchvision(source: str, name: str, context: BuildContext, reads_classes: bool) -> TeacherModel:
    arch, _, weights = name.partition(":")
    models = import_library("torchvision").models
    model_names = models.list_models(module=models)
    if arch not in model_names:
        raise ConfigError(f"torchvision has no classification model {arch!r}; {did_you_mean(arch, model_names)}")
    choices = models.get_model_weights(arch).__members__
    weights = weights or "DEFAULT"
    if weights not in choices:
        raise ConfigError(f"{arch} has no weights {weights!r}; {did_you_mean(weights, list(choices))}")
    weights_entry = choices[weights].value
    preset = weights_entry.transforms()
    classes = len(weights_entry.meta["categories"])
    shape = _make_model_shape(classes, 3, context)
    if reads_classes:
        _check_class_count(classes, context)
    model = _expand_gray_input(
        build_with_zero_weights(lambda: Torchvision(name=arch, weights=weights).build(shape)), shape, context
    )
    mean, std = tuple(map(float, preset.mean)), tuple(map(float, preset.std))
    return _make_library_teacher(source, model, shape, mean, std)


def _load_timm(source: str, name: str, context: BuildContext, reads_classes: bool) -> TeacherModel:
    timm = import_library("timm")
    if not timm.is_model(name.partition(".")[0]):
        raise ConfigError(f"timm has no model {name!r}; {did_you_mean(name.partition('.')[0], timm.list_models())}")
    config = timm.get_pretrained_cfg(name)
    if config is None or not timm.models.is_model_pretrained(name.partition(".")[0]):
        raise ConfigError(f"timm has no weights for {name!r}", "a teacher must be trained: name a model with weights")
    shape = _make_model_shape(config.num_classes, config.input_size[0], context)
    if reads_classes:
        _check_class_count(config.num_classes, context)
    model = _expand_gray_input(
        build_with_zero_weights(lambda: Timm(name=name, pretrained=True, download=True).build(shape)), shape, context
    )
    mean, std = tuple(map(float, config.mean)), tuple(map(float, config.std))
    return _make_library_teacher(source, model, shape, mean, std)


def _make_library_teacher(
    source: str, model: nn.Module, shape: ModelShape, mean: tuple[float, ...], std: tuple[float, ...]
) -> TeacherModel:
    inputs = InputSpec((shape.channels, shape.height, shape.width), mean, std)
    spec = ModelSpec(inputs, TargetSpec(()), OutputSpec((), (shape.num_classes,), "logits"))
    return TeacherModel(source, model, spec, _compute_digest(model, [source, str(mean), str(std)]))


def _make_model_shape(classes: int, channels: int, context: BuildContext) -> ModelShape:
    """Return the input shape for a library's model with weights for `channels`.

    Raises ConfigError if the data cannot have that shape.
    """
    data_channels = context.spec.inputs.shape[0]
    if data_channels not in (1, channels):
        raise ConfigError(
            f"its weights are for {channels} channels, but the data have {data_channels}",
            "train a teacher on this data, and name its run directory",
        )
    _, height, width = (*context.spec.inputs.shape, 1, 1)[:3]
    return ModelShape(classes, channels, height, width)


def _expand_gray_input(model: nn.Module, shape: ModelShape, context: BuildContext) -> nn.Module:
    """Return `model`, which repeats the channel of gray images if it takes colors."""
    if context.spec.inputs.shape[0] != shape.channels:
        model.register_forward_pre_hook(partial(_repeat_channels, shape.channels))
    return model


def _repeat_channels(channels: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # With another normalization, `compute_renormalization` has already made one channel for each.
    return (inputs[0].expand(-1, channels, -1, -1), *inputs[1:])


def _check_class_count(classes: int, context: BuildContext) -> None:
    """Check the number of classes before the weights are loaded.

    A library's classes cannot become the classes of the data.
    """
    if classes != context.spec.output.size:
        raise ConfigError(
            f"it has {classes} classes, but the data have {context.spec.output.size}", _OTHER_CLASSES_HINT
        )


def _check_class_names(teacher: TeacherModel, context: BuildContext) -> None:
    if teacher.spec.inputs.vocabulary != context.spec.inputs.vocabulary:
        raise ConfigError(
            f"distill.teacher={teacher.source}: its tokens are not those of the data",
            "train teacher and student on data with the same tokenizer",
        )
    kind, data_kind = teacher.spec.targets.kind, context.spec.targets.kind
    if kind is not data_kind:
        raise ConfigError(
            f"distill.teacher={teacher.source}: it predicts {kind.value}; the data have {data_kind.value}",
            "train a teacher for this task on this data",
        )
    data_names, teacher_names = context.spec.targets.names, teacher.spec.targets.names
    teacher_size, data_size = teacher.spec.output.size, context.spec.output.size
    if teacher_size == data_size and (not teacher_names or not data_names or teacher_names == data_names):
        return
    if teacher_size != data_size:
        reason = f"it has {teacher_size} {kind.plural}, but the data have {data_size}"
    else:
        place = next(place for place, (a, b) in enumerate(zip(teacher_names, data_names, strict=True)) if a != b)
        is_reordered = set(teacher_names) == set(data_names)
        difference = f"the same {kind.plural} in another order" if is_reordered else f"other {kind.plural}"
        reason = (
            f"it has {difference}: {kind.noun} {place} is {teacher_names[place]!r}, "
            f"but {data_names[place]!r} in the data"
        )
    raise ConfigError(f"distill.teacher={teacher.source}: {reason}", _OTHER_CLASSES_HINT)


def _compute_digest(model: nn.Module, facts: list[str]) -> str:
    parts = [item for name, tensor in model.state_dict().items() for item in (name, tensor.numpy())]
    return compute_digest([*facts, *parts])
