"""The folder of a run's checkpoints: pointers, kept and removed checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dnntrain.utils.files import (
    is_plain_folder,
    open_file,
    remove_file,
    remove_path,
    write_text,
)

#: The name of a checkpoint's folder, and room for it in a pointer.
STEP_NAME = re.compile(r"step-[0-9]{1,18}")


_MAX_POINTER_BYTES = 64


def mark_best(folder: Path, step: int) -> None:
    """Point BEST to `step-N`."""
    write_text(folder / "BEST", f"step-{step}\n")


def prune_checkpoints(folder: Path, keep: int, keep_steps: Iterable[int] = ()) -> None:
    """Remove all but the `keep` newest checkpoints.

    The checkpoints of BEST and LAST are kept, and for each of `keep_steps` the newest one up to it.
    """
    checkpoints = list_checkpoints(folder)
    kept_names = {read_pointer(folder, "BEST"), read_pointer(folder, "LAST")}
    kept_names |= {next((path.name for path in checkpoints if get_step(path) <= step), None) for step in keep_steps}
    for path in checkpoints[keep:]:
        if path.name not in kept_names:
            remove_path(path, ignore_errors=True)


def remove_earlier_checkpoints(folder: Path, step: int) -> None:
    """Remove the checkpoints before `step`, and BEST if it points to one of them."""
    for path in list_checkpoints(folder):
        if get_step(path) < step:
            remove_path(path)
    if read_pointer(folder, "BEST") is None:
        remove_file(folder / "BEST")


def truncate_checkpoints(folder: Path, step: int) -> None:
    """Remove the checkpoints after `step`, the latest first, and point LAST to `step`."""
    for path in list_checkpoints(folder):
        if get_step(path) > step:
            remove_path(path)
    if read_pointer(folder, "BEST") is None:
        remove_file(folder / "BEST")
    write_text(folder / "LAST", f"step-{step}\n")


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints and pointers, and nothing else."""
    for name in ("LAST", "BEST"):
        remove_file(folder / name)
    remove_leftovers(folder)
    for path in list_checkpoints(folder):
        remove_path(path)


def read_pointer(folder: Path, name: str) -> str | None:
    """Return the checkpoint named in BEST or LAST.

    Returns None if the file is missing or names no checkpoint in `folder`.
    """
    try:
        with open_file(folder / name) as file:
            text = file.read(_MAX_POINTER_BYTES).decode("ascii").strip()
    except (OSError, ValueError):
        return None
    return text if STEP_NAME.fullmatch(text) and is_plain_folder(folder / text) else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first."""
    folders = [path for path in folder.glob("step-*") if STEP_NAME.fullmatch(path.name) and is_plain_folder(path)]
    return sorted(folders, key=get_step, reverse=True)


def get_step(path: Path) -> int:
    """Return the step of a checkpoint folder."""
    return int(path.name.removeprefix("step-"))


def remove_leftovers(folder: Path) -> None:
    """Remove the leftovers of interrupted saves."""
    for path in folder.glob(".step-*.tmp-*"):
        remove_path(path, ignore_errors=True)
