"""argv → command → exit code.

Help and version are answered here; every command is a file of `commands/`, imported when called.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from dnntrain.cli.parser import Arguments, parse_arguments
from dnntrain.utils.error_boundary import run_with_error_boundary


def run_console_script() -> None:
    """The console script `dnntrain`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default that of the process) and return its exit code."""
    argument_words = sys.argv[1:] if argv is None else list(argv)
    return run_with_error_boundary(
        lambda: _run_command(parse_arguments(argument_words)),
        verbose="-v" in argument_words or "--verbose" in argument_words,
    )


def _run_command(arguments: Arguments) -> int:
    if arguments.help or arguments.version:
        from dnntrain.cli import help

        text = help.format_version() if arguments.version else help.format_general_help()
        print(help.format_command_help(arguments.command) if arguments.help and arguments.has_command else text)
        return 0
    module = importlib.import_module(f"dnntrain.cli.commands.{arguments.command}")
    code: int = module.run(arguments)
    return code
