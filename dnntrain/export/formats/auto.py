"""`format=auto`: the formats that were fastest on this machine, each for the batch sizes that it won."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from dnntrain.errors import CheckpointError
from dnntrain.export.formats import Format, Runner, Source, check_installed, find
from dnntrain.export.manifest import MANIFEST, Card, read_manifest, verify


def write(source: Source, folder: Path) -> dict[str, Any]:
    """Not written by itself: `verbs/choosing.py` measures first."""
    raise AssertionError("format=auto is a choice among exports")


def load(place: Path, card: Card, device: str) -> Runner:
    """Hands each batch to the format that won the largest batch size measured that is not larger, or the smallest."""
    runners: dict[str, Runner] = {}
    choices = {int(batch): str(name) for batch, name in card.details["choices"].items()}
    for name in set(choices.values()):
        if f"{name}/{MANIFEST}" not in card.files:
            raise CheckpointError(f"{place}: the manifest does not list {name}", "export it again")
        inner = read_manifest(place / name)
        verify(place / name, inner)
        found = find(inner.format)
        check_installed(found)
        runners[name] = found.load(place / name, inner, device)

    def run(images: Tensor) -> Tensor:
        fitting = [batch for batch in choices if batch <= len(images)] or [min(choices)]
        return runners[choices[max(fitting)]](images)

    return run


FORMAT = Format("auto", "the fastest on this machine", write, load, program=True, exact=False)
