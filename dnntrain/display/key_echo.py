"""Keep a terminal from showing control keys, such as ^C, inside a live view.

The letters would move the cursor, so that the next refresh draws at another place.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any


def hide_control_keys(stream: Any) -> Callable[[], None]:
    """Switch the echo of control keys off on the terminal of `stream`; return a function that restores it.

    Other keys are still shown. Nothing is changed if the stream is not a terminal, or if this
    process runs in its background.
    """
    if find_spec("termios") is None:  # on Windows
        return _do_nothing
    import termios

    try:
        descriptor = stream.fileno()
        saved_modes = termios.tcgetattr(descriptor)
        if not saved_modes[3] & termios.ECHOCTL or is_in_background(descriptor):
            return _do_nothing
        modes = [*saved_modes[:3], saved_modes[3] & ~termios.ECHOCTL, *saved_modes[4:]]
        termios.tcsetattr(descriptor, termios.TCSANOW, modes)
    except (termios.error, OSError, ValueError):
        return _do_nothing

    def restore() -> None:
        atexit.unregister(restore)
        try:
            if not is_in_background(descriptor):
                termios.tcsetattr(descriptor, termios.TCSANOW, saved_modes)
        except (termios.error, OSError, ValueError):
            pass

    atexit.register(restore)
    return restore


def is_in_background(descriptor: int) -> bool:
    """Return whether another job has the terminal; setting its modes would stop this process."""
    try:
        return os.tcgetpgrp(descriptor) != os.getpgrp()
    except OSError:  # not the controlling terminal, as for a rank in a session of its own
        return False


def _do_nothing() -> None:
    pass
