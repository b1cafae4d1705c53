"""Read how much memory this process may use. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

_GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_MEMORY_OF_MACHINE = Path("/proc/meminfo")

#: Memory is scarce if less than this share of it is available.
_SCARCE_SHARE = 0.125


def read_memory_bytes() -> int:
    """Return the memory of this machine in bytes, or the lowest limit of a control group of this process; 0 if unknown.

    Containers limit the group at the root that they see, Slurm and systemd that of a job or a service.
    """
    try:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
    limits = (_read_line(path) for path in list_limit_files(_read(_GROUPS_OF_PROCESS)))
    return min([memory_bytes, *(int(text) for text in limits if text.isdecimal())])


def is_memory_scarce() -> bool:
    """Return whether less than an eighth is available of this machine's memory, or of what a control group may use.

    The system frees the pages of files by itself if others need them, so they count as available.
    """
    sizes = dict(line.split(":", 1) for line in _read(_MEMORY_OF_MACHINE).splitlines() if ":" in line)
    total, available = (sizes.get(name, "").removesuffix("kB").strip() for name in ("MemTotal", "MemAvailable"))
    if total.isdecimal() and available.isdecimal() and int(available) < int(total) * _SCARCE_SHARE:
        return True
    return any(map(_is_nearly_full, list_limit_files(_read(_GROUPS_OF_PROCESS))))


def _is_nearly_full(limit_file: Path) -> bool:
    """Return whether a control group uses most of its limit, by its file `memory.stat`."""
    limit = _read_line(limit_file)
    if not limit.isdecimal():
        return False
    words = (line.split() for line in _read(limit_file.with_name("memory.stat")).splitlines())
    sizes = {pair[0]: int(pair[1]) for pair in words if len(pair) == 2 and pair[1].isdecimal()}
    names = ("total_rss", "total_shmem") if limit_file.name == "memory.limit_in_bytes" else ("anon", "shmem")
    return sum(sizes.get(name, 0) for name in names) > int(limit) * (1 - _SCARCE_SHARE)


def list_limit_files(groups: str, root: Path = _GROUPS) -> list[Path]:
    """Return the files that may limit the memory of a process: those of its control groups and of all above them.

    `groups` is the content of /proc/PID/cgroup. A line is NUMBER:CONTROLLERS:PATH; version 2 names no
    controller (cgroups(7)).
    """
    files = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    for line in groups.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        folder = root if not controllers else root / "memory" if "memory" in controllers.split(",") else None
        if folder is None or not path.startswith("/"):
            continue
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        parents = [PurePosixPath(path), *PurePosixPath(path).parents]
        files += [folder / parent.relative_to("/") / name for parent in parents if ".." not in parent.parts]
    return list(dict.fromkeys(files))


def _read_line(path: Path) -> str:
    return _read(path).strip()[:19]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
