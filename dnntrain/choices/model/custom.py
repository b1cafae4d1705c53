"""Your own model: a class in a Python file, or one that an installed package offers.

If you name a file, it is run as code. Its class is called with the arguments of `model.args`, and
with the numbers of the data that its constructor takes: num_classes, in_channels, image_height and
image_width.

    class Net(torch.nn.Module):
        def __init__(self, num_classes: int, in_channels: int, width: int = 16) -> None: ...

    dnntrain model=custom model.file=net.py model.name=Net model.args.width=32

A package offers a class, or a function that returns a module, by an entry point of the group
`dnntrain.models`:

    [project.entry-points."dnntrain.models"]
    net = "my_package.models:Net"

    dnntrain model=custom model.entry_point=net
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from dnntrain.choices.model._adapters import build_and_check
from dnntrain.config.fields import Arguments
from dnntrain.errors import ConfigError
from dnntrain.nn.shape import ModelShape
from dnntrain.protocols import InputKind, ModelChoice, OutputKind
from dnntrain.utils.given_objects import get_object
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.user_code import register_user_code
from dnntrain.utils.user_objects import describe_error, list_keywords, list_missing, load_object

ENTRY_POINT_GROUP = "dnntrain.models"


@dataclass(frozen=True)
class Custom(ModelChoice):
    """Your torch.nn.Module: images [n, channels, height, width] or rows [n, columns] → outputs [n, classes], or of each pixel."""

    file: str | None = None  # path of a Python file, which is run
    name: str | None = None  # name of the class in the file; null: its only torch.nn.Module
    entry_point: str | None = None  # name of an entry point of the group dnntrain.models, instead of a file
    args: Arguments = Arguments()  # arguments of the constructor, as model.args.width=32; the data's numbers are added
    from_python: bool = False  # true: the network is the object of a call from Python: train(model=network)

    input_kinds: ClassVar[frozenset[InputKind]] = frozenset({InputKind.IMAGES, InputKind.TABLE})
    output_kinds: ClassVar[frozenset[OutputKind]] = frozenset({OutputKind.VECTOR, OutputKind.MAP})

    def __post_init__(self) -> None:
        if self.from_python and (self.file or self.name or self.entry_point or self.args.values):
            raise ValueError("from_python=true does not support file, name, entry_point and args; leave them out")

    def list_code_options(self) -> tuple[str, ...]:
        return tuple(name for name, value in (("file", self.file), ("entry_point", self.entry_point)) if value)

    def build(self, shape: ModelShape) -> nn.Module:
        if self.from_python:
            network = get_object("model")
            return build_and_check(partial(copy.deepcopy, network), shape, f"model={type(network).__name__}")
        if (self.file is None) == (self.entry_point is None):
            raise ConfigError(
                "model=custom needs either model.file or model.entry_point",
                "for example: model=custom model.file=net.py model.name=Net",
            )
        if self.file is not None:
            maker, source_name = load_class(Path(self.file).expanduser(), self.name), f"model.file={self.file}"
        else:
            maker, source_name = load_entry_point(str(self.entry_point)), f"model.entry_point={self.entry_point}"
        arguments = select_arguments(maker, shape, self.args.values, source_name)
        return build_and_check(partial(maker, **arguments), shape, f"{maker.__name__} of {source_name}")


def load_class(path: Path, name: str | None) -> Callable[..., Any]:
    """Return the class `name` of the Python file `path`, or its only module class.

    Raises ConfigError, which lists the classes of the file.
    """
    maker: Callable[..., Any] = load_object(
        path,
        "model",
        name,
        lambda value: isinstance(value, type) and issubclass(value, nn.Module),
        "classes that are a torch.nn.Module",
    )
    return maker


def load_entry_point(name: str) -> Callable[..., Any]:
    """Load the entry point `name` of an installed package.

    Raises ConfigError with the nearest name.
    """
    entries = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in entries:
        raise ConfigError(
            f"model.entry_point={name}: no installed package offers it; {did_you_mean(name, list(entries))}",
            f"packages offer models as entry points of the group {ENTRY_POINT_GROUP}",
        )
    try:
        candidate = entries[name].load()
    except Exception as error:
        raise ConfigError(f"model.entry_point={name} cannot be loaded: {describe_error(error)}") from error
    if not callable(candidate):
        raise ConfigError(f"model.entry_point={name} must be a class or a function, not a {type(candidate).__name__}")
    file = inspect.getsourcefile(inspect.unwrap(candidate)) if inspect.isroutine(candidate) else None
    file = file or vars(sys.modules.get(candidate.__module__, sys)).get("__file__")
    if file is not None:
        register_user_code(Path(file), f"model.entry_point={name}")
    maker: Callable[..., Any] = candidate
    return maker


def get_data_arguments(shape: ModelShape) -> dict[str, int]:
    """Return the numbers of the data by the names of the arguments that receive them."""
    return {
        "num_classes": shape.num_classes,
        "in_channels": shape.channels,
        "image_height": shape.height,
        "image_width": shape.width,
    }


def select_arguments(
    maker: Callable[..., Any], shape: ModelShape, args: Mapping[str, Any], source_name: str
) -> dict[str, Any]:
    """Return `args` and the numbers of the data that `maker` takes by keyword.

    Raises ConfigError if `maker` does not take one of `args`, or needs other arguments.
    """
    data = get_data_arguments(shape)
    if given := sorted(data.keys() & args.keys()):
        raise ConfigError(f"model.args.{given[0]} cannot be set, because the data sets it", f"leave it out: {given[0]}")
    names, takes_any = list_keywords(maker)
    values = {**{name: value for name, value in data.items() if takes_any or name in names}, **args}
    if unknown := [name for name in values if name not in names and not takes_any]:
        raise ConfigError(
            f"model.args.{unknown[0]}: {maker.__name__} of {source_name} does not have this argument; "
            + did_you_mean(unknown[0], [name for name in names if name not in data])
        )
    missing = list_missing(maker, values)
    if missing:
        raise ConfigError(
            f"{source_name}: {maker.__name__} needs {'the arguments' if missing[1:] else 'the argument'} "
            f"{', '.join(missing)}",
            f"set {' '.join(f'model.args.{name}=VALUE' for name in missing)}; "
            f"the numbers of the data are called {', '.join(data)}",
        )
    return values
