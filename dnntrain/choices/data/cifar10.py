"""CIFAR-10 (Krizhevsky, 2009): 32x32 color photographs of 10 kinds of objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.choices.data._cifar import CifarSpec, build_cifar, check_cifar_files
from dnntrain.input.options import FileData
from dnntrain.input.source import DataSet

SPEC = CifarSpec(
    name="cifar10",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    torchvision_class="CIFAR10",
    binary_folder="cifar-10-batches-bin",
    python_folder="cifar-10-batches-py",
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_files=("test_batch.bin",),
    label_bytes=1,
)


@dataclass(frozen=True)
class Cifar10(FileData):
    """50,000 training and 10,000 test images in 10 classes.

    They are read from ROOT/cifar-10-batches-bin or ROOT/cifar-10-batches-py. The Python version's
    files are pickles: they are opened only if their md5 is the published one.
    """

    default_crop_padding: ClassVar[int] = 4
    default_flip_probability: ClassVar[float] = 0.5

    def check_files(self) -> None:
        check_cifar_files(self, SPEC)

    def build(self) -> DataSet:
        return build_cifar(self, SPEC)
