"""List the values of the options of `dnntrain explain` without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from dnntrain.errors import ConfigError
from dnntrain.utils.json_files import read_json
from dnntrain.utils.suggest import did_you_mean

#: How maps are made; auto: the method that fits the network.
MapName = Literal[
    "auto", "layercam", "fused_layercam", "gradcam", "rollout", "integrated_gradients", "gradient", "occlusion"
]

#: Sets of examples that are chosen by their outputs.
ExampleSet = Literal["worst", "uncertain", "random"]

EXAMPLE_SETS: tuple[str, ...] = get_args(ExampleSet)

#: The most examples with maps: a page has at most 3 MB.
MAX_COUNT = 60


#: Keys of explain.json, by which such a file is known.
_NUMBERS_KEYS = {"split", "layers", "blame", "shown"}


def check_numbers_path(page: Path | None) -> Path | None:
    """Return `page`. Raises ConfigError if the numbers beside it would replace a file that explain did not write."""
    if page is None:
        return None
    path = page.with_suffix(".json")
    if path.exists() and not read_json(path).keys() >= _NUMBERS_KEYS:
        raise ConfigError(
            f"--path {page}: the numbers would replace {path}, which explain did not write", "name another page"
        )
    return page


def split_example_words(words: Sequence[Path]) -> tuple[list[str], list[Path]]:
    """Return the names of sets and the files in the words of `--examples`.

    Raises ConfigError if a word is neither; a file that has the name of a set is `./NAME`.
    """
    names = [str(word) for word in words if str(word) in EXAMPLE_SETS]
    files = [word for word in words if str(word) not in EXAMPLE_SETS]
    for file in files:
        if not file.is_file():
            raise ConfigError(
                f"--examples {file} must be {', '.join(EXAMPLE_SETS)} or a file, and there is no such file",
                did_you_mean(str(file), EXAMPLE_SETS),
            )
    return list(dict.fromkeys(names)), files
