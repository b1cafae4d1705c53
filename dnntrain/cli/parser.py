"""The command line as a value: which verb, its overrides, its other words, and the flags."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dnntrain.cli.command_table import COMMANDS
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean

#: Flags that stand alone, by what they set.
_SWITCHES = {
    "-h": "help",
    "--help": "help",
    "--version": "version",
    "-q": "quiet",
    "--quiet": "quiet",
    "-v": "verbose",
    "--verbose": "verbose",
    "--json": "json",
    "-m": "multirun",
    "--multirun": "multirun",
    "--resolve": "resolve",
    "--dry-run": "dry_run",
    "--print": "print_only",
}
#: Flags that take a value.
_VALUE_FLAGS = {"--config-dir": "config_dir", "-cd": "config_dir", "--cfg": "cfg", "--at-once": "at_once"}
#: An example of the value of each.
_EXAMPLES = {"--cfg": "job", "--at-once": "2"}
#: Flags of Hydra that have another form here.
_REPLACEMENTS = {
    "--info": "dnntrain config prints the resolved configuration, dnntrain plan what would run",
    "--hydra-help": "dnntrain --help",
    "--shell-completion": "dnntrain completion bash|zsh|fish",
    "-sc": "dnntrain completion bash|zsh|fish",
    "--config-name": "an experiment: experiment=NAME, with --config-dir DIR for your own",
    "-cn": "an experiment: experiment=NAME, with --config-dir DIR for your own",
    "--config-path": "--config-dir DIR, which is searched besides dnntrain's own choices",
    "-cp": "--config-dir DIR, which is searched besides dnntrain's own choices",
    "--experimental-rerun": "dnntrain resume RUN",
    "--package": "dnntrain config",
    "-p": "dnntrain config",
    "--run": "dnntrain train",
    "-r": "dnntrain train",
}


@dataclass(frozen=True)
class Arguments:
    """What was asked for. `overrides` are the words KEY=VALUE in order, `positional` the others after the verb."""

    command: str = "train"
    overrides: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    config_dir: Path | None = None
    quiet: bool = False
    verbose: bool = False
    json: bool = False
    help: bool = False
    version: bool = False
    has_command: bool = False
    at_once: int | None = None
    dry_run: bool = False
    print_only: bool = False

    @property
    def replay_overrides(self) -> tuple[str, ...]:
        """The words that make the same configuration again: the overrides, and the folder of the user's own choices."""
        dir_option = () if self.config_dir is None else (f"--config-dir={self.config_dir.absolute()}",)
        return (*dir_option, *self.overrides)

    @property
    def display(self) -> str:
        """How progress is shown on stderr: auto, quiet or json."""
        return "quiet" if self.quiet else "json" if self.json else "auto"


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """The arguments that `argv` makes: the first bare word is the verb, no verb means train.

    Raises ConfigError with the nearest verb or flag, and for words that the verb does not take.
    """
    words, flags = _split_flags(argv)
    if {"help", "version"} & flags.keys():
        named_command = next((word for word in words if word in COMMANDS), None)
        return Arguments(
            named_command or "train",
            help="help" in flags,
            version="version" in flags,
            has_command=named_command is not None,
        )
    command, rest = _split_command(words, flags)
    arguments = Arguments(
        command,
        has_command=True,
        config_dir=Path(flags["config_dir"]).expanduser() if "config_dir" in flags else None,
        quiet="quiet" in flags,
        verbose="verbose" in flags,
        json="json" in flags,
        at_once=_parse_at_once(command, flags),
        dry_run="dry_run" in flags,
        print_only="print_only" in flags,
    )
    if COMMANDS[command].operands:
        positional = tuple(word for word in rest if not _is_override(word))
        return replace(arguments, positional=positional, overrides=tuple(word for word in rest if _is_override(word)))
    bare_words = [word for word in rest if is_bare(word)]
    if bare_words:
        raise ConfigError(
            f"{command} takes settings only, as in optim.lr=0.1; {bare_words[0]!r} is none",
            "a value with spaces is put in quotes: 'name=two words'",
        )
    return replace(arguments, overrides=tuple(rest))


def is_bare(word: str) -> bool:
    """True for a word that is no override: without `=`, `+` or `~`."""
    return "=" not in word and not word.startswith(("+", "~"))


def _is_override(word: str) -> bool:
    """True for KEY=VALUE, +KEY=VALUE, ~KEY; a path may hold `=` behind a slash or dot."""
    return re.match(r"[+~]|[A-Za-z_][\w.@:]*=", word) is not None


def _split_flags(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words that are no flags, and the flags by name."""
    words: list[str] = []
    flags: dict[str, str] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*words, *rest], flags
        flag, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            words.append(word)
        elif word in _SWITCHES:
            flags[_SWITCHES[word]] = "yes"
        elif flag in _VALUE_FLAGS:
            if not equals and not rest:
                raise ConfigError(f"{flag} needs a value", f"as in {flag} {_EXAMPLES.get(flag, 'DIR')}")
            flags[_VALUE_FLAGS[flag]] = value if equals else rest.pop(0)
        elif flag in _REPLACEMENTS:
            raise ConfigError(f"{flag} is not used here", f"instead: {_REPLACEMENTS[flag]}")
        else:
            raise ConfigError(f"there is no flag {word!r}", did_you_mean(flag, [*_SWITCHES, *_VALUE_FLAGS]))
    return words, flags


def _split_command(words: list[str], flags: dict[str, str]) -> tuple[str, list[str]]:
    """The verb, and the words without it."""
    if flags.get("cfg", "job") != "job":
        raise ConfigError(f"--cfg {flags['cfg']} is not used here", "--cfg job prints the resolved configuration")
    if "resolve" in flags and "cfg" not in flags:
        raise ConfigError("--resolve goes with --cfg job", "dnntrain config is always resolved")
    position = next((position for position, word in enumerate(words) if is_bare(word)), None)
    if "cfg" in flags or "multirun" in flags:
        command = "config" if "cfg" in flags else "sweep"
        if position is not None and words[position] in ("train", command):
            words = words[:position] + words[position + 1 :]
        if command == "sweep" and "WORLD_SIZE" in os.environ:
            raise ConfigError(
                "-m under torchrun is refused: every rank would run the whole sweep",
                "start it without torchrun; a sweep starts the processes of each trial itself (launch.nproc)",
            )
        return command, words
    if position is None:
        return "train", words
    command = words[position]
    if command not in COMMANDS:
        raise ConfigError(
            f"there is no verb {command!r}; {did_you_mean(command, list(COMMANDS))}",
            _format_command_hint(words, position),
        )
    return command, words[:position] + words[position + 1 :]


def _parse_at_once(command: str, flags: dict[str, str]) -> int | None:
    """The value of --at-once. Raises ConfigError where it is no number, and for the flags of a sweep without one."""
    if command != "slurm" and "print_only" in flags:
        raise ConfigError("--print shows the batch script of dnntrain slurm", f"dnntrain {command} takes no --print")
    if command != "sweep" and (flag := next((name for name in ("dry_run", "at_once") if name in flags), None)):
        raise ConfigError(f"--{flag.replace('_', '-')} goes with a sweep", "dnntrain plan shows what one run would do")
    text = flags.get("at_once")
    if text is not None and (not re.fullmatch(r"[0-9]{1,4}", text) or int(text) == 0):
        raise ConfigError(f"--at-once {text} is no number of trials", "as in --at-once 2")
    return None if text is None else int(text)


def _format_command_hint(words: list[str], position: int) -> str:
    if position:
        return f"if it belongs to the word before it, use quotes: '{words[position - 1]} {words[position]}'"
    return "dnntrain --help lists the verbs; dnntrain ls the groups and their choices"
