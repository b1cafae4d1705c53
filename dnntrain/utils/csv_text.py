"""Write CSV lines that every reader splits at the same places."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable


def format_csv_line(values: Iterable[object]) -> str:
    """Return one line of CSV, which ends with a line feed.

    A value with a comma, a quote, a line feed or a carriage return is quoted. The csv module quotes
    a carriage return only if it belongs to the end of the line.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue()[:-2] + "\n"


def format_csv(rows: Iterable[Iterable[object]]) -> str:
    """Return lines of CSV."""
    return "".join(map(format_csv_line, rows))
