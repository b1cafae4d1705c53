"""One process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.parallel.layout import Layout
from dnntrain.protocols import Need


@dataclass(frozen=True)
class Single:
    """The whole model and every batch in one process."""

    processes: ClassVar[str] = "one"

    def build(self) -> Layout:
        return Layout("single", frozenset(Need), wrap=lambda model: model)
