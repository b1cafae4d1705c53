"""Turn argv into a command, and its result into an exit code.

Help and version are answered here; every command is a file of `commands/`, imported when called.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dnntrain.utils.early_exit import exit_at_once_on_signals, ignore_signals_until_exit
from dnntrain.utils.error_boundary import ErrorBoundary
from dnntrain.utils.memory_limit import check_memory_limit
from dnntrain.utils.signals import exit_on_signals
from dnntrain.utils.streams import KEEP_BYTES

if TYPE_CHECKING:
    from dnntrain.cli.parser import Arguments

_COMMANDS_WITH_TUNED = ("train", "plan", "submit", "why")
_COMMANDS_WITHOUT_TORCH = frozenset({"ls", "config", "schema", "completion", "report"})


def run_console_script() -> None:
    """Run the console script `dnntrain`."""
    exit_at_once_on_signals()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr or stream.isatty() else KEEP_BYTES)
    exit_code = main()
    ignore_signals_until_exit()
    sys.exit(exit_code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default that of the process) and return its exit code."""
    argument_words = sys.argv[1:] if argv is None else list(argv)
    verbose = "-v" in argument_words or "--verbose" in argument_words
    with ErrorBoundary(verbose) as boundary, exit_on_signals("stopped", "the same command starts it again"):
        from dnntrain.cli.parser import parse_arguments

        arguments = _expand_tuned_settings(parse_arguments(argument_words))
        run_command = _find_command(arguments)
        boundary.exit_code = run_command(arguments)
    return boundary.exit_code


def _expand_tuned_settings(arguments: Arguments) -> Arguments:
    """Return the arguments with the settings of `tuned=FILE` in its place."""
    if not any(word.startswith("tuned=") for word in arguments.overrides):
        return arguments
    from dnntrain.errors import ConfigError
    from dnntrain.run.tuned_settings import expand_tuned

    if arguments.command not in _COMMANDS_WITH_TUNED:
        raise ConfigError(
            f"dnntrain {arguments.command} does not support tuned=", f"it is for {', '.join(_COMMANDS_WITH_TUNED)}"
        )
    overrides, tuned = expand_tuned(arguments.overrides)
    return arguments._replace(overrides=overrides, tuned=tuned)


def _find_command(arguments: Arguments) -> Callable[[Arguments], int]:
    """Return the function `run` of the command's file, or the one that answers help and version."""
    if arguments.help or arguments.version:
        return _print_help
    if arguments.command not in _COMMANDS_WITHOUT_TORCH:
        check_memory_limit()
    module = importlib.import_module(f"dnntrain.cli.commands.{arguments.command}")
    run: Callable[[Arguments], int] = module.run
    return run


def _print_help(arguments: Arguments) -> int:
    from dnntrain.cli import help

    text = help.format_version() if arguments.version else help.format_general_help()
    print(help.format_command_help(arguments.command) if arguments.help and arguments.has_command else text)
    return 0
