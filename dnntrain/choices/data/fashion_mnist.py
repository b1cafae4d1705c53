"""Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017): 28x28 gray pictures of clothes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dnntrain.choices.data._idx_dataset import IdxSpec, build_idx, find_idx_folder
from dnntrain.input.options import FileData
from dnntrain.input.source import DataSet

#: Folder in which Debian's package dataset-fashion-mnist installs its files.
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

SPEC = IdxSpec(
    name="fashion_mnist",
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    mean=(0.2860,),
    std=(0.3530,),
    torchvision_class="FashionMNIST",
    system_folder=DEBIAN_FOLDER,
)


@dataclass(frozen=True)
class FashionMnist(FileData):
    """60,000 training and 10,000 test images in 10 classes, from idx files, gzipped or not.

    They are searched for in the root folder itself and in raw/, FashionMNIST/raw/, fashion_mnist/
    and fashion-mnist/ below it; if no root is set, also in the folder of Debian's package.
    """

    def check_files(self) -> None:
        find_idx_folder(self, SPEC)

    def build(self) -> DataSet:
        return build_idx(self, SPEC)
