"""Write to output streams: clean text on a terminal, and no crash on a closed pipe or a full disk.

`clean_output` is the one place through which a command shows text. It cleans all that is written to
`sys.stderr`, which is for people, and to `sys.stdout` on a terminal. To a pipe or a file, stdout
keeps its bytes, because a program may read them. Only displays write control sequences of their
own: they pass by the cleaning with `get_raw_stream`, and clean the text between the sequences.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from dnntrain.utils.terminal_text import clean_text


def _encode_lost_bytes(error: UnicodeError) -> tuple[bytes, int]:
    """Return the bytes of a file name that is not UTF-8, and other letters as their escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    codes = [
        letter.encode("utf-8", "surrogateescape" if "\udc80" <= letter <= "\udcff" else "backslashreplace")
        for letter in letters
    ]
    return b"".join(codes), error.end


#: The error handler of an output that keeps the bytes of names.
KEEP_BYTES = "dnntrain.keep_bytes"
codecs.register_error(KEEP_BYTES, _encode_lost_bytes)


class CleanStream:
    """A text stream that cleans the text that it gets; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self.raw_stream = stream

    def write(self, text: str) -> int:
        self.raw_stream.write(clean_text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw_stream, name)


@contextmanager
def clean_output() -> Iterator[None]:
    """Clean the output of this process during the body."""
    saved_streams = sys.stdout, sys.stderr
    if sys.stdout is not None and sys.stdout.isatty():
        sys.stdout = make_clean_stream(sys.stdout)
    if sys.stderr is not None:
        sys.stderr = make_clean_stream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = saved_streams


def make_clean_stream(stream: TextIO) -> TextIO:
    """Return `stream` with cleaning."""
    return stream if isinstance(stream, CleanStream) else cast(TextIO, CleanStream(stream))


def get_raw_stream(stream: TextIO) -> TextIO:
    """Return the stream below the cleaning, for control sequences."""
    return stream.raw_stream if isinstance(stream, CleanStream) else stream


def is_live_terminal(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


class SafeStream:
    """A text stream that discards output, instead of raising, after its reader left.

    Text is written as it is: `write_line` cleans it, `write` does not.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = get_raw_stream(stream)
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

    def write_line(self, text: str, color: int | None = None) -> None:
        """Write a message, cleaned, and flush. `color` is the number of an ANSI color."""
        text = clean_text(text)
        self.write(f"{text}\n" if color is None else f"\x1b[{color}m{text}\x1b[0m\n")
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
