"""Read a pipeline: `conf/pipeline/NAME.yaml` and the words of a command line. Imports no torch.

    settings:                # of every stage, as on the command line
      data: fashion_mnist
    stages:
      - name: teacher
        model: resnet20
      - name: student
        from: {teacher: teacher}
        model: small_cnn
        distill: kd

`from` says which stage a setting takes its model from: `init_from` for initial weights, `teacher`
for distill.teacher. `from: STAGE` means `{init_from: STAGE}`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dnntrain.config.groups import GROUPS
from dnntrain.config.key_table import get_root_fields
from dnntrain.config.registry import load_registry
from dnntrain.config.run_config import SECTIONS
from dnntrain.config.yaml_io import YamlFile, read_yaml
from dnntrain.errors import ConfigError
from dnntrain.pipeline.settings import format_settings, merge_words, select_words
from dnntrain.utils.suggest import did_you_mean, find_nearest
from dnntrain.utils.words import get_key

#: Keys of `from` in a stage → the setting that names the run.
INPUTS = {"init_from": "init_from", "teacher": "distill.teacher"}
_MAX_SEEDS = 100
_RESERVED = ("name", "from", "seeds")
_NETWORK_GROUPS = ("model", "norm")


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline.

    inputs  input → stage that it comes from; the inputs are the keys of `INPUTS`
    words   its settings, without those that name runs
    seeds   number of runs, with seed, seed + 1 and so on
    """

    name: str
    inputs: Mapping[str, str]
    words: tuple[str, ...]
    seeds: int = 1


@dataclass(frozen=True)
class Definition:
    """A pipeline: its stages in an order in which each comes after the stages that it takes from."""

    name: str
    stages: tuple[Stage, ...]
    run_dir: str | None = None

    @property
    def final(self) -> Stage:
        """The stage whose model is the result: the last one."""
        return self.stages[-1]

    def get_stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def list_sources(self, name: str) -> list[str]:
        """Return the stages that a stage depends on, and itself, in order."""
        needed = {name}
        for stage in reversed(self.stages):
            if stage.name in needed:
                needed |= set(stage.inputs.values())
        return [stage.name for stage in self.stages if stage.name in needed]


def list_pipelines(config_dir: Path | None = None) -> dict[str, Path]:
    """Return the file of each pipeline by its name; dnntrain's own come first."""
    files: dict[str, Path] = {}
    for source in load_registry(config_dir).sources:
        for path in sorted((source.conf / "pipeline").glob("*.yaml")):
            files.setdefault(path.stem, path)
    return files


def read_definition(name: str, overrides: Sequence[str], config_dir: Path | None = None) -> Definition:
    """Return the pipeline `name` with the words of a command line.

    Raises ConfigError that lists every mistake.
    """
    files = list_pipelines(config_dir)
    if name not in files:
        raise ConfigError(
            f"there is no pipeline {name!r}; {did_you_mean(name, list(files))}", "dnntrain pipeline --help"
        )
    file = read_yaml(files[name])
    mistakes: list[str] = []
    stages = _read_stages(file, mistakes)
    if mistakes:
        raise ConfigError.from_mistakes(mistakes)
    shared, stage_words, seeds, run_dir = _split_overrides(overrides, [stage.name for stage in stages], mistakes)
    common = format_settings(file.values.get("settings") or {})
    mistakes += _find_input_mistakes(stages, {word for words in (common, shared) for word in words}, stage_words)
    if mistakes:
        raise ConfigError.from_mistakes(mistakes)
    stages = [
        replace(stage, words=words, seeds=seeds.get(stage.name, seeds.get("", stage.seeds)))
        for stage, words in _complete_words(order_stages(stages), common, shared, stage_words)
    ]
    return Definition(name, tuple(stages), run_dir)


def _read_stages(file: YamlFile, mistakes: list[str]) -> list[Stage]:
    items = file.values.get("stages")
    location = file.get_location(("stages",))
    for key in file.values:
        if key not in ("settings", "stages"):
            hint = did_you_mean(key, ["settings", "stages"])
            mistakes.append(f"{file.get_location((key,))}: a pipeline has no key {key!r}\n     {hint}")
    if not isinstance(items, list) or not items:
        mistakes.append(f"{location}: stages must be a list with one stage or more")
        return []
    if not isinstance(file.values.get("settings") or {}, dict):
        mistakes.append(f"{file.get_location(('settings',))}: settings must be `key: value` lines")
    stages: list[Stage] = []
    for number, item in enumerate(items, 1):
        try:
            stages.append(_read_stage(item, [stage.name for stage in stages]))
        except ValueError as error:
            mistakes.append(f"{location}: stage {number}: {error}")
    return stages


def _read_stage(item: Any, earlier: Sequence[str]) -> Stage:
    if not isinstance(item, dict):
        raise ValueError("must be `key: value` lines, with the key name")
    name, source, seeds = (item.get(key) for key in _RESERVED)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"name must be a word of small letters, digits and _, not {name!r}")
    if name in earlier:
        raise ValueError(f"the name {name} is used twice")
    if name in (*GROUPS, *SECTIONS, *get_root_fields()):
        raise ValueError(f"the name {name} is a key of the configuration; use another word, such as {name}_stage")
    inputs = {"init_from": source} if isinstance(source, str) else {} if source is None else source
    if not isinstance(inputs, dict) or not all(isinstance(value, str) for value in inputs.values()):
        raise ValueError("from must name a stage, or name the stage of each setting: {teacher: STAGE}")
    for key in inputs:
        if key not in INPUTS:
            raise ValueError(f"from has no {key!r}; {did_you_mean(key, list(INPUTS))}")
    settings = {key: value for key, value in item.items() if key not in _RESERVED}
    return Stage(name, inputs, tuple(format_settings(settings)), 1 if seeds is None else _parse_seeds(seeds))


def _parse_seeds(value: Any) -> int:
    text = str(value)
    if not text.isdigit() or not 1 <= int(text) <= _MAX_SEEDS:
        raise ValueError(f"seeds={text} must be a whole number from 1 to {_MAX_SEEDS}")
    return int(text)


def _split_overrides(
    overrides: Sequence[str], names: Sequence[str], mistakes: list[str]
) -> tuple[list[str], dict[str, list[str]], dict[str, int], str | None]:
    """Return the words of all stages, those of each stage, the numbers of seeds ("" for all), and run_dir."""
    shared: list[str] = []
    stage_words: dict[str, list[str]] = {}
    seeds: dict[str, int] = {}
    run_dir = None
    known = {*GROUPS, *SECTIONS, *get_root_fields(), "seeds"}
    for word in overrides:
        sign, key = word[: len(word) - len(word.lstrip("+~"))], get_key(word)
        first, _, rest = key.partition(".")
        stage = first if first in names and rest else ""
        setting = f"{sign}{rest}{word[len(sign) + len(key) :]}" if stage else word
        target = rest if stage else key
        if not stage and first not in known and rest and (nearest := find_nearest(first, list(names))):
            mistakes.append(f"{word}: there is no stage {first!r}\n     did you mean {nearest}.{rest}?")
        elif target in ("name", "resume") or (target == "run_dir" and stage):
            mistakes.append(
                f"{word} cannot be set: the pipeline names and resumes the run of each stage\n     leave it out"
            )
        elif target in INPUTS.values():
            option = next(option for option, key_of_input in INPUTS.items() if key_of_input == target)
            mistakes.append(
                f"{word} cannot be set: the stage takes it from another stage\n"
                f"     write `from: {{{option}: STAGE}}` in a pipeline of your own, with --config-dir"
            )
        elif target == "run_dir":
            run_dir = word.partition("=")[2]
        elif target == "seeds":
            try:
                seeds[stage] = _parse_seeds(word.partition("=")[2])
            except ValueError as error:
                mistakes.append(f"{word}: {error}\n     as in {key}=3")
        elif stage:
            stage_words.setdefault(stage, []).append(setting)
        else:
            shared.append(word)
    return shared, stage_words, seeds, run_dir


def _find_input_mistakes(
    stages: Sequence[Stage], shared: Collection[str], stage_words: Mapping[str, Sequence[str]]
) -> list[str]:
    names = [stage.name for stage in stages]
    mistakes = []
    for stage in stages:
        for option, source in stage.inputs.items():
            if source not in names:
                hint = did_you_mean(source, [name for name in names if name != stage.name])
                mistakes.append(f"stage {stage.name}: from names {source!r}, which is not a stage\n     {hint}")
            elif option == "teacher" and "distill" not in map(
                get_key, (*shared, *stage.words, *stage_words.get(stage.name, ()))
            ):
                mistakes.append(
                    f"stage {stage.name}: its teacher {source} has no effect without distill\n"
                    f"     set {stage.name}.distill=kd, or leave `teacher` out of `from`"
                )
    if not mistakes and (circle := find_circle(stages)):
        links = " → ".join((*circle, circle[0]))
        mistakes.append(
            f"the stages {', '.join(circle)} take from each other in a circle: {links}\n"
            f"     leave `from: {circle[1 % len(circle)]}` out of {circle[0]}"
        )
    return mistakes


def find_circle(stages: Sequence[Stage]) -> list[str]:
    """Return stages of which each takes from the next, and the last from the first; empty if there are none."""
    sources = {stage.name: tuple(dict.fromkeys(stage.inputs.values())) for stage in stages}

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        for source in sources[name]:
            if circle := search(source, [*path, name]):
                return circle
        return []

    return next((circle for name in sources if (circle := search(name, []))), [])


def order_stages(stages: Sequence[Stage]) -> list[Stage]:
    """Return the stages so that each comes after those that it takes from, else in their given order."""
    ordered: list[Stage] = []
    waiting = list(stages)
    while waiting:
        done = {stage.name for stage in ordered}
        following = next(stage for stage in waiting if set(stage.inputs.values()) <= done)
        waiting.remove(following)
        ordered.append(following)
    return ordered


def _complete_words(
    stages: Sequence[Stage], common: Sequence[str], shared: Sequence[str], stage_words: Mapping[str, Sequence[str]]
) -> Iterator[tuple[Stage, tuple[str, ...]]]:
    """Yield each stage with all its words: common ones, its own, and those of the command line.

    A stage that starts from the weights of another has the network of that stage, unless it names
    one: the words of `model` and `norm` that are special to that stage.
    """
    file_words: dict[str, list[str]] = {}
    line_words: dict[str, list[str]] = {}
    for stage in stages:
        line = stage_words.get(stage.name, ())
        source = stage.inputs.get("init_from")
        groups = [group for group in _NETWORK_GROUPS if group not in map(get_key, (*stage.words, *line))]
        inherited = [
            [] if source is None else select_words(words[source], groups) for words in (file_words, line_words)
        ]
        file_words[stage.name] = merge_words([inherited[0], stage.words])
        line_words[stage.name] = merge_words([inherited[1], line])
        yield stage, tuple(merge_words([common, file_words[stage.name], shared, line_words[stage.name]]))
