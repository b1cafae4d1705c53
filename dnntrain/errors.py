"""Define the exceptions of dnntrain and their exit codes.

DnntrainError
├── ConfigError       2    an invalid configuration, found before the run starts
│   └── FileKindError      a link, pipe or device where a run directory must have a file
├── PluginError       2    the user's own code failed or returned a wrong value
├── DataError         3    a data set that cannot be used
├── DivergedError     4    the loss is not finite and recovery is exhausted
├── CheckpointError   5    a checkpoint or model file that cannot be used
├── RankError         1    one of several ranks failed, was lost or hung
└── Stopped                a run that was asked to stop; its state is saved
    ├── Preempted     75   SIGTERM, SIGHUP, SIGUSR1, SIGUSR2
    └── Interrupted   130  SIGINT

Exit code 1 is reserved for bugs of dnntrain itself, which end with a traceback.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class DnntrainError(Exception):
    """Base class of every error that the user can fix.

    `message` names the value, the allowed range and the file or key. `hint` names the fix or the
    next command.
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[str] = "failed"
    is_reported: bool = False  # another rank, or the log of this rank, has shown it

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class ConfigError(DnntrainError, ValueError):
    """The configuration is invalid. `mistakes` holds one message for each mistake."""

    exit_code = 2
    status = "refused"

    def __init__(self, message: str, hint: str = "", mistakes: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint)
        self.mistakes = mistakes or (str(self),)

    @classmethod
    def from_mistakes(cls, mistakes: list[str]) -> ConfigError:
        """Return one error that lists every mistake in the given order."""
        if len(mistakes) == 1:
            return cls(mistakes[0])
        listing = "\n".join(f"  {number}. {text}" for number, text in enumerate(mistakes, 1))
        return cls(f"{len(mistakes)} mistakes:\n{listing}", mistakes=tuple(mistakes))


class FileKindError(ConfigError, OSError):
    """A path is not what must be there: a regular file, or a folder, that is not a link.

    It is an OSError too: code that handles a file that cannot be read handles this one. `kind`
    describes what the path is instead.
    """

    def __init__(self, path: str, kind: str, hint: str = "") -> None:
        super().__init__(f"{path} cannot be opened because it is {kind}", hint)
        self.errno, self.strerror, self.filename = errno.EINVAL, f"it is {kind}", path


class PluginError(DnntrainError):
    """The user's own code, a plug-in or a model from a file, failed or returned a wrong value."""

    exit_code = 2


class DataError(DnntrainError, ValueError):
    """A data set is missing, damaged, or does not fit the configuration."""

    exit_code = 3


class DivergedError(DnntrainError):
    """The loss or a parameter is no longer finite."""

    exit_code = 4
    status = "diverged"


class CheckpointError(DnntrainError, ValueError):
    """A checkpoint or model file is damaged or does not fit the model."""

    exit_code = 5


class RankError(DnntrainError):
    """A rank failed by a bug, was lost (killed or unreachable) or hung.

    The last checkpoint is intact.
    """


class Stopped(DnntrainError):
    """The run was asked to stop by a signal, and saved its state."""

    exit_code = 75
    status = "preempted"
    is_saved: bool = False  # all ranks saved at this signal


class Preempted(Stopped):
    """SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2: saved and resumable."""


class Interrupted(Stopped):
    """SIGINT: saved and resumable."""

    exit_code = 130
    status = "interrupted"


def make_exit_error(exit_code: int, message: str, hint: str = "") -> DnntrainError:
    """Return the error that another process ended with, from its exit code."""
    kinds = (ConfigError, DataError, DivergedError, CheckpointError, Preempted, Interrupted)
    kind = next((kind for kind in kinds if kind.exit_code == exit_code), RankError)
    return kind(message, hint)
