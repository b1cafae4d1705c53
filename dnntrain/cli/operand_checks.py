"""Find mistakes in the command, its operands and its options."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dnntrain.cli.command_table import (
    COMMAND_SPELLINGS,
    COMMANDS,
    Command,
)
from dnntrain.cli.options import Option
from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import describe_newest_runs, did_you_mean, find_nearest


def split_command(words: list[str], flags: Sequence[Flag], mistakes: list[tuple[str, str]]) -> tuple[str, list[str]]:
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
            raise make_error([*mistakes, (f"there is no command {command!r}", f"write {line}")])
        problem = f"there is no command {command!r}; {did_you_mean(command, list(COMMANDS))}"
        raise make_error([*mistakes, (problem, _format_command_hint(words, position))])
    return command, words[:position] + words[position + 1 :]


def _format_command_hint(words: list[str], position: int) -> str:
    if position:
        return f"if it belongs to the word before it, use quotes: '{words[position - 1]} {words[position]}'"
    return "dnntrain --help lists the commands; dnntrain ls the groups and their choices"


def check_operands(name: str, command: Command, operands: tuple[str, ...], mistakes: list[tuple[str, str]]) -> None:
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


def check_effects(
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


def check_settings(
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


class Flag(NamedTuple):
    """An option of the line: its spelling, and its text (None for a switch)."""

    spelling: str
    option: Option
    text: str | None


def is_bare(word: str) -> bool:
    """Return whether a word is not a setting: it has no `=`, `+` or `~`."""
    return "=" not in word and not word.startswith(("+", "~"))


def make_error(mistakes: Sequence[tuple[str, str]], config_mistakes: Sequence[str] = ()) -> ConfigError:
    """Return the error that lists all mistakes."""
    if len(mistakes) == 1 and not config_mistakes:
        return ConfigError(mistakes[0][0], mistakes[0][1].replace("\n", "\n  "))
    texts = [f"{problem}\n{hint}".replace("\n", "\n     ") for problem, hint in mistakes]
    return ConfigError.from_mistakes([*texts, *config_mistakes])
