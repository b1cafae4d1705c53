"""Say a warning or a note once: not again in this process, on another rank, or in a child.

For code without a display, such as a data set. A run also writes each of them to its log.txt.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dnntrain.utils.terminal_text import clean_text

#: Digests of the messages that this process or a parent of it has said.
_VARIABLE = "DNNTRAIN_MESSAGES"

_messages: dict[str, None] = {}
_recorders: list[Callable[[str], None]] = []


def warn_user(text: str) -> None:
    """Say `warning: text` on stderr, once."""
    say_once(f"warning: {text}")


def say_once(message: str) -> None:
    """Write `message` to stderr, unless it has been said. Only the main rank says it."""
    if message not in _messages:
        _messages[message] = None
        for record in _recorders:
            record(message)
    digest = hashlib.sha256(message.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    said_digests = os.environ.get(_VARIABLE, "").split()
    if digest in said_digests or os.environ.get("RANK", "0") != "0":
        return
    os.environ[_VARIABLE] = " ".join([*said_digests[-99:], digest])
    print(clean_text(message), file=sys.stderr)  # cleaned here, too, for callers of the Python functions


@contextmanager
def record_messages(record: Callable[[str], None]) -> Iterator[None]:
    """Pass the messages so far, and each new one during the body, to `record`."""
    for message in _messages:
        record(message)
    _recorders.append(record)
    try:
        yield
    finally:
        _recorders.remove(record)
