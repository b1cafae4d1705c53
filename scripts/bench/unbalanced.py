"""Do balanced class weights raise macro F1 on an unbalanced folder of photos?

Writes Fashion-MNIST as an image folder whose classes have from 400 down to 10 training images, all with 50
test images, and asks `dnntrain prove`.

    python scripts/bench/unbalanced.py [--root FOLDER] [--work FOLDER] [--short] [OVERRIDE …]

The short setting takes a few minutes: fewer epochs, at most 20 pairs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dnntrain.choices.data.fashion_mnist import FashionMnist
from dnntrain.cli.main import main as run_command

_MOST, _FEWEST, _TEST = 400, 10, 50


def main() -> int:
    """Write the folder, and run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="folder of the files of Fashion-MNIST")
    parser.add_argument("--work", default="unbalanced")
    parser.add_argument("--short", action="store_true")
    options, overrides = parser.parse_known_args()
    photos = Path(options.work) / "photos"
    if not photos.is_dir():
        write_folder(photos, options.root)
    duration, pairs = ("4ep", "20") if options.short else ("15ep", "20")
    return run_command(
        [
            *("prove", "--a", "", "--b", "task.class_weights=balanced"),
            *("--metric", "macro_f1", "--margin", "0.005", "--max-pairs", pairs),
            *("data=image_folder", f"data.root={photos}", "data.image_size=28", "data.channels=1"),
            *("task.metrics=[macro_f1,balanced_accuracy]", "task.metric=macro_f1"),
            *(f"train.duration={duration}", "train.batch_size=32", f"run_dir={Path(options.work) / 'prove'}"),
            *overrides,
        ]
    )


def write_folder(folder: Path, root: str | None) -> None:
    """Write the images of both splits; class c has 400 · (10 / 400)^(c / 9) training images."""
    temporary = folder.with_name("photos.part")
    shutil.rmtree(temporary, ignore_errors=True)
    dataset = FashionMnist(root=root).build()
    for split, source in (("train", dataset.train), ("test", dataset.test)):
        for label, name in enumerate(dataset.targets.names):
            count = _TEST if split == "test" else round(_MOST * (_FEWEST / _MOST) ** (label / 9))
            place = temporary / split / name.replace("/", "-")
            place.mkdir(parents=True)
            for number in np.flatnonzero(source.labels == label)[:count].tolist():
                Image.fromarray(source.read(number)[0].numpy()).save(place / f"{number}.png")
    temporary.rename(folder)


if __name__ == "__main__":
    sys.exit(main())
