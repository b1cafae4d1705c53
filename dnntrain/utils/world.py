"""Ranks: which process of how many this is. Reads torchrun's environment; imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from dnntrain.errors import ConfigError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """`rank` of `size` processes; `local_rank` counts within one machine. One process is World(0, 1, 0)."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    is_launched: bool = False

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and talks."""
        return self.rank == 0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> World:
        """The world that torchrun describes, or one process where it does not."""
        environ = os.environ if environ is None else environ
        present = [name for name in _TORCHRUN if name in environ]
        if "RANK" not in present and "WORLD_SIZE" not in present:
            return cls()
        missing = [name for name in _TORCHRUN if name not in environ]
        if missing:
            raise ConfigError(
                f"the environment holds {', '.join(present)} but not {', '.join(missing)}",
                "start through torchrun, or unset them to train in one process",
            )
        try:
            rank, size, local_rank = (int(environ[name]) for name in _TORCHRUN[:3])
        except ValueError as error:
            raise ConfigError(f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers: {error}") from None
        if not 0 <= rank < size:
            raise ConfigError(f"RANK={rank} is not below WORLD_SIZE={size}")
        return cls(rank, size, local_rank, is_launched=True)
