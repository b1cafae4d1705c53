"""Write to output streams without a crash on a closed pipe or a full disk."""

from __future__ import annotations

import os
from typing import TextIO


def is_live_terminal(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


class SafeStream:
    """A text stream that discards output, instead of raising, after its reader left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.is_closed_by_reader = False

    def write(self, text: str) -> int:
        """Write all of `text`; characters that cannot be encoded become question marks."""
        if not self.is_closed_by_reader:
            try:
                self._stream.write(text.encode(self.encoding, errors="replace").decode(self.encoding))
            except (OSError, ValueError):
                self._give_up()
        return len(text)

    def flush(self) -> None:
        if not self.is_closed_by_reader:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._give_up()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write_line(self, text: str) -> None:
        """Write one line and flush."""
        self.write(f"{text}\n")
        self.flush()

    def _give_up(self) -> None:
        """Point the descriptor to the null device, so that Python's own flush at exit does not fail either."""
        self.is_closed_by_reader = True
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        except (OSError, ValueError):
            pass
