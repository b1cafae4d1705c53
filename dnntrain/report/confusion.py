"""Show a classifier's errors: confusion matrix, accuracy of each class, most confused pairs."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from dnntrain.report.format import format_percent
from dnntrain.report.html import escape_text, isolate_text, render_details

Matrix = list[list[int]]

_MAX_CLASSES = 1000
#: Up to this number of classes the matrix is a table of numbers; beyond it is a picture.
_MAX_TABLE_CLASSES = 20
_HEAT_PIXELS = 250
_MAX_PAIRS = 15
_MAX_BARS = 20


def read_confusion(evaluation: Mapping[str, Any]) -> tuple[Matrix, list[str]] | None:
    """Return the matrix (rows: true classes, columns: predicted) and the names of its classes.

    None if the file has no valid matrix.
    """
    cells = evaluation.get("confusion")
    if not isinstance(cells, list) or not 2 <= len(cells) <= _MAX_CLASSES:
        return None
    for row in cells:
        if not isinstance(row, list) or len(row) != len(cells):
            return None
        if not all(isinstance(cell, int) and 0 <= cell < 2**53 for cell in row):
            return None
    return cells, get_class_names(evaluation, len(cells))


def get_class_names(evaluation: Mapping[str, Any], num_classes: int) -> list[str]:
    """Return the names of the classes, or their numbers if the file does not name each."""
    names = evaluation.get("class_names")
    if isinstance(names, list) and len(names) == num_classes and all(isinstance(name, str) for name in names):
        return [name if name.strip() else str(number) for number, name in enumerate(names)]
    return [str(number) for number in range(num_classes)]


def render_mistakes(matrix: Matrix, names: Sequence[str]) -> str:
    """Return all panels about the matrix."""
    if len(matrix) <= _MAX_TABLE_CLASSES:
        picture = _render_number_table(matrix, names)
    else:
        picture = _render_heat_map(matrix)
    left = f'<div class="panel"><h3>Confusion matrix</h3>{picture}</div>'
    right = f'<div class="panel"><h3>Accuracy by class</h3>{_render_class_bars(matrix, names)}</div>'
    pairs = f'<div class="panel below"><h3>Most often confused</h3>{_render_confused_pairs(matrix, names)}</div>'
    return f'<div class="pairing">{left}{right}</div>{pairs}'


def find_worst_pairs(matrix: Matrix, max_pairs: int = _MAX_PAIRS) -> list[tuple[int, int, int]]:
    """Return (count, true class, predicted class) of the largest cells off the diagonal, in order."""
    confused_pairs = [
        (count, true, predicted)
        for true, row in enumerate(matrix)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    return sorted(confused_pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:max_pairs]


def _render_number_table(matrix: Matrix, names: Sequence[str]) -> str:
    """Return the matrix as a table of numbers.

    Cells are colored by their share of the true class: blue on the diagonal, orange beside it.
    """
    is_short = max(map(len, names)) <= 12
    head = "".join(
        f'<th scope="col" title="{escape_text(name)}">{isolate_text(name if is_short else number, 12)}</th>'
        for number, name in enumerate(names)
    )
    body = []
    for true, row in enumerate(matrix):
        total = sum(row) or 1
        cells = "".join(
            _render_cell(count, count / total, names[true], names[predicted], true == predicted)
            for predicted, count in enumerate(row)
        )
        label = names[true] if is_short else f"{true} {names[true]}"
        body.append(
            f'<tr><th scope="row" title="{escape_text(names[true])}">{isolate_text(label, 40)}</th>{cells}</tr>'
        )
    return (
        '<div class="wide"><table class="matrix"><caption>Rows: true class. Columns: predicted class.</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _render_cell(count: int, share: float, true: str, predicted: str, is_right: bool) -> str:
    if not count:
        return '<td class="zero">·</td>'
    bounds = (0.3, 0.6, 0.8, 0.95) if is_right else (0.01, 0.03, 0.08, 0.2)
    level = sum(share > bound for bound in bounds)
    tooltip = f"{true}: right" if is_right else f"{true}, taken for {predicted}"
    title = f"{escape_text(tooltip)}: {format_percent(share)}"
    return f'<td class="{"r" if is_right else "w"}{level}" title="{title}">{count}</td>'


def _render_heat_map(matrix: Matrix) -> str:
    """Return the matrix as a picture, dark for large counts.

    One pixel is a cell, or a block of cells if there are many classes.
    """
    num_classes = len(matrix)
    block = -(-num_classes // _HEAT_PIXELS)
    side = -(-num_classes // block)
    totals = [sum(row) or 1 for row in matrix]
    pixels = bytearray()
    for top in range(side):
        for left in range(side):
            rows = range(top * block, min(num_classes, (top + 1) * block))
            columns = range(left * block, min(num_classes, (left + 1) * block))
            share = max(matrix[row][column] / totals[row] for row in rows for column in columns)
            color = (0x25, 0x59, 0xC9) if top == left else (0xC4, 0x48, 0x0A)
            # The square root shows small counts as well as large ones.
            pixels += bytes((*(round(255 + (tone - 255) * share**0.5) for tone in color),))
    data = base64.b64encode(encode_png(side, side, bytes(pixels))).decode("ascii")
    return (
        f'<img class="heat" alt="Confusion matrix of {num_classes} classes; '
        'the tables beside it hold its largest cells" '
        f'src="data:image/png;base64,{data}">'
        '<p class="note">Rows: true class, from the top. Columns: predicted class. Blue: right. Orange: wrong.</p>'
    )


def encode_png(width: int, height: int, rgb: bytes) -> bytes:
    """Return `rgb` [height, width, 3] as a PNG file (W3C PNG, third edition: IHDR, IDAT, IEND)."""

    def make_chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + rgb[start : start + 3 * width] for start in range(0, len(rgb), 3 * width))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + make_chunk(b"IHDR", header)
        + make_chunk(b"IDAT", zlib.compress(rows, 9))
        + make_chunk(b"IEND", b"")
    )


def _render_class_bars(matrix: Matrix, names: Sequence[str]) -> str:
    """Return a bar for each class, the worst first; if there are many, the rest is folded."""
    totals = [sum(row) for row in matrix]
    nonempty_classes = [number for number, total in enumerate(totals) if total]
    order = sorted(nonempty_classes, key=lambda number: (matrix[number][number] / totals[number], number))
    rows = [_render_bar(names[number], matrix[number][number], totals[number]) for number in order]

    def render_bar_table(bars: list[str], caption: str) -> str:
        return f'<table class="bars"><caption>{caption}</caption><tbody>{"".join(bars)}</tbody></table>'

    first_table = render_bar_table(rows[:_MAX_BARS], "Lowest first: share and number of examples that are right.")
    other_rows = rows[_MAX_BARS:]
    return first_table + (
        render_details(f"{len(other_rows)} more classes", render_bar_table(other_rows, "The rest."))
        if other_rows
        else ""
    )


def _render_bar(name: str, right_count: int, total: int) -> str:
    return (
        f'<tr><th scope="row">{isolate_text(name, 40)}</th><td>{format_percent(right_count / total)}</td>'
        f"<td>{right_count} / {total}</td>"
        f'<td class="bar"><div><i style="width:{100 * right_count / total:.1f}%"></i></div></td></tr>'
    )


def _render_confused_pairs(matrix: Matrix, names: Sequence[str]) -> str:
    """Return the pairs as a list in as many columns as fit."""
    items = "".join(
        f"<li><span>{isolate_text(names[true], 40)} → {isolate_text(names[predicted], 40)}</span>"
        f"<b>{count}</b><small>{format_percent(count / (sum(matrix[true]) or 1))}</small></li>"
        for count, true, predicted in find_worst_pairs(matrix)
    )
    if not items:
        return '<p class="note">Nothing was confused.</p>'
    return (
        f'<p class="note">True class → predicted: examples, share of the true class.</p><ol class="mixed">{items}</ol>'
    )
