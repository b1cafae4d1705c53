"""Write predicted masks as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dnntrain.errors import ConfigError
from dnntrain.utils.files import make_folder, write_bytes
from dnntrain.utils.mask_picture import encode_mask, is_predicted_mask

if TYPE_CHECKING:
    from torch import Tensor

    from dnntrain.inference.load import LoadedModel


class MaskWriter:
    """Writes the masks of the images `files`, in their order, into a folder, under the names of the images.

    The value of a pixel is the number of its class; a palette gives it a color. A mask has the size of
    the network's input. Images of the same name get a number: `photo.png`, `photo-2.png`. Raises
    ConfigError, before anything is written, if a mask would replace a file that is not a predicted mask.
    """

    def __init__(self, folder: Path, loaded_model: LoadedModel, files: Sequence[Path]) -> None:
        self._task = loaded_model.config.task
        self._paths = [folder / name for name in choose_names([file.stem for file in files])]
        self._place_by_file = {file: place for place, file in enumerate(files)}
        _check_free(folder, self._paths, files)
        make_folder(folder)

    def __call__(self, files: Sequence[Path], outputs: Tensor) -> list[dict[str, str]]:
        """Write the masks of a batch, and return {"mask": path} for each file."""
        masks = self._task.make_masks(outputs)
        assert masks is not None
        paths = []
        for file, mask in zip(files, masks.cpu().numpy(), strict=True):
            path = self._paths[self._place_by_file[file]]
            write_bytes(path, encode_mask(mask))
            paths.append({"mask": str(path)})
        return paths


def check_predicts_masks(folder: Path, loaded_model: LoadedModel) -> None:
    """Raise ConfigError if the model predicts no masks for `folder`."""
    if len(loaded_model.spec.output.shape) != 3:
        raise ConfigError(
            f"--masks {folder} needs a model that predicts the class of each pixel",
            "leave --masks out, or predict with a model of task=segmentation",
        )


def choose_names(stems: Sequence[str]) -> list[str]:
    """Return a file name for each stem, no two the same: the first `photo` is photo.png, the next one photo-2.png.

    A number is left out if another stem has that name.
    """
    taken, seen = set(stems), set[str]()
    names = []
    for stem in stems:
        name, number = stem, 1
        while (number > 1 and name in taken) or (number == 1 and name in seen):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        seen.add(stem)
        names.append(f"{name}.png")
    return names


def _check_free(folder: Path, paths: Sequence[Path], files: Sequence[Path]) -> None:
    images = {file.resolve() for file in files}
    for path in paths:
        if path.resolve() in images:
            raise ConfigError(
                f"--masks {folder}: the mask {path.name} would replace an image that is predicted", "name a new folder"
            )
        if path.is_file() and not is_predicted_mask(path):
            raise ConfigError(
                f"--masks {folder}: {path} exists and is not a mask that predict has written", "name a new folder"
            )
