"""Your own data set: a class or a function in a Python file, or objects given from Python.

The file is run as code. The function is called with the arguments of `data.args`, and returns
(train, test) or (train, val, test). If it has an argument `train`, it is called with train=True and
train=False instead, as data sets of torchvision are:

    def make(size: int = 8):
        return (train_images, train_labels), (test_images, test_labels)

    dnntrain data=custom data.file=mine.py data.name=make data.args.size=16
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dnntrain.config.fields import Arguments, Fraction, Literal, PositiveInt
from dnntrain.errors import ConfigError
from dnntrain.input.source import DataSet
from dnntrain.input.user_data import build_user_data
from dnntrain.protocols import DataChoice, DataFeature, InputKind
from dnntrain.utils.given_objects import get_object
from dnntrain.utils.user_objects import call_constructor, is_class_or_function, list_keywords, load_object


@dataclass(frozen=True)
class CustomData(DataChoice):
    """Examples from your own code: images or rows of numbers, with a class, labels or numbers for each."""

    label_key: ClassVar[str] = "name"
    place_options: ClassVar[tuple[str, ...]] = ("file",)

    val_fraction: Fraction = 0.1  # fraction of the training examples held out for validation, if the code gives none
    mix_block_size: PositiveInt = (
        8  # examples per block within which mixing methods pair examples, so that layouts agree
    )
    sampler: Literal["shuffled", "balanced"] = (
        "shuffled"  # order of an epoch: shuffled, or balanced (equally many examples of each class)
    )
    file: str | None = None  # path of a Python file, which is run
    name: str | None = None  # name of the class or function in the file; null: its only one
    args: Arguments = Arguments()  # arguments of the class or function, as data.args.size=32
    inputs: Literal["images", "rows"] = "images"  # images, or rows of numbers
    from_python: bool = False  # true: the examples are objects of a call from Python: train(data=(train, test))

    def __post_init__(self) -> None:
        if self.from_python and (self.file or self.name or self.args.values):
            raise ValueError("from_python=true does not support file, name and args; leave them out")

    @property
    def measures_training(self) -> bool:
        return True

    @property
    def input_kind(self) -> InputKind:  # type: ignore[override]
        return InputKind.IMAGES if self.inputs == "images" else InputKind.TABLE

    @property
    def features(self) -> frozenset[DataFeature]:  # type: ignore[override]
        return frozenset({DataFeature.IMAGES}) if self.inputs == "images" else frozenset()

    def list_code_options(self) -> tuple[str, ...]:
        return ("file",) if self.file else ()

    def check_files(self) -> None:
        if self.from_python:
            get_object("data")
        elif self.file is None:
            raise ConfigError(
                "data=custom needs data.file", "for example: data=custom data.file=mine.py data.name=make"
            )
        elif not Path(self.file).expanduser().is_file():
            raise ConfigError(f"data.file={self.file} is not a file")

    def build(self) -> DataSet:
        self.check_files()
        if self.from_python:
            return build_user_data(get_object("data"), self.input_kind, "data=")
        maker = load_object(
            Path(str(self.file)).expanduser(), "data", self.name, is_class_or_function, "classes and functions"
        )
        return build_user_data(
            _call_maker(maker, self.args.values), self.input_kind, f"{maker.__name__} of data.file={self.file}"
        )


def _call_maker(maker: Callable[..., Any], args: dict[str, Any]) -> Any:
    """Return the splits. An argument `train` asks for one split."""
    names, _ = list_keywords(maker)
    if "train" in names and "train" not in args:
        return tuple(call_constructor(maker, {**args, "train": train}, "data.args") for train in (True, False))
    return call_constructor(maker, args, "data.args")
