"""Forbid downloads for a while: in `plan`, and for a saved configuration.

Each function that fetches a file asks `check_download` first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dnntrain.errors import ConfigError

#: The environment variable that forbids downloads in a process and its children. Its value is the reason.
NO_DOWNLOAD_VARIABLE = "DNNTRAIN_NO_DOWNLOAD"

_reason: ContextVar[str] = ContextVar("reason")


def get_refusal_reason() -> str:
    """Return the reason why nothing may be downloaded now; empty if it may."""
    return _reason.get(os.environ.get(NO_DOWNLOAD_VARIABLE, ""))


def check_download(name: str, hint: str = "") -> None:
    """Raise ConfigError if downloads are forbidden; `name` is the missing thing."""
    if reason := get_refusal_reason():
        raise ConfigError(f"{name} is not on this machine, and {reason}", hint)


@contextmanager
def forbid_downloads(reason: str) -> Iterator[None]:
    """Forbid downloads in the body if there is a `reason`, such as "dnntrain plan downloads nothing"."""
    token = _reason.set(reason or get_refusal_reason())
    try:
        yield
    finally:
        _reason.reset(token)
