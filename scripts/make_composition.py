"""Writes docs/composition.md: every method on every layout, each cell a real run on 1 to 4 gloo ranks. Takes some ten minutes.

python scripts/make_composition.py             runs every cell and writes the page
python scripts/make_composition.py sched= reg  runs the methods whose names hold one of the words; the other rows stay
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from composition import COLUMNS, LAYOUTS, PAGE, SIGNS, Cell, Composition  # noqa: E402
from methods import methods  # noqa: E402
from rank_pool import Pool  # noqa: E402

_HEAD = """\
# Methods and layouts

This table shows which method works on which parallel layout. `scripts/make_composition.py` writes
this page from real runs on 1 to 4 processes (gloo, float32, digits, an uneven last batch); do not
edit it by hand. `tests/test_composition.py` runs every cell again and compares.

| sign | meaning |
|---|---|
| = | equals one process: losses within 1e-5 relative, accuracies exactly |
| works | trains, with other numbers than one process; the reason is below |
| — | not supported: fails before training, for the reason below |

`resume`: the run in one process stops after its third step and is resumed. The sign = means that it
equals the uninterrupted run bit for bit.

"""

_WHY = """
## Random combinations

`scripts/run_combinations.py --count 300 --seed 0` draws random combinations:

- a network, a norm, a schedule, an optimizer and a precision,
- up to three methods of `augment`, `average` and `reg`, and two of `monitor`,
- a teacher or quantization, a layout of 1 to 4 ranks, and up to two other settings,
- for a fifth of the runs, a schedule of the batch size,
- for two fifths of the runs, another task: numbers, labels or masks of scenes, or the next token,
- for a tenth of the runs, adapters, and for a fifth a choice of `prune`.

Each combination must train 4 steps with finite losses and with the configured methods. It must also
resume from its second step bit for bit (the rows, and the checkpoint of every rank). Otherwise it
must fail with a named reason before a run directory is created.

Before tasks were drawn, 140 of the 300 combinations trained and 160 failed with a reason; none
crashed. One of the reasons did not name the second setting at first. It was fixed and tried again.

With numbers, labels and masks, but without adapters and pruning, 23 of the first 60 trained and 37
failed with a reason. One of these did not answer within its time on a busy machine, and was run
again.

## Reasons for other numbers

- Dropout, stochastic depth and DropBlock draw from torch's generators. Each share of the batch has
  its own stream: other masks, the same distribution.
- With `norm=per_rank` and `norm=none`, each rank has its own statistics. So does each micro-batch
  of an accumulation or a pipeline. `norm=sync` joins ranks, not micro-batches.
- With `norm=ghost`, a pipeline cuts micro-batches that may be smaller than a virtual batch.
- `precision=bf16` rounds sums in another order.

## Unsupported combinations

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
    return re.split(", which (?:the|this) layout", text)[0]


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
    lines = PAGE.read_text(encoding="utf-8").partition("## Unsupported combinations")[2].splitlines()
    return [line for line in lines if any(line.startswith(f"- `{name}`") for name in names)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
