"""Parse the command line: the command, its operands, its options, and the settings KEY=VALUE.

words ─ split ─► flags and words ─ command ─► its options, operands and settings ─ check all ─► Arguments

All mistakes of a line are reported together, with the mistakes of the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from dnntrain.cli.command_table import (
    COMMAND_SPELLINGS,
    COMMANDS,
    COMMON_OPTIONS,
    Command,
    find_owners,
    iterate_options,
)
from dnntrain.cli.operand_checks import (
    Flag,
    check_effects,
    check_operands,
    check_settings,
    is_bare,
    make_error,
    split_command,
)
from dnntrain.cli.options import WORD_SEPARATOR, Option
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import find_nearest

if TYPE_CHECKING:
    from dnntrain.run.tuned_settings import TunedSettings

#: Flags of Hydra that are spelled differently here.
_REPLACEMENTS = {
    "--info": "dnntrain config prints the resolved configuration, dnntrain plan the plan of the run",
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


class Arguments(NamedTuple):
    """A command line without mistakes.

    overrides   the settings KEY=VALUE in order
    positional  the other words after the command
    options     the value of each option of the command by its key, its default included
    given       the keys of the options that the line names
    tuned       the file of tuned=FILE, whose settings are among the overrides
    """

    command: str = "train"
    overrides: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    options: Mapping[str, Any] = MappingProxyType({})
    given: frozenset[str] = frozenset()
    quiet: bool = False
    verbose: bool = False
    help: bool = False
    version: bool = False
    has_command: bool = False
    tuned: TunedSettings | None = None

    @property
    def json(self) -> bool:
        """Whether output is machine-readable."""
        return bool(self.options.get("json"))

    @property
    def config_dir(self) -> Path | None:
        """The user's own folder of choices."""
        return self.options.get("config_dir")

    @property
    def display(self) -> str:
        """How progress is shown on stderr: auto, quiet or json."""
        return "quiet" if self.quiet else "json" if self.json else "auto"


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parse `argv`: the first bare word is the command, no command means train.

    Raises ConfigError that lists every mistake, with the nearest command or option.
    """
    mistakes: list[tuple[str, str]] = []
    words, flags = _split_flags(argv, mistakes)
    names = {flag.option.name for flag in flags}
    if {"help", "version"} & names:
        command_name = next((word for word in words if word in COMMANDS), None)
        return Arguments(
            command_name or "train",
            help="help" in names,
            version="version" in names,
            has_command=command_name is not None,
        )
    name, rest = split_command(words, flags, mistakes)
    command = COMMANDS[name]
    overrides = tuple(word for word in rest if _is_override(word, command))
    positional = tuple(word for word in rest if not _is_override(word, command))
    check_operands(name, command, positional, mistakes)
    options = _read_options(name, command, positional, flags, mistakes)
    settings = check_settings(name, command, positional, overrides, mistakes)
    if mistakes:
        raise make_error(mistakes, _find_config_mistakes(command, settings, options))
    return Arguments(
        name,
        overrides,
        positional,
        options,
        given=frozenset(flag.option.key for flag in flags),
        quiet="quiet" in names,
        verbose="verbose" in names,
        has_command=True,
    )


def _is_override(word: str, command: Command) -> bool:
    """Return whether a word is KEY=VALUE, +KEY=VALUE or ~KEY. A path may hold `=` behind a slash or dot."""
    if not command.operands:
        return not is_bare(word)
    return re.match(r"[+~]|[A-Za-z_][\w.@:]*=", word) is not None


def _split_flags(argv: Sequence[str], mistakes: list[tuple[str, str]]) -> tuple[list[str], list[Flag]]:
    """Return the words that are not flags, and the flags."""
    options = {flag: option for option in [*iterate_options()][::-1] for flag in option.flags}
    words: list[str] = []
    flags: list[Flag] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        spelling, equals, text = word.partition("=")
        if word == "--":
            return [*words, *rest], flags
        if not word.startswith("-") or word == "-":
            words.append(word)
        elif spelling in _REPLACEMENTS:
            mistakes.append((f"{spelling} is not an option of dnntrain", f"instead: {_REPLACEMENTS[spelling]}"))
        elif spelling not in options:
            from dnntrain.cli.foreign_lines import is_value, translate_flag  # here: for a line with a mistake only

            value = text if equals else next((word for word in rest[:1] if is_value(word)), None)
            nearest, hint = _find_nearest_option(spelling, argv, options)
            line = translate_flag(spelling, value, argv)
            mistakes.append((f"there is no option {spelling}", f"write {line}" if line else hint))
            if value is not None and not equals and (line or (nearest is not None and not nearest.is_switch)):
                rest.pop(0)
        elif options[spelling].is_switch:
            if equals:
                mistakes.append((f"{spelling} takes no value", f"use {spelling} alone"))
            flags.append(Flag(spelling, options[spelling], None))
        elif not equals and (not rest or rest[0].partition("=")[0] in options):
            option = options[spelling]
            example = option.example_text or option.placeholder or option.name.upper()
            mistakes.append((f"{spelling} needs a value", f"as in {spelling} {example}"))
        else:
            words_of_option = [text if equals else rest.pop(0)]
            while options[spelling].takes_many and rest and not rest[0].startswith("-"):
                words_of_option.append(rest.pop(0))
            flags.append(Flag(spelling, options[spelling], WORD_SEPARATOR.join(words_of_option)))
    return words, flags


def _find_nearest_option(
    spelling: str, argv: Sequence[str], options: Mapping[str, Option]
) -> tuple[Option | None, str]:
    """Return the nearest option and a hint: one of the line's command if any of these is near."""
    name = next((word for word in argv if word in COMMANDS), "train")
    own_options = (*COMMON_OPTIONS, *COMMAND_SPELLINGS, *COMMANDS[name].options)
    own_flags = [flag for option in own_options for flag in option.flags]
    flag = find_nearest(spelling, own_flags) or find_nearest(spelling, list(options))
    if flag is None:
        return None, f"dnntrain {name} --help lists the options"
    return options[flag], f"did you mean {flag!r}?"


def _read_options(
    name: str, command: Command, operands: tuple[str, ...], flags: Sequence[Flag], mistakes: list[tuple[str, str]]
) -> dict[str, Any]:
    """Return the value of each option of the command, and note mistakes in the options of the line."""
    options = command.select_options(operands)
    values = {option.key: option.default for option in options.values()}
    for flag in flags:
        if flag.option in (*COMMON_OPTIONS, *COMMAND_SPELLINGS):
            continue
        option = options.get(flag.option.name)
        if option is None or flag.spelling not in option.flags:
            typed = " ".join(filter(None, ("dnntrain", name, *(operands[:1] if command.operand_choices else ()))))
            owners = " and ".join(find_owners(flag.spelling))
            mistakes.append((f"{typed} has no option {flag.spelling}", f"it is an option of {owners}"))
        elif flag.text is None:
            values[option.key] = not flag.spelling.startswith("--no-")
        else:
            try:
                values[option.key] = option.convert(flag.text)
            except ValueError as error:
                hint = f"as in {flag.spelling} {option.example_text}" if option.example_text else option.doc
                mistakes.append((f"{flag.spelling} {flag.text}: {error}", hint))
    check_effects(options, values, {flag.option.name for flag in flags}, mistakes)
    return values


def _find_config_mistakes(command: Command, settings: Sequence[str], options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the mistakes of the configuration, to report beside those of the line."""
    from dnntrain.config.validate import validate_overrides

    if not command.composes:
        return ()
    try:
        validate_overrides(settings, options.get("config_dir"))
    except ConfigError as error:
        return error.mistakes
    return ()
