"""Parse the command line: the command, its operands, its options, and the settings KEY=VALUE.

words ─ split ─► flags and words ─ command ─► its options, operands and settings ─ check all ─► Arguments

All mistakes of a line are reported together, with the mistakes of the configuration.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from dnntrain.cli.command_table import (
    COMMAND_SPELLINGS,
    COMMANDS,
    COMMON_OPTIONS,
    Command,
    find_owners,
    iterate_options,
)
from dnntrain.cli.options import WORD_SEPARATOR, Option
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import describe_newest_runs, did_you_mean, find_nearest

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


class _Flag(NamedTuple):
    """An option of the line: its spelling, and its text (None for a switch)."""

    spelling: str
    option: Option
    text: str | None


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
    name, rest = _split_command(words, flags, mistakes)
    command = COMMANDS[name]
    overrides = tuple(word for word in rest if _is_override(word, command))
    positional = tuple(word for word in rest if not _is_override(word, command))
    _check_operands(name, command, positional, mistakes)
    options = _read_options(name, command, positional, flags, mistakes)
    settings = _check_settings(name, command, positional, overrides, mistakes)
    if mistakes:
        raise _make_error(mistakes, _find_config_mistakes(command, settings, options))
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


def is_bare(word: str) -> bool:
    """Return whether a word is not a setting: it has no `=`, `+` or `~`."""
    return "=" not in word and not word.startswith(("+", "~"))


def _is_override(word: str, command: Command) -> bool:
    """Return whether a word is KEY=VALUE, +KEY=VALUE or ~KEY. A path may hold `=` behind a slash or dot."""
    if not command.operands:
        return not is_bare(word)
    return re.match(r"[+~]|[A-Za-z_][\w.@:]*=", word) is not None


def _split_flags(argv: Sequence[str], mistakes: list[tuple[str, str]]) -> tuple[list[str], list[_Flag]]:
    """Return the words that are not flags, and the flags."""
    options = {flag: option for option in [*iterate_options()][::-1] for flag in option.flags}
    words: list[str] = []
    flags: list[_Flag] = []
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
            flags.append(_Flag(spelling, options[spelling], None))
        elif not equals and (not rest or rest[0].partition("=")[0] in options):
            option = options[spelling]
            example = option.default_text or option.placeholder or option.name.upper()
            mistakes.append((f"{spelling} needs a value", f"as in {spelling} {example}"))
        else:
            words_of_option = [text if equals else rest.pop(0)]
            while options[spelling].takes_many and rest and not rest[0].startswith("-"):
                words_of_option.append(rest.pop(0))
            flags.append(_Flag(spelling, options[spelling], WORD_SEPARATOR.join(words_of_option)))
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


def _split_command(words: list[str], flags: Sequence[_Flag], mistakes: list[tuple[str, str]]) -> tuple[str, list[str]]:
    """Return the command, and the words without it. Raises ConfigError for an unknown command."""
    spellings = {flag.option.name: flag for flag in flags if flag.option in COMMAND_SPELLINGS}
    if "cfg" in spellings and spellings["cfg"].text != "job":
        mistakes.append(
            (f"--cfg {spellings['cfg'].text} is not used here", "--cfg job prints the resolved configuration")
        )
    if "resolve" in spellings and "cfg" not in spellings:
        mistakes.append(("--resolve goes with --cfg job", "dnntrain config is always resolved"))
    position = next((position for position, word in enumerate(words) if is_bare(word)), None)
    if "cfg" in spellings or "multirun" in spellings:
        command = "config" if "cfg" in spellings else "sweep"
        if position is not None and words[position] in ("train", command):
            words = words[:position] + words[position + 1 :]
        if command == "sweep" and "WORLD_SIZE" in os.environ:
            raise ConfigError(
                "-m cannot run under torchrun, because every rank would run the whole sweep",
                "start it without torchrun; a sweep starts the processes of each trial itself (launch.nproc)",
            )
        return command, words
    if position is None:
        return "train", words
    command = words[position]
    if command not in COMMANDS:
        from dnntrain.cli.foreign_lines import translate_command

        if line := translate_command(command, words[position + 1 :]):
            raise _make_error([*mistakes, (f"there is no command {command!r}", f"write {line}")])
        problem = f"there is no command {command!r}; {did_you_mean(command, list(COMMANDS))}"
        raise _make_error([*mistakes, (problem, _format_command_hint(words, position))])
    return command, words[:position] + words[position + 1 :]


def _format_command_hint(words: list[str], position: int) -> str:
    if position:
        return f"if it belongs to the word before it, use quotes: '{words[position - 1]} {words[position]}'"
    return "dnntrain --help lists the commands; dnntrain ls the groups and their choices"


def _check_operands(name: str, command: Command, operands: tuple[str, ...], mistakes: list[tuple[str, str]]) -> None:
    """Note too few, too many or unknown operands."""
    if not command.operands:
        if operands:
            problem = f"{name} takes settings only, as in optim.lr=0.1; {operands[0]!r} is not a setting"
            from dnntrain.cli.foreign_lines import translate_operands

            line = translate_operands(operands) if command.composes else ""
            mistakes.append(
                (problem, f"write {line}" if line else "put a value with spaces in quotes: 'name=two words'")
            )
        return
    example = f"as in: {next((text for text in command.examples if text.startswith('dnntrain')), '')}"
    if choices := command.operand_choices:
        text = " ".join(operands)
        if text not in choices:
            problem = f"{name} takes one of {', '.join(choices)}" + (f", not {text!r}" if text else "")
            mistakes.append((problem, did_you_mean(text, choices) if text else f"as in: dnntrain {name} {choices[0]}"))
        return
    fewest, most = command.operand_counts
    if not fewest <= len(operands) <= most:
        problem = f"dnntrain {name} takes {command.operands}, but the line has {len(operands)}"
        mistakes.append((problem, f"{example}\n{describe_newest_runs()}" if "RUN" in command.operands else example))


def _read_options(
    name: str, command: Command, operands: tuple[str, ...], flags: Sequence[_Flag], mistakes: list[tuple[str, str]]
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
                hint = f"as in {flag.spelling} {option.default_text}" if option.default_text else option.doc
                mistakes.append((f"{flag.spelling} {flag.text}: {error}", hint))
    _check_effects(options, values, {flag.option.name for flag in flags}, mistakes)
    return values


def _check_effects(
    options: Mapping[str, Option], values: Mapping[str, Any], given: set[str], mistakes: list[tuple[str, str]]
) -> None:
    """Note options of the line without effect because of the value of another."""
    for option in options.values():
        if option.needs is None or option.name not in given:
            continue
        other, needed = option.needs
        if values[options[other].key] not in needed:
            problem = f"--{option.name} has no effect with --{other} {values[options[other].key]}"
            mistakes.append((problem, f"use --{other} {' or '.join(needed)}"))


def _check_settings(
    name: str, command: Command, operands: tuple[str, ...], overrides: Sequence[str], mistakes: list[tuple[str, str]]
) -> list[str]:
    """Note settings that the command does not take, and options that are written as settings.

    Returns the other settings.
    """
    settings = []
    options = {option.key: option for option in command.select_options(operands).values()}
    for word in overrides:
        key, _, value = word.lstrip("+").partition("=")
        option = None if "." in key else _find_option(key, options)
        if option is not None and option.key == key:
            mistakes.append((f"{word}: {key} is an option, not a setting", option.format_setting(value)))
        elif option is not None:
            mistakes.append((f"{word}: there is no setting {key!r}", f"did you mean {option.format_setting(value)}?"))
        elif command.settings is not None and key not in command.settings:
            hint = f"it takes {', '.join(f'{key}=' for key in command.settings)} only" if command.settings else ""
            mistakes.append((f"{name} takes no settings: {word}", hint or f"dnntrain {name} --help"))
        else:
            settings.append(word)
    return settings


def _find_option(key: str, options: Mapping[str, Option]) -> Option | None:
    """Return the option that a key outside of the configuration probably means."""
    from dnntrain.config.groups import GROUPS
    from dnntrain.config.key_table import get_root_fields
    from dnntrain.config.run_config import SECTIONS

    keys = [*GROUPS, *SECTIONS, *get_root_fields()]
    if key in keys:
        return None
    option = options.get(key) or options.get(find_nearest(key, [*options, *keys]) or "")
    if option is not None and option.key != key:
        from dnntrain.config.foreign_words import is_foreign_word

        return None if is_foreign_word(key) else option
    return option


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


def _make_error(mistakes: Sequence[tuple[str, str]], config_mistakes: Sequence[str] = ()) -> ConfigError:
    """Return the error that lists all mistakes."""
    if len(mistakes) == 1 and not config_mistakes:
        return ConfigError(mistakes[0][0], mistakes[0][1].replace("\n", "\n  "))
    texts = [f"{problem}\n{hint}".replace("\n", "\n     ") for problem, hint in mistakes]
    return ConfigError.from_mistakes([*texts, *config_mistakes])
