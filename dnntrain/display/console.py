"""A console of rich that cleans all text, whatever renders it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment

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


def start_live(live: Live) -> None:
    """Start a live view, and clean the output that it prints above itself."""
    outer_streams = sys.stdout, sys.stderr
    live.start()
    # rich reads the codes of redirected output as styles and links.
    if sys.stdout is not outer_streams[0]:
        sys.stdout = make_clean_stream(sys.stdout)
    if sys.stderr is not outer_streams[1]:
        sys.stderr = make_clean_stream(sys.stderr)
