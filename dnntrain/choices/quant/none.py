"""No quantisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dnntrain.protocols import Context, Need, Parts


@dataclass(frozen=True)
class Nothing:
    """No quantisation. Fills no slot."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def build(self, context: Context) -> Parts:
        return Parts()
