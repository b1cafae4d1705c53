"""Normalisation layers as the model defines them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.protocols import Context, Need, Parts


@dataclass(frozen=True)
class Keep:
    """Normalisation layers as the model defines them. Fills no slot."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        return Parts()
