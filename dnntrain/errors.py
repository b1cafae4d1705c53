"""The exceptions that a user can meet, and the exit code of each.

DnntrainError
├── ConfigError       2    a configuration that is refused before anything starts
├── DataError         3    a data set that cannot be used
├── DivergedError     4    the loss left the finite numbers and recovery is exhausted
├── CheckpointError   5    a checkpoint or model file that cannot be used
├── RankError         1    one of several ranks failed, was lost or hung
└── Stopped                a run that was asked to stop; its state is saved
    ├── Preempted     75   SIGTERM, SIGHUP, SIGUSR1, SIGUSR2
    └── Interrupted   130  SIGINT

Exit code 1 is left for bugs of dnntrain itself, which end with a traceback.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class DnntrainError(Exception):
    """Base of every error that is the user's to mend.

    `message` names the value, the bound and the place; `hint` names the fix or the next command.
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[str] = "failed"
    is_reported: bool = False  # said by another rank, or in this one's log

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class ConfigError(DnntrainError, ValueError):
    """The configuration is refused. `mistakes` holds one message for each mistake found."""

    exit_code = 2
    status = "refused"

    def __init__(self, message: str, hint: str = "", mistakes: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint)
        self.mistakes = mistakes or (str(self),)

    @classmethod
    def from_mistakes(cls, mistakes: list[str]) -> ConfigError:
        """One error that lists every mistake, in the order found."""
        if len(mistakes) == 1:
            return cls(mistakes[0])
        listing = "\n".join(f"  {number}. {text}" for number, text in enumerate(mistakes, 1))
        return cls(f"{len(mistakes)} mistakes:\n{listing}", mistakes=tuple(mistakes))


class DataError(DnntrainError, ValueError):
    """A data set is missing, damaged, or does not fit the configuration."""

    exit_code = 3


class DivergedError(DnntrainError):
    """The loss or a parameter is no longer finite."""

    exit_code = 4
    status = "diverged"


class CheckpointError(DnntrainError, ValueError):
    """A checkpoint or model file is damaged, foreign, or of another model."""

    exit_code = 5


class RankError(DnntrainError):
    """One of several ranks failed by a bug, was lost (killed, out of reach) or hung. The last checkpoint stands."""


class Stopped(DnntrainError):
    """The run was asked to stop by a signal, and saved its state."""

    exit_code = 75
    status = "preempted"
    is_saved: bool = False  # at this signal, by all ranks


class Preempted(Stopped):
    """SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2: saved and resumable."""


class Interrupted(Stopped):
    """SIGINT: saved and resumable."""

    exit_code = 130
    status = "interrupted"


def convert_disk_full_error(error: BaseException) -> CheckpointError | None:
    """What a person is told where `error` is a full disk, or the end of what a user may store; else None."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    place = f": {error.filename}" if error.filename else ""
    return CheckpointError(f"{error.strerror}{place}", "make room, then give the same line again")


def make_exit_error(exit_code: int, message: str, hint: str = "") -> DnntrainError:
    """The error that another process ended with, by its exit code."""
    kinds = (ConfigError, DataError, DivergedError, CheckpointError, Preempted, Interrupted)
    kind = next((kind for kind in kinds if kind.exit_code == exit_code), RankError)
    return kind(message, hint)
