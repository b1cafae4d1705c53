"""The commands: purpose, operands, options and examples of each.

The parser, --help, shell completion and docs/reference.md read this table. Imports neither hydra
nor torch.
"""

from __future__ import annotations

from collections.abc import Iterator

from dnntrain.cli.command import COMMAND_SPELLINGS, COMMON_OPTIONS, CONFIG_DIR, JSON, Command
from dnntrain.cli.command_options.help import HELP_COMMANDS
from dnntrain.cli.command_options.model import MODEL_COMMANDS
from dnntrain.cli.command_options.training import TRAINING_COMMANDS
from dnntrain.cli.options import Option

__all__ = [
    "COMMANDS",
    "COMMAND_SPELLINGS",
    "COMMON_OPTIONS",
    "CONFIG_DIR",
    "JSON",
    "Command",
    "find_owners",
    "iterate_options",
]

#: The commands in the order of --help.
COMMANDS: dict[str, Command] = {**TRAINING_COMMANDS, **MODEL_COMMANDS, **HELP_COMMANDS}


def iterate_options() -> Iterator[Option]:
    """Yield every option of every command; options of all commands come first."""
    yield from (*COMMON_OPTIONS, *COMMAND_SPELLINGS)
    for command in COMMANDS.values():
        yield from command.options


def find_owners(flag: str) -> list[str]:
    """Return the commands that have an option of this spelling, as they are typed: `dnntrain tune lr`."""
    return list(
        dict.fromkeys(
            " ".join(filter(None, ("dnntrain", name, option.operand)))
            for name, command in COMMANDS.items()
            for option in command.options
            if flag in option.flags
        )
    )
