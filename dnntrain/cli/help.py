"""Format the texts of --help and --version. Imports neither hydra nor torch."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from dnntrain.cli.command_table import COMMAND_SPELLINGS, COMMANDS, COMMON_OPTIONS, CONFIG_DIR, JSON
from dnntrain.cli.formatting import format_columns, wrap_command, wrap_text
from dnntrain.cli.options import Option
from dnntrain.config.groups import GROUPS

_KEYS = (
    "train.duration=10ep|5000step|90s, train.batch_size, optim.lr, eval.every, log.every, checkpoint.every, seed, "
    "run_dir, "
    "resume=auto|never|PATH, init_from=PATH, launch.nproc"
)
_EXAMPLES = (
    ("dnntrain", "the default: digits, in seconds"),
    ("dnntrain model=resnet20 data=cifar10 train.duration=30ep", "other choices, other values"),
    ("dnntrain +average=[ema] average.ema.decay=0.99", "add to a list of methods"),
    ("dnntrain plan parallel=ddp launch.nproc=2", "print the plan, train nothing"),
    ("dnntrain report runs/NAME/ID", "the report of a run"),
)
_CODES = (
    ("0", "done"),
    ("1", "a bug in dnntrain"),
    ("2", "invalid configuration"),
    ("3", "data problem"),
    ("4", "diverged"),
    ("5", "unusable checkpoint or model file"),
    ("75", "preempted, saved, resumable"),
    ("130", "interrupted, saved"),
)


def format_general_help() -> str:
    """Return the general help: examples first."""
    commands = [(name, table_entry.doc) for name, table_entry in COMMANDS.items()]
    groups = [(name, group.doc) for name, group in GROUPS.items() if not group.hidden]
    return "\n".join(
        [
            *wrap_text(
                "dnntrain [COMMAND] [OPTIONS] [KEY=VALUE …]: ",
                "train, compress and export neural networks.",
                indent=2,
            ),
            "",
            "examples:",
            *format_columns(_EXAMPLES, commands=True),
            "",
            "commands (none means train):",
            *format_columns(commands),
            "",
            "groups (dnntrain ls GROUP lists the choices):",
            *format_columns(groups),
            "",
            *wrap_text("common keys: ", _KEYS, indent=2),
            "",
            "options (dnntrain COMMAND --help lists those of a command):",
            *_format_options((*COMMON_OPTIONS, JSON, CONFIG_DIR, *COMMAND_SPELLINGS)),
            "",
            "exit codes:",
            *format_columns(_CODES),
        ]
    )


def format_command_help(name: str) -> str:
    """Return the help of one command: examples first, then its options."""
    command = COMMANDS[name]
    settings = "[KEY=VALUE …]" if command.settings is None else " ".join(f"[{key}=…]" for key in command.settings)
    line = " ".join(part for part in ("dnntrain", name, command.operands, "[OPTIONS]", settings) if part)
    details = ["", *wrap_text("", command.details, indent=0)] if command.details else []
    examples = [part for item in command.examples for part in wrap_command(item)]
    options = _format_options((*command.options, *(option for option in COMMON_OPTIONS if option.name != "version")))
    return "\n".join(
        [
            *wrap_text(f"{line}: ", command.doc, indent=2),
            "",
            "examples:",
            *examples,
            *details,
            "",
            "options:",
            *options,
        ]
    )


def _format_options(options: Sequence[Option]) -> list[str]:
    """Return the options in two columns: the flag; its purpose, allowed values and default."""
    rows = []
    for option in options:
        operand = f"{option.operand}: " if option.operand else ""
        facts = [option.type_text if option.type is not Path and option.type is not str else ""]
        facts += [f"default {option.default_text}" if option.default_text else ""]
        facts += [f"with --{option.needs[0]} {' or '.join(option.needs[1])}" if option.needs else ""]
        text = "; ".join(fact for fact in facts if fact)
        rows.append((option.usage, f"{operand}{option.doc}" + (f" ({text})" if text else "")))
    return format_columns(rows)


def format_version() -> str:
    """Return `dnntrain 0.1.0 · torch 2.14.1 · python 3.11.2`."""
    from dnntrain import __version__
    from dnntrain.utils.versions import read_version

    torch = read_version("torch") or "missing"
    return f"dnntrain {__version__} · torch {torch} · python {platform.python_version()}"
