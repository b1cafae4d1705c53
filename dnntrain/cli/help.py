"""The texts of --help and --version. Imports neither hydra nor torch."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from dnntrain.cli.command_table import COMMANDS
from dnntrain.cli.formatting import format_columns, wrap_command, wrap_text
from dnntrain.config.groups import GROUPS

_FLAGS = (
    ("-h, --help", "this text; dnntrain VERB --help: that of a verb"),
    ("--version", "versions of dnntrain, torch and python"),
    ("-q, --quiet", "no progress on stderr"),
    ("-v, --verbose", "where an error was raised"),
    ("--print", "dnntrain slurm: show the batch script and submit nothing"),
    ("--json", "machine-readable output"),
    ("-cd, --config-dir DIR", "search DIR for presets and experiments of your own"),
    ("--cfg job", "print the resolved configuration and train nothing"),
    ("-m, --multirun", "a sweep: one run for each combination of values"),
    ("--at-once N", "trials of a sweep that run at once; without it, as many as fit"),
    ("--dry-run", "list the trials of a sweep and train nothing"),
)
_KEYS = (
    "train.duration=10ep|5000step|90s, train.batch_size, optim.lr, eval.every, log.every, checkpoint.every, seed, run_dir, "
    "resume=auto|never|PATH, init_from=PATH, launch.nproc"
)
_EXAMPLES = (
    ("dnntrain", "the default: digits, in seconds"),
    ("dnntrain model=resnet20 data=cifar10 train.duration=30ep", "other choices, other values"),
    ("dnntrain +reg=[ema] reg.ema.decay=0.99", "add to a list of methods"),
    ("dnntrain plan parallel=ddp launch.nproc=2", "what would run"),
    ("dnntrain report runs/NAME/ID", "the report of a run"),
)
_CODES = (
    ("0", "done"),
    ("1", "a bug in dnntrain"),
    ("2", "refused configuration"),
    ("3", "data problem"),
    ("4", "diverged"),
    ("5", "unusable checkpoint or model file"),
    ("75", "preempted, saved, resumable"),
    ("130", "interrupted, saved"),
)


def format_general_help() -> str:
    """Help without a verb: examples first."""
    commands = [(name, table_entry.doc) for name, table_entry in COMMANDS.items()]
    groups = [(name, group.doc) for name, group in GROUPS.items()]
    return "\n".join(
        [
            *wrap_text(
                "dnntrain [VERB] [KEY=VALUE …]: ",
                "trains a network faster, ships it smaller, and proves both.",
                indent=2,
            ),
            "",
            "examples:",
            *format_columns(_EXAMPLES, commands=True),
            "",
            "verbs (none means train):",
            *format_columns(commands),
            "",
            "groups (dnntrain ls GROUP lists the choices):",
            *format_columns(groups),
            "",
            *wrap_text("keys most used: ", _KEYS, indent=2),
            "",
            "flags:",
            *format_columns(_FLAGS),
            "",
            "exit codes:",
            *format_columns(_CODES),
        ]
    )


def format_command_help(name: str) -> str:
    """Help of one verb: examples first."""
    table_entry = COMMANDS[name]
    line = " ".join(
        part
        for part in ("dnntrain", name, table_entry.operands, "[KEY=VALUE …]" if table_entry.takes_overrides else "")
        if part
    )
    details = ["", *wrap_text("", table_entry.details, indent=0)] if table_entry.details else []
    examples = [part for item in table_entry.examples for part in wrap_command(item)]
    return "\n".join([*wrap_text(f"{line}: ", table_entry.doc, indent=2), "", "examples:", *examples, *details])


def format_version() -> str:
    """`dnntrain 0.1.0 · torch 2.14.1 · python 3.11.2`."""
    from dnntrain import __version__

    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "missing"
    return f"dnntrain {__version__} · torch {torch} · python {platform.python_version()}"
