"""The failure of a rank, as the other ranks report it."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass

from dnntrain.errors import DnntrainError, RankError, make_exit_error
from dnntrain.utils.explain_error import explain_error


@dataclass(frozen=True)
class Failure:
    """The failure that ends a run of several ranks: `rank` failed on `host`.

    kind  "error" (a mistake of the user), "bug", "lost" or "hung"
    """

    rank: int
    host: str
    kind: str
    exit_code: int
    message: str
    hint: str = ""
    traceback: str = ""

    @classmethod
    def from_error(cls, error: BaseException, rank: int) -> Failure:
        """Return the failure of this rank that `error` causes."""
        import traceback

        host = socket.gethostname()
        error = explain_error(error) or error
        if isinstance(error, DnntrainError):
            kind = "lost" if isinstance(error, RankError) else "error"
            return cls(rank, host, kind, error.exit_code, error.message, error.hint)
        text = "".join(traceback.format_exception(error)).rstrip()
        return cls(rank, host, "bug", 1, f"{type(error).__name__}: {error}", traceback=text)

    def to_exception(self, with_rank: bool = True) -> DnntrainError:
        """Return the exception of every rank; for a bug, with the traceback."""
        if self.kind == "bug":
            return RankError(f"rank {self.rank} on {self.host} ended with an error:\n{self.traceback}")
        prefix = (
            f"rank {self.rank} on {self.host}: " if with_rank and self.kind == "error" and self.exit_code < 10 else ""
        )
        return make_exit_error(self.exit_code, prefix + self.message, self.hint)

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Failure:
        return cls(**json.loads(data))


def get_first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
