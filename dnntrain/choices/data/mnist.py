"""MNIST (LeCun, Bottou, Bengio & Haffner, 1998): 28x28 handwritten digits."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.data._idx_dataset import IdxSpec, build_idx, find_idx_folder
from dnntrain.input.options import FileData
from dnntrain.input.source import DataSet

SPEC = IdxSpec(name="mnist", class_names=tuple("0123456789"), mean=(0.1307,), std=(0.3081,), torchvision_class="MNIST")


@dataclass(frozen=True)
class Mnist(FileData):
    """60,000 training and 10,000 test images in 10 classes, from idx files, gzipped or not.

    They are searched for in the root folder itself and in raw/, MNIST/raw/ and mnist/ below it.
    """

    def check_files(self) -> None:
        find_idx_folder(self, SPEC)

    def build(self) -> DataSet:
        return build_idx(self, SPEC)
