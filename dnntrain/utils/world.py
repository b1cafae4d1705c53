"""Describe the rank of this process from torchrun's environment. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from dnntrain.errors import ConfigError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def read_local_size(environ: Mapping[str, str] | None = None) -> int | None:
    """Return the number of ranks on this machine; None if the launcher does not set it."""
    text = (os.environ if environ is None else environ).get("LOCAL_WORLD_SIZE", "")
    return int(text) if text.isdecimal() else None


def check_single_process(command: str, starts_ranks: bool = False) -> None:
    """Raise ConfigError if torchrun started the process of a command that measures.

    `starts_ranks` says that the command starts the ranks of a layout.
    """
    if "WORLD_SIZE" in os.environ:
        own_ranks = "; it starts launch.nproc processes itself" if starts_ranks else ""
        raise ConfigError(
            f"dnntrain {command} cannot run under torchrun, because all ranks would measure at the same time",
            f"start it without torchrun{own_ranks}",
        )


@dataclass(frozen=True)
class World:
    """The place of this process among all ranks: `rank` of `size`.

    `local_rank` counts within one machine. One process is World(0, 1, 0).
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    is_launched: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this is the one rank that writes files and prints."""
        return self.rank == 0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> World:
        """Return the world that torchrun describes, or one process without torchrun."""
        environ = os.environ if environ is None else environ
        present = [name for name in _TORCHRUN if name in environ]
        if "RANK" not in present and "WORLD_SIZE" not in present:
            return cls()
        missing = [name for name in _TORCHRUN if name not in environ]
        if missing:
            raise ConfigError(
                f"the environment has {', '.join(present)} but lacks {', '.join(missing)}",
                "start through torchrun, or unset them to train in one process",
            )
        try:
            rank, size, local_rank = (int(environ[name]) for name in _TORCHRUN[:3])
        except ValueError as error:
            raise ConfigError(f"RANK, WORLD_SIZE and LOCAL_RANK must be integers: {error}") from None
        if not 0 <= rank < size:
            raise ConfigError(f"RANK={rank} must be in [0, WORLD_SIZE={size})")
        return cls(rank, size, local_rank, is_launched=True)
