"""The texts of --help and --version. Imports neither hydra nor torch."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from dnntrain.config.groups import GROUPS
from dnntrain.verbs.table import VERBS

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
_CODES = (
    "0 done · 2 refused configuration · 3 data problem · 4 diverged · 5 unusable checkpoint or model file",
    "75 preempted, saved, resumable · 130 interrupted, saved · 1 a bug in dnntrain",
)


def general_help() -> str:
    """Help without a verb: examples first."""
    verbs = [(name, verb.doc) for name, verb in VERBS.items()]
    groups = [(name, group.doc) for name, group in GROUPS.items()]
    return "\n".join(
        [
            "dnntrain [VERB] [KEY=VALUE …]: trains a network faster, ships it smaller, and proves both.",
            "",
            "examples:",
            "  dnntrain                                                   the default: digits, in seconds",
            "  dnntrain model=resnet20 data=cifar10 train.duration=30ep   other choices, other values",
            "  dnntrain +reg=[ema] reg.ema.decay=0.99                     add to a list of methods",
            "  dnntrain plan parallel=ddp launch.nproc=2                  what would run",
            "  dnntrain report runs/NAME/ID                               the report of a run",
            "",
            "verbs (none means train):",
            *_columns(verbs),
            "",
            "groups (dnntrain ls GROUP lists the choices):",
            *_columns(groups),
            "",
            "keys most used: train.duration=10ep|5000step|90s, train.batch_size, optim.lr, eval.every, log.every,",
            "  checkpoint.every, seed, run_dir, resume=auto|never|PATH, init_from=PATH, launch.nproc",
            "",
            "flags:",
            *_columns(_FLAGS),
            "",
            "exit codes:",
            *(f"  {line}" for line in _CODES),
        ]
    )


def verb_help(name: str) -> str:
    """Help of one verb: examples first."""
    verb = VERBS[name]
    line = " ".join(part for part in ("dnntrain", name, verb.words, "[KEY=VALUE …]" if verb.overrides else "") if part)
    about = ["", verb.about] if verb.about else []
    return "\n".join([f"{line}: {verb.doc}", "", "examples:", *(f"  {item}" for item in verb.examples), *about])


def version_text() -> str:
    """`dnntrain 0.1.0 · torch 2.14.1 · python 3.11.2`."""
    from dnntrain import __version__

    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "missing"
    return f"dnntrain {__version__} · torch {torch} · python {platform.python_version()}"


def _columns(rows: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name:<{width}}  {doc}" for name, doc in rows]
