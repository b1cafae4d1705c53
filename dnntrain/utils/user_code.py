"""Know which files hold the user's code: plug-ins, and models from a file.

An exception that comes from such a file is not a bug of dnntrain. It is reported as an error of
that file, with its line.
"""

from __future__ import annotations

import inspect
import linecache
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dnntrain.errors import PluginError

_PACKAGE_FOLDER = Path(__file__).resolve().parents[1]

#: The name of each registered file or folder, as messages show it.
_names: dict[Path, str] = {}


class CodeLine(NamedTuple):
    """A line of the user's code: its place, its function, and the setting or package it belongs to."""

    owner: str
    path: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}, in {self.function}"


def register_user_code(path: Path, owner: str) -> None:
    """Remember that the file or folder `path` is the user's code, and call it `owner` in messages."""
    _names[path.resolve()] = owner


def is_user_code(path: str) -> bool:
    """Return whether the file `path` is registered, or is in a registered folder."""
    return _find_owner(path) is not None


def explain_user_error(error: BaseException) -> PluginError | None:
    """Return the error to report for an exception that passed through the user's code, else None."""
    code_line = find_code_line(error)
    if code_line is None:
        return None
    source = linecache.getline(code_line.path, code_line.line).strip()
    quoted = f"\n    {source[:200]}" if source else ""
    return PluginError(
        f"{code_line.owner} failed: {_describe_exception(error)}\n  {code_line}{quoted}",
        "correct this file; -v or DNNTRAIN_DEBUG=1 shows the traceback",
    )


def find_code_line(error: BaseException) -> CodeLine | None:
    """Return the innermost line of the user's code that `error` passed through, or None."""
    if isinstance(error, SyntaxError) and error.filename and (owner := _find_owner(error.filename)):
        return CodeLine(owner, error.filename, error.lineno or 1, "the module")
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if owner := _find_owner(frame.f_code.co_filename):
            name = frame.f_code.co_name
            function = "the module" if name == "<module>" else frame.f_code.co_qualname
            return CodeLine(owner, frame.f_code.co_filename, line, function)
    return None


def check_result(value: object, kinds: type | tuple[type, ...], needed: str, function: Callable[..., Any]) -> None:
    """Check that `function` returned an instance of `kinds`.

    `needed` completes the message "it must return …". Raises PluginError with the place of the
    function.
    """
    if not isinstance(value, kinds):
        raise make_result_error(f"must return {needed}, not {describe_value(value)}", function)


def make_result_error(problem: str, function: Callable[..., Any]) -> PluginError:
    """Return the error for a function that returns a wrong value; `problem` follows its name."""
    function = inspect.unwrap(getattr(function, "func", function))  # of a functools.partial
    if not inspect.isroutine(function):
        function = type(function).__call__  # of an object that is called
    code = getattr(function, "__code__", None)
    if code is None:
        return PluginError(f"{getattr(function, '__qualname__', type(function).__qualname__)}() {problem}")
    owner = _find_owner(code.co_filename) or "dnntrain"
    code_line = CodeLine(owner, code.co_filename, code.co_firstlineno, code.co_qualname)
    return PluginError(f"{owner}: {code.co_name}() {problem}\n  {code_line}", "correct this function")


def describe_value(value: object) -> str:
    """Return a description of a value by its type: `None`, `a list of int`, `SGD`."""
    if value is None:
        return "None"
    if isinstance(value, (list, tuple)) and value:
        return f"a {type(value).__name__} of {' and '.join(dict.fromkeys(type(item).__name__ for item in value))}"
    return f"a value of type {type(value).__name__}"


def _describe_exception(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0][:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _find_owner(file: str) -> str | None:
    """Return the name of the registered place that holds `file`; libraries within it do not count."""
    if not _names:
        return None
    try:
        path = Path(file).resolve()
    except (OSError, ValueError, RuntimeError):
        return None
    if path.is_relative_to(_PACKAGE_FOLDER):
        return None
    for place in (path, *path.parents):
        if place in _names:
            inner_parts = path.relative_to(place).parts
            return None if {"site-packages", "dist-packages"} & set(inner_parts) else _names[place]
    return None
