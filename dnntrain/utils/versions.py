"""Read the versions of installed packages. Imports no torch."""

from __future__ import annotations


def read_version(package: str) -> str | None:
    """Return the version of an installed package; None if it is missing."""
    from importlib.metadata import PackageNotFoundError, version  # here: it takes longer than the rest of --help

    try:
        return version(package)
    except PackageNotFoundError:
        return None
