"""The form of a command in the table, and the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dnntrain.cli.options import Option

JSON = Option("json", "machine-readable output", default=False)
CONFIG_DIR = Option(
    "config-dir", "search DIR for your own presets and experiments", Path, placeholder="DIR", short=("-cd",)
)
TRUST = Option("trust", "run the code that the run or the export names: a .pt2 program, model.file", default=False)
DRY_RUN = Option("dry-run", "show the run or job, and start nothing", default=False)

#: Options of every command.
COMMON_OPTIONS = (
    Option("help", "show this text; dnntrain COMMAND --help describes a command", default=False, short=("-h",)),
    Option("version", "print the versions of dnntrain, torch and python", default=False),
    Option("quiet", "show no progress on stderr", default=False, short=("-q",)),
    Option("verbose", "show where an error was raised", default=False, short=("-v",)),
)
#: Spellings of a command as an option, as Hydra has them.
COMMAND_SPELLINGS = (
    Option("multirun", "start a sweep: one run for each combination of values", default=False, short=("-m",)),
    Option("cfg", "print the resolved configuration and train nothing", str, placeholder="job"),
    Option("resolve", "with --cfg job, which always resolves", default=False),
)


class Command(NamedTuple):
    """One command.

    operands  its words besides settings and options: `RUN PATH…`, `[GROUP [CHOICE]]`, or `lr|batch` for
              one of these
    settings  the keys of KEY=VALUE that it takes; None: all
    composes  whether its settings alone make the configuration, so that they can be checked by themselves
    """

    doc: str
    operands: str = ""
    examples: tuple[str, ...] = ()
    details: str = ""
    options: tuple[Option, ...] = ()
    settings: tuple[str, ...] | None = None
    composes: bool = False

    @property
    def operand_choices(self) -> tuple[str, ...]:
        """The words of which one must be given."""
        return tuple(self.operands.split("|")) if "|" in self.operands else ()

    @property
    def operand_counts(self) -> tuple[int, float]:
        """The fewest and the most operands."""
        words = self.operands.split()
        fewest = sum(not word.startswith("[") for word in words)
        return fewest, float("inf") if "…" in self.operands else len(words)

    def select_options(self, operands: tuple[str, ...] = ()) -> dict[str, Option]:
        """Return the options by name that go with `operands`; without operands, the first of each name."""
        options: dict[str, Option] = {}
        for option in self.options:
            if not option.operand or not operands or option.operand == operands[0]:
                options.setdefault(option.name, option)
        return options
