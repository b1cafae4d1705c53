"""Compose the trials of a sweep, and find those whose checks and plans stand for others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.config.build_choice import find_option_mistakes
from dnntrain.config.digest import compute_digest
from dnntrain.config.line_composer import ComposedLine, LineComposer
from dnntrain.config.overrides import sort_mistakes
from dnntrain.config.registry import Choice
from dnntrain.errors import ConfigError
from dnntrain.sweep.grid import Combination, make_folder_name
from dnntrain.utils.words import get_key

#: Groups whose real-valued options change neither layout nor memory nor length of a run, as the seed does not.
_FREE_GROUPS = ("optim", "sched", "reg", "augment", "average", "monitor")
_SEED = "seed"


@dataclass(frozen=True)
class ComposedTrial:
    """A trial with its values.

    name   the name of its folder, unless an earlier line has given it another
    model  index of the trial that was planned for it: its own, or one that differs in free numbers only
    """

    combination: Combination
    line: ComposedLine
    name: str
    digest: str
    model: int

    @property
    def config(self) -> dict[str, Any]:
        return self.line.config

    @property
    def label(self) -> str:
        return " ".join(self.combination.swept_words)


def compose_trials(
    combinations: Sequence[Combination], config_dir: Path | None, quiet: bool, composer: LineComposer | None = None
) -> list[ComposedTrial]:
    """Return every trial with its values.

    Raises ConfigError with the mistakes of all, each once.
    """
    composer = composer or LineComposer(config_dir)
    lines: list[ComposedLine] = []
    mistakes: list[str] = []
    for number, combination in enumerate(combinations):
        try:
            lines.append(composer.compose(combination.words, combination.swept_words, quiet=quiet or number > 0))
        except ConfigError as error:
            mistakes += error.mistakes
    if lines and (resume := lines[0].config["resume"]) != "auto":
        mistakes.append(
            f"resume={resume} is for one run; in a sweep each trial resumes by itself\n"
            "     name another run_dir to start again, or init_from=PATH for weights to start from"
        )
    if mistakes:
        raise ConfigError.from_mistakes(sort_mistakes(mistakes, combinations[0].words))
    models = _choose_models(combinations, lines)
    return [
        ComposedTrial(
            combination,
            line,
            make_folder_name(number, len(combinations), combination.swept_words),
            compute_digest(line.config),
            model,
        )
        for number, (combination, line, model) in enumerate(zip(combinations, lines, models, strict=True), 1)
    ]


def _choose_models(combinations: Sequence[Combination], lines: Sequence[ComposedLine]) -> list[int]:
    """Return the trial whose plan each trial shares.

    Of the trials that differ in free numbers only, the first one and both ends of each number are planned.
    """
    classes: dict[tuple[str, ...], list[int]] = {}
    numbers = [_list_free_numbers(line) for line in lines]
    for index, combination in enumerate(combinations):
        shape = tuple(get_key(word) if get_key(word) in numbers[index] else word for word in combination.words)
        classes.setdefault(shape, []).append(index)
    models = list(range(len(lines)))
    for members in classes.values():
        ends = {members[0]}
        for key in numbers[members[0]]:
            values = {index: numbers[index][key] for index in members}
            ends |= {min(values, key=lambda index: values[index]), max(values, key=lambda index: values[index])}
        for index in members:
            models[index] = index if index in ends else members[0]
    return models


def _list_free_numbers(line: ComposedLine) -> dict[str, float]:
    return {
        key: value
        for key, value in line.numbers.items()
        if key == _SEED or (isinstance(value, float) and key.partition(".")[0] in _FREE_GROUPS)
    }


@dataclass(frozen=True)
class ValueCheck:
    """The options of a choice that it has yet to accept. `label` names trial and choice."""

    label: str
    choice: Choice
    values: dict[str, Any]


def list_value_checks(trials: Sequence[ComposedTrial], checked: Collection[int] = ()) -> list[ValueCheck]:
    """Return the checks of trials that are not planned themselves, without those whose indices are in `checked`."""
    return [
        ValueCheck(f"{trial.label}: {key}", *trial.line.get_choice(key))
        for index, trial in enumerate(trials)
        if trial.model != index and index not in checked
        for key in _list_choice_keys(trial)
    ]


def find_value_mistakes(checks: Sequence[ValueCheck]) -> list[str]:
    """Return the mistakes that choices find in their values. This imports their modules."""
    return [f"{check.label}: {text}" for check in checks for text in find_option_mistakes(check.choice, check.values)]


def _list_choice_keys(trial: ComposedTrial) -> list[str]:
    """Return the keys of the choices that have free numbers."""
    return list(dict.fromkeys(key.rpartition(".")[0] for key in _list_free_numbers(trial.line) if key != _SEED))
