"""Load functions and classes from a Python file that the user names, and call them with checked arguments.

The choices `GROUP=custom` use it. The file is run as code; nothing here imports torch.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.user_code import register_user_code


def run_python_file(path: Path, key: str) -> ModuleType:
    """Return the Python file `path` of the setting `key` as a module; run it once for each state of the file."""
    if not path.is_file():
        raise ConfigError(f"{key}={path} is not a file")
    path = path.resolve()
    register_user_code(path, f"{key}={path.name}")
    name = f"dnntrain_custom_{path.stem}_{path.stat().st_mtime_ns}_{abs(hash(path))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{key}={path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"{path} cannot be run: {describe_error(error)}") from error
    return module


def load_object(path: Path, group: str, name: str | None, is_candidate: Callable[[Any], bool], noun: str) -> Any:
    """Return the object `name` of the Python file `path`, or its only candidate if `name` is None.

    `group` is the key of the choice, as `model`; `noun` names candidates: "classes that are a
    torch.nn.Module". Raises ConfigError, which lists the candidates.
    """
    module = run_python_file(path, f"{group}.file")
    candidates = [
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and vars_module(value) == module.__name__ and is_candidate(value)
    ]
    if name is None:
        if len(candidates) != 1:
            raise ConfigError(
                f"{path} defines {len(candidates)} {noun}: {', '.join(candidates) or 'none'}",
                f"name the one to use with {group}.name",
            )
        name = candidates[0]
    value = vars(module).get(name)
    if not callable(value):
        raise ConfigError(
            f"{group}.name={name}: {path} defines no such class or function; {did_you_mean(name, candidates)}"
        )
    return value


def vars_module(value: Any) -> str:
    """Return the name of the module that defines a class or a function; empty for other values."""
    return str(value.__module__) if inspect.isclass(value) or inspect.isfunction(value) else ""


def is_class_or_function(value: Any) -> bool:
    """Return whether `value` is a class or a function."""
    return inspect.isclass(value) or inspect.isfunction(value)


def load_function(file: str | None, group: str, name: str | None, args: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a function of the user's file with `args` bound: of a class, an instance that can be called.

    Raises ConfigError if the file, the name or one of the arguments is wrong.
    """
    if file is None:
        raise ConfigError(
            f"{_format_choice(group)} needs {group}.file", f"for example: {group}.file=mine.py {group}.name=NAME"
        )
    value = load_object(Path(file).expanduser(), group, name, is_class_or_function, "classes and functions")
    if not inspect.isclass(value):
        check_keywords(value, args, f"{group}.args")
        return partial(value, **args) if args else value
    instance = call_constructor(value, args, f"{group}.args")
    if not callable(instance):
        raise ConfigError(f"{value.__name__} of {group}.file={file} must have a method __call__, or be a function")
    return instance  # type: ignore[no-any-return]


def call_constructor(maker: Callable[..., Any], args: Mapping[str, Any], key: str) -> Any:
    """Return `maker(**args)`. Raises ConfigError, which names `key`, if it does not take them or fails."""
    check_keywords(maker, args, key)
    name = getattr(maker, "__name__", type(maker).__name__)
    if missing := list_missing(maker, args):
        raise ConfigError(
            f"{name} needs {'the arguments' if missing[1:] else 'the argument'} {', '.join(missing)}",
            f"set {' '.join(f'{key}.{argument}=VALUE' for argument in missing)}",
        )
    try:
        return maker(**args)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{name} cannot be built: {describe_error(error)}") from error


def check_keywords(maker: Callable[..., Any], args: Mapping[str, Any], key: str) -> None:
    """Raise ConfigError if `maker` does not take one of `args` by keyword."""
    names, takes_any = list_keywords(maker)
    for name in args:
        if name not in names and not takes_any:
            raise ConfigError(
                f"{key}.{name}: {getattr(maker, '__name__', maker)} does not have this argument; "
                + did_you_mean(name, names)
            )


def list_keywords(maker: Callable[..., Any]) -> tuple[list[str], bool]:
    """Return the arguments that `maker` takes by keyword, and whether it takes any keyword."""
    parameters = inspect.signature(maker).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return (
        [parameter.name for parameter in parameters if parameter.kind in kinds],
        any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters),
    )


def list_missing(maker: Callable[..., Any], args: Mapping[str, Any]) -> list[str]:
    """Return the arguments without a default that `args` do not have."""
    return [
        parameter.name
        for parameter in inspect.signature(maker).parameters.values()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        and not (parameter.kind is not inspect.Parameter.POSITIONAL_ONLY and parameter.name in args)
    ]


def describe_error(error: BaseException) -> str:
    """Return the first line of the error and its place: `TypeError: … (model.py:12)`."""
    line = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return line
    return f"{line} ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"


def _format_choice(group: str) -> str:
    """Return the setting of the choice: `optim=custom`, or `+augment=[custom]` for `augment.custom`."""
    group, dot, name = group.partition(".")
    return f"+{group}=[{name}]" if dot else f"{group}=custom"
