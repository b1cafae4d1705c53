"""A console of rich that cleans all text, whatever renders it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment

from dnntrain.display.key_echo import hide_control_keys
from dnntrain.utils.streams import SafeStream, make_clean_stream
from dnntrain.utils.terminal_text import clean_text, is_clean


class CleanConsole(Console):
    """Write to `stream`, with control sequences from rich itself only."""

    def __init__(self, stream: TextIO, **options: Any) -> None:
        safe_stream: Any = SafeStream(stream)
        super().__init__(file=safe_stream, highlight=False, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a renderable, cleaned."""
        return clean_segments(super().render(renderable, options))


def clean_segments(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Yield the segments, with their text cleaned; control segments of rich stay."""
    for segment in segments:
        if segment.control or is_clean(segment.text):
            yield segment
        else:
            yield Segment(clean_text(segment.text), segment.style)


class CleanLive(Live):
    """A live view on a CleanConsole, which also cleans the output that it prints above itself.

    Control keys are not shown meanwhile.
    """

    def start(self, refresh: bool = False) -> None:
        """Start to draw."""
        outer_streams = sys.stdout, sys.stderr
        self._show_control_keys = hide_control_keys(self.console.file)
        super().start(refresh)
        # rich reads the codes of redirected output as styles and links.
        if sys.stdout is not outer_streams[0]:
            sys.stdout = make_clean_stream(sys.stdout)
        if sys.stderr is not outer_streams[1]:
            sys.stderr = make_clean_stream(sys.stderr)

    def stop(self) -> None:
        """Draw for the last time."""
        super().stop()
        self._show_control_keys()
