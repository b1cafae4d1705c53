"""Choose the display of a run by its mode and by the abilities of the stream."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Literal, TextIO

from dnntrain.display.base import Display
from dnntrain.display.plain import JsonDisplay, PlainDisplay, QuietDisplay
from dnntrain.utils.streams import is_live_terminal

DisplayMode = Literal["auto", "quiet", "json"]


def make_display(
    mode: DisplayMode | str = "auto", stream: TextIO | None = None, output: TextIO | None = None
) -> Display:
    """Return the display for `mode` on `stream` (default stderr).

    `json` writes its rows to `output` (default stdout). `auto` is the live view if `stream` is a
    terminal that can move its cursor (TERM is not dumb), else plain lines.
    """
    stream = sys.stderr if stream is None else stream
    if mode == "json":
        return JsonDisplay(stream, sys.stdout if output is None else output)
    if mode == "quiet":
        return QuietDisplay(stream)
    if is_live_terminal(stream):
        from dnntrain.display.live_display import TerminalDisplay  # imports rich, which pipes and tests do not need

        return TerminalDisplay(stream)
    return PlainDisplay(stream, use_color=_is_color_forced(os.environ))


def _is_color_forced(environ: Mapping[str, str]) -> bool:
    """Return whether FORCE_COLOR asks for color without a terminal.

    NO_COLOR overrules it (no-color.org, force-color.org).
    """
    return environ.get("FORCE_COLOR", "") not in ("", "0") and not environ.get("NO_COLOR")
