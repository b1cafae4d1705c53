"""TODO"""

from __future__ import annotations

from pathlib import Path

#: Runs that a hint names.
_RUNS_LISTED = 5


def nearest_run(path: str | Path, holding: str = "config.yaml") -> str:
    """A hint that names the run directory under ./runs like `path`, or some that are there. `holding`: a file that each must have."""
    runs = sorted({str(file.parent) for form in ("*", "*/*") for file in Path("runs").glob(f"{form}/{holding}")})
    if not runs:
        return "there are no runs under ./runs"
    here = f"{Path.cwd()}/"
    if close := nearest(str(path).removeprefix(here), runs):
        return f"did you mean {close}?"
    return f"known: {', '.join(runs[:_RUNS_LISTED])}" + (
        f" and {len(runs) - _RUNS_LISTED} more" if len(runs) > _RUNS_LISTED else ""
    )


def nearest(word: str, names: list[str] | tuple[str, ...]) -> str | None:
    """The name most like `word`, or None where none is near: fewest edits first, then the largest share in common."""
    from difflib import SequenceMatcher

    lowered = word.lower()

    def distance(name: str) -> tuple[int, float]:
        share = SequenceMatcher(None, lowered, name.lower()).ratio()
        return edit_distance(lowered, name.lower()), -share

    if not names or len(word) > 200:
        return None
    best = min(names, key=distance)
    edits = distance(best)[0]
    if edits <= max(1, len(word) // 3) and edits < max(len(word), 2):
        return best
    best = min(names, key=lambda name: distance(name)[1])
    return best if distance(best)[1] <= -0.6 else None


def edit_distance(left: str, right: str) -> int:
    """Fewest insertions, deletions, substitutions and swaps of neighbours that turn `left` into `right`."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, letter in enumerate(left, 1):
        before, last, row = row, before, [i]
        for j, other in enumerate(right, 1):
            cost = min(row[j - 1] + 1, before[j] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == right[j - 2] and left[i - 2] == other:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]


def did_you_mean(word: str, names: list[str] | tuple[str, ...]) -> str:
    """A sentence that names the nearest of `names`, or lists them where none is near."""
    close = nearest(word, names)
    if close is not None:
        return f"did you mean {close!r}?"
    return "known: " + ", ".join(sorted(names)) if names else "there is none"
