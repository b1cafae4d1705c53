"""A teacher by what was typed: a run directory, an export, or a pretrained model of torchvision or timm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from dnntrain.checkpoint.portable_model import load_exported
from dnntrain.choices.model._adapters import library
from dnntrain.choices.model.timm import Timm
from dnntrain.choices.model.torchvision import Torchvision
from dnntrain.errors import ConfigError
from dnntrain.input.source import digest_of
from dnntrain.nn.cost import unfilled
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import Context
from dnntrain.utils.suggest import did_you_mean, nearest_run

_OTHER_CLASSES = "train a teacher on this data; or use distill=at or distill=fitnet, which read its features only"


@dataclass(frozen=True)
class Loaded:
    """A frozen model in eval mode on the CPU. `class_names` is empty where the library's names are not those of a data set.

    `mean` and `std` are what it was trained with; `digest` is of its architecture, numbers and normalisation.
    """

    source: str
    model: nn.Module
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str


def load_teacher(source: str, context: Context, reads_classes: bool) -> Loaded:
    """The teacher `source`, checked against the data: its input always, its classes where they are read.

    Raises ConfigError where it does not fit, CheckpointError where a file is damaged.
    """
    library_name, _, name = source.partition(":")
    try:
        if library_name == "torchvision" and name:
            loaded = _torchvision(source, name, context, reads_classes)
        elif library_name == "timm" and name:
            loaded = _timm(source, name, context, reads_classes)
        else:
            loaded = _exported(source, context)
    except ConfigError as error:
        hint = error.hint.removeprefix("set model.download=true, or ")
        raise ConfigError(f"distill.teacher={source}: {error.message}", hint) from None
    if reads_classes:
        _check_names(loaded, context)
    loaded.model.eval().requires_grad_(False)
    return loaded


def _exported(source: str, context: Context) -> Loaded:
    path = Path(source).expanduser()
    if not path.exists():
        raise ConfigError(
            "there is no such run directory, export or model",
            f"{nearest_run(path, 'config.json')}; torchvision:NAME and timm:NAME are others. A run that goes on needs the teacher it "
            "began with, too: put it back there, or a link to it",
        )
    found = load_exported(path)
    if found.input_shape != context.input_shape:
        theirs, ours = ("x".join(map(str, shape)) for shape in (found.input_shape, context.input_shape))
        raise ConfigError(
            f"it was trained on images of {theirs}, the data have {ours}",
            f"train a teacher on this data, or choose data of {theirs}",
        )
    described = [f"{key}={value}" for key, value in found.architecture.items()]
    return Loaded(
        source,
        found.model,
        len(found.class_names),
        found.class_names,
        found.mean,
        found.std,
        _digest(found.model, [*described, str(found.mean), str(found.std)]),
    )


def _torchvision(source: str, name: str, context: Context, reads_classes: bool) -> Loaded:
    arch, _, weights = name.partition(":")
    models = library("torchvision").models
    known = models.list_models(module=models)
    if arch not in known:
        raise ConfigError(f"torchvision has no classification model {arch!r}; {did_you_mean(arch, known)}")
    choices = models.get_model_weights(arch).__members__
    weights = weights or "DEFAULT"
    if weights not in choices:
        raise ConfigError(f"{arch} has no weights {weights!r}; {did_you_mean(weights, list(choices))}")
    chosen = choices[weights].value
    preset = chosen.transforms()
    classes = len(chosen.meta["categories"])
    shape = _shape(classes, 3, context)
    if reads_classes:
        _check_number(classes, context)
    model = _for_gray(unfilled(lambda: Torchvision(name=arch, weights=weights).build(shape)), shape, context)
    mean, std = tuple(map(float, preset.mean)), tuple(map(float, preset.std))
    return Loaded(source, model, classes, (), mean, std, _digest(model, [source, str(mean), str(std)]))


def _timm(source: str, name: str, context: Context, reads_classes: bool) -> Loaded:
    timm = library("timm")
    if not timm.is_model(name.partition(".")[0]):
        raise ConfigError(f"timm has no model {name!r}; {did_you_mean(name.partition('.')[0], timm.list_models())}")
    config = timm.get_pretrained_cfg(name)
    if config is None or not timm.models.is_model_pretrained(name.partition(".")[0]):
        raise ConfigError(f"timm has no weights for {name!r}", "a teacher must be trained: name a model with weights")
    shape = _shape(config.num_classes, config.input_size[0], context)
    if reads_classes:
        _check_number(config.num_classes, context)
    model = _for_gray(unfilled(lambda: Timm(name=name, pretrained=True).build(shape)), shape, context)
    mean, std = tuple(map(float, config.mean)), tuple(map(float, config.std))
    return Loaded(source, model, config.num_classes, (), mean, std, _digest(model, [source, str(mean), str(std)]))


def _shape(classes: int, channels: int, context: Context) -> ModelShape:
    """The input of a library's model whose weights are for `channels`. Raises ConfigError where the data cannot be that."""
    ours = context.input_shape[0]
    if ours not in (1, channels):
        raise ConfigError(
            f"its weights are for {channels} channels; the data have {ours}",
            "train a teacher on this data, and name its run directory",
        )
    return ModelShape(classes, channels, *context.input_shape[1:])


def _for_gray(model: nn.Module, shape: ModelShape, context: Context) -> nn.Module:
    """`model`, which takes the data's gray images for colours that have the same value in each channel."""
    if context.input_shape[0] != shape.channels:
        model.register_forward_pre_hook(partial(_repeated, shape.channels))
    return model


def _repeated(channels: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # Where the data are normalised otherwise, `renormalisation` has made a channel of its own for each already.
    return (inputs[0].expand(-1, channels, -1, -1), *inputs[1:])


def _check_number(classes: int, context: Context) -> None:
    """Before weights are looked for: no library's own classes become those of the data."""
    if classes != context.num_classes:
        raise ConfigError(f"it knows {classes} classes, the data have {context.num_classes}", _OTHER_CLASSES)


def _check_names(loaded: Loaded, context: Context) -> None:
    ours, theirs = context.class_names, loaded.class_names
    if loaded.num_classes == context.num_classes and (not theirs or not ours or theirs == ours):
        return
    if loaded.num_classes != context.num_classes:
        reason = f"it knows {loaded.num_classes} classes, the data have {context.num_classes}"
    else:
        place = next(place for place, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        same = "the same classes in another order" if set(theirs) == set(ours) else "other classes"
        reason = f"it knows {same}: class {place} is {theirs[place]!r}, in the data {ours[place]!r}"
    raise ConfigError(f"distill.teacher={loaded.source}: {reason}", _OTHER_CLASSES)


def _digest(model: nn.Module, described: list[str]) -> str:
    parts = [item for name, tensor in model.state_dict().items() for item in (name, tensor.numpy())]
    return digest_of([*described, *parts])
