"""CIFAR-100 (Krizhevsky, 2009): 32x32 color photographs of 100 kinds of objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.choices.data._cifar import CifarSpec, build_cifar, check_cifar_files
from dnntrain.input.options import FileData
from dnntrain.input.source import DataSet

_CLASS_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree
wolf woman worm
"""

SPEC = CifarSpec(
    name="cifar100",
    class_names=tuple(_CLASS_NAMES.split()),
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    torchvision_class="CIFAR100",
    binary_folder="cifar-100-binary",
    python_folder="cifar-100-python",
    train_files=("train.bin",),
    test_files=("test.bin",),
    label_bytes=2,
)


@dataclass(frozen=True)
class Cifar100(FileData):
    """50,000 training and 10,000 test images in 100 classes.

    They are read from ROOT/cifar-100-binary or ROOT/cifar-100-python. The Python version's files
    are pickles: they are opened only if their md5 is the published one.
    """

    default_crop_padding: ClassVar[int] = 4
    default_flip_probability: ClassVar[float] = 0.5

    def check_files(self) -> None:
        check_cifar_files(self, SPEC)

    def build(self) -> DataSet:
        return build_cifar(self, SPEC)
