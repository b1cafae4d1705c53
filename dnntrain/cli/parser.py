"""The command line as a value: which verb, its overrides, its other words, and the flags."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dnntrain.cli.command_table import VERBS
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
_VALUED = {"--config-dir": "config_dir", "-cd": "config_dir", "--cfg": "cfg", "--at-once": "at_once"}
#: An example of the value of each.
_EXAMPLES = {"--cfg": "job", "--at-once": "2"}
#: Flags of Hydra that have another form here.
_INSTEAD = {
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

    verb: str = "train"
    overrides: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    config_dir: Path | None = None
    quiet: bool = False
    verbose: bool = False
    json: bool = False
    help: bool = False
    version: bool = False
    named_verb: bool = False
    at_once: int | None = None
    dry_run: bool = False
    print_only: bool = False

    @property
    def replay(self) -> tuple[str, ...]:
        """The words that make the same configuration again: the overrides, and the folder of the user's own choices."""
        folder = () if self.config_dir is None else (f"--config-dir={self.config_dir.absolute()}",)
        return (*folder, *self.overrides)

    @property
    def display(self) -> str:
        """How progress is shown on stderr: auto, quiet or json."""
        return "quiet" if self.quiet else "json" if self.json else "auto"


def parse(argv: Sequence[str]) -> Arguments:
    """The arguments that `argv` makes: the first bare word is the verb, no verb means train.

    Raises ConfigError with the nearest verb or flag, and for words that the verb does not take.
    """
    words, found = _flags(argv)
    if {"help", "version"} & found.keys():
        named = next((word for word in words if word in VERBS), None)
        return Arguments(
            named or "train", help="help" in found, version="version" in found, named_verb=named is not None
        )
    verb, rest = _verb(words, found)
    arguments = Arguments(
        verb,
        named_verb=True,
        config_dir=Path(found["config_dir"]).expanduser() if "config_dir" in found else None,
        quiet="quiet" in found,
        verbose="verbose" in found,
        json="json" in found,
        at_once=_at_once(verb, found),
        dry_run="dry_run" in found,
        print_only="print_only" in found,
    )
    if VERBS[verb].words:
        positional = tuple(word for word in rest if not _is_override(word))
        return replace(arguments, positional=positional, overrides=tuple(word for word in rest if _is_override(word)))
    bare = [word for word in rest if is_bare(word)]
    if bare:
        raise ConfigError(
            f"{verb} takes settings only, as in optim.lr=0.1; {bare[0]!r} is none",
            "a value with spaces is put in quotes: 'name=two words'",
        )
    return replace(arguments, overrides=tuple(rest))


def is_bare(word: str) -> bool:
    """True for a word that is no override: without `=`, `+` or `~`."""
    return "=" not in word and not word.startswith(("+", "~"))


def _is_override(word: str) -> bool:
    """True for KEY=VALUE, +KEY=VALUE, ~KEY; a path may hold `=` behind a slash or dot."""
    return re.match(r"[+~]|[A-Za-z_][\w.@:]*=", word) is not None


def _flags(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words that are no flags, and the flags by name."""
    words: list[str] = []
    found: dict[str, str] = {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*words, *rest], found
        flag, equals, value = word.partition("=")
        if not word.startswith("-") or word == "-":
            words.append(word)
        elif word in _SWITCHES:
            found[_SWITCHES[word]] = "yes"
        elif flag in _VALUED:
            if not equals and not rest:
                raise ConfigError(f"{flag} needs a value", f"as in {flag} {_EXAMPLES.get(flag, 'DIR')}")
            found[_VALUED[flag]] = value if equals else rest.pop(0)
        elif flag in _INSTEAD:
            raise ConfigError(f"{flag} is not used here", f"instead: {_INSTEAD[flag]}")
        else:
            raise ConfigError(f"there is no flag {word!r}", did_you_mean(flag, [*_SWITCHES, *_VALUED]))
    return words, found


def _verb(words: list[str], found: dict[str, str]) -> tuple[str, list[str]]:
    """The verb, and the words without it."""
    if found.get("cfg", "job") != "job":
        raise ConfigError(f"--cfg {found['cfg']} is not used here", "--cfg job prints the resolved configuration")
    if "resolve" in found and "cfg" not in found:
        raise ConfigError("--resolve goes with --cfg job", "dnntrain config is always resolved")
    number = next((number for number, word in enumerate(words) if is_bare(word)), None)
    if "cfg" in found or "multirun" in found:
        verb = "config" if "cfg" in found else "sweep"
        if number is not None and words[number] in ("train", verb):
            words = words[:number] + words[number + 1 :]
        if verb == "sweep" and "WORLD_SIZE" in os.environ:
            raise ConfigError(
                "-m under torchrun is refused: every rank would run the whole sweep",
                "start it without torchrun; a sweep starts the processes of each trial itself (launch.nproc)",
            )
        return verb, words
    if number is None:
        return "train", words
    verb = words[number]
    if verb not in VERBS:
        raise ConfigError(f"there is no verb {verb!r}; {did_you_mean(verb, list(VERBS))}", _hint(words, number))
    return verb, words[:number] + words[number + 1 :]


def _at_once(verb: str, found: dict[str, str]) -> int | None:
    """The value of --at-once. Raises ConfigError where it is no number, and for the flags of a sweep without one."""
    if verb != "slurm" and "print_only" in found:
        raise ConfigError("--print shows the batch script of dnntrain slurm", f"dnntrain {verb} takes no --print")
    if verb != "sweep" and (flag := next((name for name in ("dry_run", "at_once") if name in found), None)):
        raise ConfigError(f"--{flag.replace('_', '-')} goes with a sweep", "dnntrain plan shows what one run would do")
    text = found.get("at_once")
    if text is not None and (not re.fullmatch(r"[0-9]{1,4}", text) or int(text) == 0):
        raise ConfigError(f"--at-once {text} is no number of trials", "as in --at-once 2")
    return None if text is None else int(text)


def _hint(words: list[str], number: int) -> str:
    if number:
        return f"if it belongs to the word before it, use quotes: '{words[number - 1]} {words[number]}'"
    return "dnntrain --help lists the verbs; dnntrain ls the groups and their choices"
