"""Put a terminal right after the process that had a live view on it was killed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, TextIO

from dnntrain.display.key_echo import is_in_background
from dnntrain.utils.streams import SafeStream, is_live_terminal

_SHOW_CURSOR = "\x1b[?25h"


def prepare_to_clear(stream: TextIO) -> Callable[[], None]:
    """Save the modes of a terminal; return a function that leaves the view that a killed process has drawn last.

    It restores the modes, shows the cursor and begins a new line. It does nothing if `stream` is not a live
    terminal.
    """
    if not is_live_terminal(stream) or find_spec("termios") is None:
        return lambda: None
    import termios

    try:
        modes: list[Any] = termios.tcgetattr(stream.fileno())
    except (termios.error, OSError, ValueError):
        return lambda: None

    def clear() -> None:
        with suppress(termios.error, OSError, ValueError):
            if not is_in_background(stream.fileno()):
                termios.tcsetattr(stream.fileno(), termios.TCSANOW, modes)
        safe_stream = SafeStream(stream)
        safe_stream.write(f"{_SHOW_CURSOR}\n")
        safe_stream.flush()

    return clear
