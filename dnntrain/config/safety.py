"""Reject configurations that name code to run, print secrets or control a terminal."""

from __future__ import annotations

import re
from typing import Any

from dnntrain.utils.terminal_text import clean_line, escape_letter, is_clean

MAX_VALUE_BYTES = 64 * 1024

_INSTANTIATE = re.compile(r"_(target|partial|recursive|convert|args)_")
_INTERPOLATION = re.compile(r"\$\{")
_RESOLVER = re.compile(r"\$\{\s*([^\s{}:]+)\s*:")
_ENVIRONMENT = re.compile(r"""\$\{\s*oc\.env\s*:\s*['"]?([A-Za-z_]\w*)['"]?\s*[,}]""")
_SECRET = re.compile(
    r"TOKEN|KEY|SECRET|PASS|PWD.|.PWD|CREDENTIAL|AUTH|COOKIE|SESSION|PRIVATE|SIGNATURE|DSN|_URI|_URL|WEBHOOK", re.I
)
_HYDRA_REASONS = {
    "searchpath": "name the folder with --config-dir DIR instead",
    "launcher": "it would load external code",
    "sweeper": "it would load external code",
    "callbacks": "it would load external code",
    "job_logging": "it would load external code; use -q or -v",
    "hydra_logging": "it would load external code; use -q or -v",
    "run": "set the run directory with run_dir=",
    "sweep": "set the run directory with run_dir=",
}


def find_key_problem(key: str) -> str | None:
    """Return the reason why a configuration cannot set `key`, or None."""
    if _INSTANTIATE.search(key):
        return "a configuration is data: it cannot name code to run"
    first, _, rest = re.sub(r"[/@:]", ".", key).partition(".")
    if first == "hydra":
        reason = _HYDRA_REASONS.get(rest.partition(".")[0], "dnntrain sets up Hydra itself")
        return f"settings of hydra cannot be changed: {reason}"
    return None


def find_text_problem(text: str) -> str | None:
    """Return the reason why the command line cannot contain `text`, or None.

    The reasons are size, control characters, and bytes that are not text.
    """
    if len(text) > MAX_VALUE_BYTES or len(text.encode("utf-8", "replace")) > MAX_VALUE_BYTES:
        return f"longer than {MAX_VALUE_BYTES // 1024} KiB"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "holds bytes that are not UTF-8"
    if not is_clean(text):
        letter = next(letter for letter in text if not is_clean(letter))
        return f"holds the control character '{escape_letter(letter)}'"
    return None


def find_value_problem(value: Any) -> str | None:
    """Return the reason why interpolations in `value` are not supported, or None.

    An interpolation may refer only to other keys and to harmless variables.
    """
    if isinstance(value, dict):
        reasons = [find_key_problem(str(key)) for key in value] + [find_value_problem(item) for item in value.values()]
        return next((reason for reason in reasons if reason), None)
    if isinstance(value, (list, tuple)):
        return next((reason for item in value if (reason := find_value_problem(item))), None)
    if not isinstance(value, str) or not has_interpolation(value):
        return None
    for resolver in _RESOLVER.findall(value):
        if resolver != "oc.env":
            return f"the resolver {resolver!r} is not supported; use ${{other.key}} or ${{oc.env:NAME}}"
    names = _ENVIRONMENT.findall(value)
    if len(names) != len(re.findall(r"oc\.env", value)):
        return "write the variable's name plainly: ${oc.env:NAME} or ${oc.env:NAME,default}"
    for name in names:
        if _SECRET.search(name):
            return f"the variable {name} looks like a secret, and the resolved configuration is written to disk"
    return None


def has_interpolation(value: Any) -> bool:
    """Return whether `value` refers to another key or to a variable.

    The type of such a value is known only after it is resolved.
    """
    return isinstance(value, str) and _INTERPOLATION.search(value) is not None


def shorten(text: str, width: int = 80) -> str:
    """Return `text` for display: on one line, control characters escaped, cut at `width`."""
    safe = clean_line(text[: width + 1])
    return safe if len(safe) <= width else f"{safe[: width - 1]}…"
