"""TODO"""

from __future__ import annotations

from pathlib import Path

#: Runs that a hint names.
_RUNS_LISTED = 5


def suggest_run(path: str | Path, required_file: str = "config.yaml") -> str:
    """A hint that names the run directory under ./runs like `path`, or some that are there. `holding`: a file that each must have."""
    runs = sorted({str(file.parent) for form in ("*", "*/*") for file in Path("runs").glob(f"{form}/{required_file}")})
    if not runs:
        return "there are no runs under ./runs"
    cwd_prefix = f"{Path.cwd()}/"
    if match := find_nearest(str(path).removeprefix(cwd_prefix), runs):
        return f"did you mean {match}?"
    return f"known: {', '.join(runs[:_RUNS_LISTED])}" + (
        f" and {len(runs) - _RUNS_LISTED} more" if len(runs) > _RUNS_LISTED else ""
    )


def find_nearest(word: str, names: list[str] | tuple[str, ...]) -> str | None:
    """The name most like `word`, or None where none is near: fewest edits first, then the largest share in common."""
    from difflib import SequenceMatcher

    lower_word = word.lower()

    def compute_distance(name: str) -> tuple[int, float]:
        share = SequenceMatcher(None, lower_word, name.lower()).ratio()
        return compute_edit_distance(lower_word, name.lower()), -share

    if not names or len(word) > 200:
        return None
    best = min(names, key=compute_distance)
    edits = compute_distance(best)[0]
    if edits <= max(1, len(word) // 3) and edits < max(len(word), 2):
        return best
    best = min(names, key=lambda name: compute_distance(name)[1])
    return best if compute_distance(best)[1] <= -0.6 else None


def compute_edit_distance(left: str, right: str) -> int:
    """Fewest insertions, deletions, substitutions and swaps of neighbours that turn `left` into `right`."""
    previous_row: list[int] = []
    row = list(range(len(right) + 1))
    for i, letter in enumerate(left, 1):
        previous_row, second_previous_row, row = row, previous_row, [i]
        for j, right_letter in enumerate(right, 1):
            cost = min(row[j - 1] + 1, previous_row[j] + 1, previous_row[j - 1] + (letter != right_letter))
            if i > 1 and j > 1 and letter == right[j - 2] and left[i - 2] == right_letter:
                cost = min(cost, second_previous_row[j - 2] + 1)
            row.append(cost)
    return row[-1]


def did_you_mean(word: str, names: list[str] | tuple[str, ...]) -> str:
    """A sentence that names the nearest of `names`, or lists them where none is near."""
    match = find_nearest(word, names)
    if match is not None:
        return f"did you mean {match!r}?"
    return "known: " + ", ".join(sorted(names)) if names else "there is none"
