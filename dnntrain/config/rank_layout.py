"""Choose a layout for ranks that were started without one, as by `torchrun … -m dnntrain`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.utils.world import World

#: The layout of several ranks that needs nothing of the model: each has a copy of it.
_LAYOUT_OVERRIDE = "parallel=ddp"


def add_rank_layout(
    overrides: Sequence[str],
    config_dir: str | Path | None,
    world: World,
    saved: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return `overrides`, with a layout if several ranks were started and none is chosen.

    `saved` is the configuration of the run that is resumed. The main rank says so on stderr. A layout
    for one process that `overrides` name is kept, and rejected later.
    """
    words = list(overrides)
    if world.size == 1 or any(word.lstrip("+").startswith("parallel=") for word in words):
        return words
    try:
        layout = decode_config(compose(words, config_dir, saved=saved, quiet=True)).parallel
    except ConfigError:
        # The ranks report it together.
        return words
    if layout.processes != "one":
        return words
    if world.is_main:
        print(
            f"note: {_LAYOUT_OVERRIDE} was chosen for the {world.size} ranks that were started; "
            "choose another layout with parallel=",
            file=sys.stderr,
        )
    return [*words, _LAYOUT_OVERRIDE]
