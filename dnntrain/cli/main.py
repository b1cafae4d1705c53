"""argv → verb → exit code.

Help and version are answered here; every other verb is a file of `verbs/`, imported when called.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from dnntrain.cli.command_table import VERBS
from dnntrain.cli.parser import Arguments, parse
from dnntrain.errors import ConfigError
from dnntrain.utils.error_boundary import guarded


def entry() -> None:
    """The console script `dnntrain`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (by default that of the process) and returns its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    return guarded(lambda: _run(parse(words)), verbose="-v" in words or "--verbose" in words)


def _run(arguments: Arguments) -> int:
    if arguments.help or arguments.version:
        from dnntrain.cli import help

        text = help.version_text() if arguments.version else help.general_help()
        print(help.verb_help(arguments.verb) if arguments.help and arguments.named_verb else text)
        return 0
    verb = VERBS[arguments.verb]
    if arguments.overrides and not verb.overrides:
        raise ConfigError(
            f"{arguments.verb} takes no settings: {arguments.overrides[0]}", f"dnntrain {arguments.verb} --help"
        )
    module = importlib.import_module(f"dnntrain.cli.commands.{arguments.verb}")
    code: int = module.run(arguments)
    return code
