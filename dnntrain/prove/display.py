"""Show the evidence on stderr while pairs are trained."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from types import TracebackType

from rich.console import Group
from rich.table import Table

from dnntrain.display.console import CleanConsole, CleanLive
from dnntrain.protocols import MetricInfo
from dnntrain.prove.pairs import Pair
from dnntrain.prove.result import format_difference
from dnntrain.prove.verdict import Rules, Verdict
from dnntrain.report.format import format_metric
from dnntrain.sweep.sweep_directory import TrialStatus
from dnntrain.utils.streams import SafeStream, is_live_terminal
from dnntrain.utils.units import pluralize


class EvidenceDisplay:
    """Prints a line for each pair; in a terminal, a table that is redrawn in place."""

    def __init__(self, metric: MetricInfo, rules: Rules, mode: str) -> None:
        self._metric, self._rules = metric, rules
        self._stream = SafeStream(sys.stderr)
        self._console = CleanConsole(sys.stderr, force_terminal=True)
        self._is_quiet = mode == "quiet"
        self._rows: list[tuple[Pair, Verdict]] = []
        self._current = ""
        self._live: CleanLive | None = None
        if mode == "auto" and is_live_terminal(sys.stderr):
            self._live = CleanLive(
                get_renderable=self._render, console=self._console, auto_refresh=False, transient=True
            )

    def __enter__(self) -> EvidenceDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live.console.print(self._make_table())

    def say(self, text: str) -> None:
        """Print one line."""
        if not self._is_quiet:
            self._stream.write_line(text) if self._live is None else self._live.console.print(text, soft_wrap=True)

    def show_status(self, number: int, side: str, status: TrialStatus) -> None:
        """Show the run that is training now."""
        value = "" if status.metric is None else f", val {status.metric:.4f}"
        self._current = f"pair {number} of at most {self._rules.max_pairs}: {side} at step {status.step}{value}"
        if self._live is not None:
            self._live.refresh()

    def show_pair(self, pair: Pair, verdict: Verdict) -> None:
        """Show a finished pair and the evidence after it."""
        self._rows.append((pair, verdict))
        self._current = ""
        if self._live is not None:
            self._live.refresh()
            return
        first, second = (format_metric(self._metric, value) for value in pair.values)
        self.say(
            f"pair {pair.number} of at most {self._rules.max_pairs}: {first} → {second} "
            f"({format_difference(self._metric, pair.difference)}), e-value {verdict.e_values[-1]:.3g} "
            f"of {1 / self._rules.alpha:g}"
        )

    def _make_table(self, max_rows: int | None = None) -> Table:
        """Return a table of all pairs, or of the last `max_rows`."""
        table = Table(box=None, pad_edge=False, header_style="bright_black")
        for title in ("pair", "seed", "A", "B", "B - A", "e-value"):
            table.add_column(title, justify="right", no_wrap=True)
        hidden = 0 if max_rows is None else max(0, len(self._rows) - max_rows)
        if hidden:
            table.caption = f"not shown: the first {pluralize(hidden, 'pair')}"
        for pair, verdict in self._rows[hidden:]:
            table.add_row(
                str(pair.number),
                "/".join(map(str, dict.fromkeys(pair.seeds))),
                *(format_metric(self._metric, value) for value in pair.values),
                format_difference(self._metric, pair.difference),
                f"{verdict.e_values[-1]:.3g}",
            )
        return table

    def _render(self) -> Group:
        bar = draw_evidence_bar(self._rows[-1][1].e_values if self._rows else (), self._rules.alpha)
        # The bar, the run that trains and the caption need room too.
        max_rows = max(3, self._console.height - 7)
        return Group(self._make_table(max_rows), *([bar] if bar else []), self._current)


def draw_evidence_bar(e_values: Sequence[float], alpha: float, width: int = 30) -> str:
    """Return the evidence as a bar on a logarithmic scale; a full bar decides."""
    if not e_values:
        return ""
    share = max(0.0, min(1.0, math.log(max(e_values[-1], 1.0)) / math.log(1 / alpha)))
    full = round(width * share)
    return f"evidence {'█' * full}{'░' * (width - full)} {e_values[-1]:.3g} of {1 / alpha:g}"
