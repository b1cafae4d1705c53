"""What a configuration must not hold, being data: code to run, secrets to print, tricks on a terminal."""

from __future__ import annotations

import re
from typing import Any

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
    "launcher": "it would load foreign code",
    "sweeper": "it would load foreign code",
    "callbacks": "it would load foreign code",
    "job_logging": "it would load foreign code; use -q or -v",
    "hydra_logging": "it would load foreign code; use -q or -v",
    "run": "the run directory is set with run_dir=",
    "sweep": "the run directory is set with run_dir=",
}


def find_key_problem(key: str) -> str | None:
    """Why a configuration may not set `key`, or None where it may."""
    if _INSTANTIATE.search(key):
        return "a configuration is data: it cannot name code to run"
    first, _, rest = re.sub(r"[/@:]", ".", key).partition(".")
    if first == "hydra":
        reason = _HYDRA_REASONS.get(rest.partition(".")[0], "dnntrain sets up Hydra itself")
        return f"settings of hydra are refused: {reason}"
    return None


def find_text_problem(text: str) -> str | None:
    """Why `text` may not stand on the command line, or None: size, control characters, bytes that are no text."""
    if len(text) > MAX_VALUE_BYTES or len(text.encode("utf-8", "replace")) > MAX_VALUE_BYTES:
        return f"longer than {MAX_VALUE_BYTES // 1024} KiB"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "holds bytes that are not UTF-8"
    if not text.isprintable():
        letter = next(letter for letter in text if not letter.isprintable())
        return f"holds the control character {letter!r}"
    return None


def find_value_problem(value: Any) -> str | None:
    """Why the interpolations in `value` are refused, or None: only other keys and harmless variables may be named."""
    if isinstance(value, dict):
        reasons = [find_key_problem(str(key)) for key in value] + [find_value_problem(item) for item in value.values()]
        return next((reason for reason in reasons if reason), None)
    if isinstance(value, (list, tuple)):
        return next((reason for item in value if (reason := find_value_problem(item))), None)
    if not isinstance(value, str) or not has_interpolation(value):
        return None
    for resolver in _RESOLVER.findall(value):
        if resolver != "oc.env":
            return f"the resolver {resolver!r} is refused; only ${{other.key}} and ${{oc.env:NAME}} are read"
    names = _ENVIRONMENT.findall(value)
    if len(names) != len(re.findall(r"oc\.env", value)):
        return "write the variable's name plainly: ${oc.env:NAME} or ${oc.env:NAME,default}"
    for name in names:
        if _SECRET.search(name):
            return f"the variable {name} looks like a secret, and the resolved configuration is written to disk"
    return None


def has_interpolation(value: Any) -> bool:
    """True where `value` refers to another key or to a variable, so that its type is known only when resolved."""
    return isinstance(value, str) and _INTERPOLATION.search(value) is not None


def shorten(text: str, width: int = 80) -> str:
    """`text` fit to be shown: control characters escaped, cut at `width`."""
    safe = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[: width + 1])
    return safe if len(safe) <= width else f"{safe[: width - 1]}…"
