"""Write predicted masks as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dnntrain.errors import ConfigError
from dnntrain.utils.files import make_folder, write_bytes
from dnntrain.utils.mask_picture import encode_mask

if TYPE_CHECKING:
    from torch import Tensor

    from dnntrain.inference.load import LoadedModel


class MaskWriter:
    """Writes the masks of images into a folder, under the names of the images.

    The value of a pixel is the number of its class; a palette gives it a color. A mask has the size of
    the network's input. Images of the same name get a number: `photo.png`, `photo-2.png`.
    """

    def __init__(self, folder: Path, loaded_model: LoadedModel) -> None:
        self._task = loaded_model.config.task
        self._folder = folder
        self._names: dict[str, int] = {}
        if len(loaded_model.spec.output.shape) != 3:
            raise ConfigError(
                f"--masks {folder} needs a model that predicts the class of each pixel",
                "leave --masks out, or predict with a model of task=segmentation",
            )
        make_folder(folder)

    def __call__(self, files: Sequence[Path], outputs: Tensor) -> list[dict[str, str]]:
        """Write the masks of a batch, and return {"mask": path} for each file."""
        masks = self._task.make_masks(outputs)
        assert masks is not None
        paths = []
        for file, mask in zip(files, masks.cpu().numpy(), strict=True):
            path = self._folder / self._choose_name(file.stem)
            write_bytes(path, encode_mask(mask))
            paths.append({"mask": str(path)})
        return paths

    def _choose_name(self, stem: str) -> str:
        number = self._names[stem] = self._names.get(stem, 0) + 1
        return f"{stem}.png" if number == 1 else f"{stem}-{number}.png"
