"""Writes docs/composition.md: every method on every layout, each cell a real run on 1 to 4 gloo ranks. Takes some ten minutes.

python scripts/make_composition.py             runs every cell and writes the page
python scripts/make_composition.py sched= reg  runs the methods whose names hold one of the words; the other rows stay
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from composition import COLUMNS, LAYOUTS, PAGE, SIGNS, Cell, Composition  # noqa: E402
from methods import methods  # noqa: E402
from rank_pool import Pool  # noqa: E402

_HEAD = """\
# What composes with what

Written by `scripts/make_composition.py` from real runs on 1 to 4 processes (gloo, float32, digits, the last batch of an epoch uneven); do
not edit by hand. `tests/test_composition.py` runs every cell again and compares.

| sign | means |
|---|---|
| = | every loss of training and evaluation agrees with one process within 1e-5 relative, every accuracy exactly |
| works | trains, with other numbers than one process; below is why |
| — | refused before training, with the reason below |

`resume`: the run in one process, broken off after its third step and gone on with, is the whole run bit for bit.

"""

_WHY = """
## Random combinations

`scripts/run_combinations.py --count 300 --seed 0` draws a network, a norm, a schedule, an optimizer, up to three methods of `reg` and two
of `monitor`, a precision, a teacher or quantisation, a layout of 1 to 4 ranks, up to two other settings, and for a fifth of the runs a
schedule of the batch size. Each combination must train 4 steps with finite losses, as it was asked to, and be gone on with from its second
step bit for bit (rows, and the checkpoint of every rank), or be refused by name before a run directory is made. Of the 300, 140 trained
and 160 were refused; none crashed. One refusal named no second setting at first, was mended, and was tried again.

## Why a cell is not equal

- Dropout, stochastic depth and DropBlock draw from torch's generators, which are one stream for each share of the batch: other masks,
  the same distribution.
- `norm=local`, `norm=keep`: each rank, and each micro-batch of an accumulation or a pipeline, has statistics of its own. `norm=sync`
  joins ranks, not micro-batches.
- `norm=ghost`: a pipeline cuts micro-batches that may be smaller than a virtual batch.
- `precision=bf16` rounds sums in another order.

## Why a cell is refused

"""


def main(words: list[str]) -> int:
    """Runs the cells and writes the page."""
    stated = _rows_of_page() if words else {}
    kept = {name: cells for name, cells in stated.items() if not any(word in name for word in words)}
    refusals: dict[str, set[str]] = {}
    rows = dict(kept)
    pool = Pool()
    try:
        with tempfile.TemporaryDirectory() as folder:
            table = Composition(pool, Path(folder))
            for method in methods():
                if words and not any(word in method.name for word in words):
                    continue
                cells = [*(table.cell(method, layout) for layout in LAYOUTS), table.resumed(method)]
                rows[method.name] = [_text(cell) for cell in cells]
                for name, cell in zip(COLUMNS, cells, strict=True):
                    if cell.kind == "failed":
                        print(f"{method.name} on {name}: {cell.note}", file=sys.stderr)
                    if cell.kind == "refused":
                        refusals.setdefault(f"`{method.name}`: {_reason(cell.note)}", set()).add(name)
                print(method.name, *rows[method.name], sep=" | ", flush=True)
    finally:
        pool.close()
    order = [method.name for method in methods()]
    lines = [f"| `{name}` | {' | '.join(rows[name])} |" for name in order if name in rows]
    head = [f"| method | {' | '.join(COLUMNS)} |", "|" + "---|" * (len(COLUMNS) + 1)]
    reasons = sorted({*_reasons_of_page(set(kept)), *(f"- {text}" for text in refusals)})
    PAGE.write_text(_HEAD + "\n".join([*head, *lines]) + "\n" + _WHY + "\n".join(reasons) + "\n", encoding="utf-8")
    return int(any("FAILED" in cell for row in rows.values() for cell in row))


def _text(cell: Cell) -> str:
    return SIGNS.get(cell.kind, "FAILED")


def _reason(note: str) -> str:
    """The message without the rank that said it and the layout, which the column names."""
    text = note.partition(": ")[2] if note.startswith("rank ") else note
    return text.partition(", which the layout")[0]


def _rows_of_page() -> dict[str, list[str]]:
    rows = {}
    for row in PAGE.read_text(encoding="utf-8").splitlines() if PAGE.is_file() else []:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if row.startswith("| `") and len(cells) == len(COLUMNS) + 1:
            rows[cells[0].strip("`")] = cells[1:]
    return rows


def _reasons_of_page(names: set[str]) -> list[str]:
    if not PAGE.is_file():
        return []
    lines = PAGE.read_text(encoding="utf-8").partition("## Why a cell is refused")[2].splitlines()
    return [line for line in lines if any(line.startswith(f"- `{name}`") for name in names)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
