"""CIFAR-10 (Krizhevsky, 2009): 32x32 colour photographs of 10 things."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.data._cifar import CifarSpec, build_cifar
from dnntrain.config.fields import NonNegativeInt
from dnntrain.input.options import FileData
from dnntrain.input.source import DataSet

SPEC = CifarSpec(
    name="cifar10",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    torchvision_class="CIFAR10",
    binary_folder="cifar-10-batches-bin",
    train_files=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test_files=("test_batch.bin",),
    label_bytes=1,
)


@dataclass(frozen=True)
class Cifar10(FileData):
    """50,000 training and 10,000 test images in 10 classes, from ROOT/cifar-10-batches-bin or ROOT/cifar-10-batches-py.

    The Python version's files are pickles: they are opened only where their md5 is the published one.
    """

    crop_padding: NonNegativeInt = 4  # training images are padded by this many zero pixels and cropped back at random
    flip: bool = True  # training images are mirrored left to right with probability 1/2

    def build(self) -> DataSet:
        return build_cifar(self, SPEC)
