"""Runs cells of the table method × layout, and says what each is: equal, works or refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layouts import LAYOUTS, Arrangement
from methods import BASE, Tried, line
from rank_pool import Pool
from short_runs import broken_off, comparable, result

#: Losses of two layouts agree where their relative difference is at most this.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Cell:
    """`kind` is equal, works, refused or failed; `note` the largest relative difference, or the first line of the message."""

    kind: str
    note: str


class Composition:
    """The cells of one table, each a real run in `folder`. The run in one process is made once for each method."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        self._pool = pool
        self._folder = folder
        self._references: dict[str, Cell | list[dict[str, Any]]] = {}
        self._cells: dict[tuple[str, str], Cell] = {}

    def cell(self, method: Tried, layout: Arrangement) -> Cell:
        """What `method` is on `layout`, beside the run of one process; it is run once."""
        if (method.name, layout.name) not in self._cells:
            self._cells[method.name, layout.name] = self._run_cell(method, layout)
        return self._cells[method.name, layout.name]

    def _run_cell(self, method: Tried, layout: Arrangement) -> Cell:
        reference = self._reference(method)
        if isinstance(reference, Cell):
            return reference
        overrides = self._line(method, layout)
        run = self._run_dir(method, layout.name)
        outcome = self._pool.train(layout.ranks, overrides, run)
        if outcome.error:
            return _refusal(outcome.exit_code, outcome.error)
        return _compared(reference, comparable(run))

    def resumed(self, method: Tried) -> Cell:
        """Whether the run in one process, gone on with from its third step, is bit for bit the whole one."""
        reference = self._reference(method)
        if isinstance(reference, Cell):
            return reference
        layout = self._first_layout(method) if method.several else None
        whole = self._run_dir(method, layout.name if layout else "one")
        again = self._run_dir(method, "resumed")
        broken_off(whole, again, 3)
        outcome = self._pool.train(layout.ranks if layout else 1, self._line(method, layout), again)
        if outcome.error:
            return _refusal(outcome.exit_code, outcome.error)
        same = result(again)["digest"] == result(whole)["digest"] and comparable(again) == comparable(whole)
        return Cell("equal", "bit for bit") if same else Cell("failed", "differs")

    def _first_layout(self, method: Tried) -> Arrangement:
        """The first layout that trains `method`, after its run."""
        return next(layout for layout in LAYOUTS if self.cell(method, layout).kind in ("equal", "works"))

    def _reference(self, method: Tried) -> Cell | list[dict[str, Any]]:
        """The rows of the run in one process; the refusal where it is one."""
        if method.name not in self._references:
            run = self._run_dir(method, "one")
            outcome = self._pool.train(1, self._line(method, None), run)
            if outcome.error:
                self._references[method.name] = _refusal(outcome.exit_code, outcome.error)
            else:
                self._references[method.name] = comparable(run)
        return self._references[method.name]

    def _line(self, method: Tried, layout: Arrangement | None) -> list[str]:
        words = [
            word.replace("{teacher}", str(self._teacher(method))) if "{teacher}" in word else word
            for word in method.overrides
            if layout is not None or not (method.several and word == method.name)
        ]
        return [*line(*words, *(layout.overrides if layout else ()))]

    def _teacher(self, method: Tried) -> Path:
        """A trained network of the same kind, but with other first weights."""
        kind = [word for word in method.overrides if word.startswith(("model", "norm"))]
        run = self._folder / ("teacher-" + "".join(letter for letter in "".join(kind) if letter.isalnum()))
        if not run.exists():
            outcome = self._pool.train(1, line(*BASE, *kind, "seed=1"), run)
            assert not outcome.error, outcome.error
        return run

    def _run_dir(self, method: Tried, name: str) -> Path:
        safe = "".join(letter if letter.isalnum() else "_" for letter in f"{method.name}-{name}")
        return self._folder / safe


def _refusal(exit_code: int, error: str) -> Cell:
    first = next((line for line in error.splitlines() if line.strip()), "")
    return Cell("refused", first) if exit_code in (2, 3) else Cell("failed", error)


def _compared(reference: list[dict[str, Any]], rows: list[dict[str, Any]]) -> Cell:
    """Equal where every row is there and every loss agrees, and every accuracy exactly."""
    losses = [float(row["loss"]) for row in rows if "loss" in row]
    if not losses or not all(math.isfinite(loss) for loss in losses):
        return Cell("failed", f"losses {losses}")
    ours = [row for row in rows if "loss" in row]
    theirs = [row for row in reference if "loss" in row]
    if [(row["step"], row["split"]) for row in ours] != [(row["step"], row["split"]) for row in theirs]:
        return Cell("failed", "other rows than in one process")
    difference = max(abs(a["loss"] - b["loss"]) / max(abs(b["loss"]), 1e-12) for a, b in zip(ours, theirs, strict=True))
    same = all(a.get("accuracy") == b.get("accuracy") for a, b in zip(ours, theirs, strict=True))
    return Cell("equal" if same and difference <= TOLERANCE else "works", f"{difference:.0e}")


#: How a cell is written in the page.
SIGNS = {"equal": "=", "works": "works", "refused": "—"}

PAGE = Path(__file__).resolve().parents[2] / "docs" / "composition.md"

COLUMNS = (*(layout.name for layout in LAYOUTS), "resume")


def read_table() -> dict[tuple[str, str], str]:
    """(method, layout) → equal, works or refused, as docs/composition.md states it."""
    kinds = {sign: kind for kind, sign in SIGNS.items()}
    table = {}
    for row in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if row.startswith("| `") and len(cells) == len(COLUMNS) + 1:
            name = cells[0].strip("`")
            table |= {(name, column): kinds[cell.split()[0]] for column, cell in zip(COLUMNS, cells[1:], strict=True)}
    return table


__all__ = ["COLUMNS", "LAYOUTS", "PAGE", "SIGNS", "Cell", "Composition", "read_table"]
