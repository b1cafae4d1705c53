"""Compose and check every stage of a pipeline before one of them starts. Imports torch only if data differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_light_config
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.pipeline.definition import INPUTS, Definition, Stage
from dnntrain.pipeline.keys import compute_code_digest, compute_stage_key
from dnntrain.pipeline.stage_runs import StageRun, make_folder_name
from dnntrain.planning.checks.early import check_resumed_run
from dnntrain.utils.files import is_run_directory
from dnntrain.utils.words import get_key
from dnntrain.utils.world import World


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline: its folder, and the runs of all stages in the order in which they are made."""

    definition: Definition
    folder: Path
    runs: tuple[StageRun, ...]
    code: str
    config_dir: Path | None = None

    @property
    def name(self) -> str:
        return self.definition.name

    def list_runs(self, stage: str) -> list[StageRun]:
        """Return the runs of a stage by their seeds."""
        return [run for run in self.runs if run.stage == stage]

    @property
    def final_run(self) -> StageRun:
        """The first run of the last stage."""
        return self.list_runs(self.definition.final.name)[0]


def prepare_pipeline(definition: Definition, config_dir: Path | None = None) -> Pipeline:
    """Compose every stage. Raises ConfigError that lists the mistakes of all, or DataError."""
    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            "a pipeline cannot run under torchrun, because every rank would run all of it",
            "start it without torchrun; it starts launch.nproc processes for each stage itself",
        )
    folder = Path(definition.run_dir or f"runs/{definition.name}").expanduser().absolute()
    if is_run_directory(folder):
        raise ConfigError(f"{folder} is the folder of a single run", "name another run_dir")
    code = compute_code_digest()
    runs: dict[str, list[StageRun]] = {}
    mistakes: list[str] = []
    for stage in definition.stages:
        try:
            runs[stage.name] = _make_runs(definition, stage, runs, folder, code, config_dir)
        except ConfigError as error:
            mistakes += [f"stage {stage.name}: {text}" for text in error.mistakes]
            if not any(stage.name in other.inputs.values() for other in definition.stages):
                continue
            break
    if mistakes:
        raise ConfigError.from_mistakes(list(dict.fromkeys(mistakes)))
    all_runs = tuple(run for stage in definition.stages for run in runs[stage.name])
    _check_settings(all_runs)
    return Pipeline(definition, folder, all_runs, code, config_dir)


def _make_runs(
    definition: Definition,
    stage: Stage,
    runs: dict[str, list[StageRun]],
    folder: Path,
    code: str,
    config_dir: Path | None,
) -> list[StageRun]:
    """Return the runs of a stage. Run i takes from run i of its source, or from the first if there are fewer."""
    stage_runs: list[StageRun] = []
    base: dict[str, Any] = {}
    for number in range(stage.seeds):
        inputs = {
            option: runs[source][number if number < len(runs[source]) else 0] for option, source in stage.inputs.items()
        }
        words = [*stage.words, *(f"{INPUTS[option]}={run.folder}" for option, run in inputs.items())]
        words.append(f"name={definition.name}-{stage.name}")
        if not base:
            base = compose(words, config_dir, quiet=True)
        config = {**base, "seed": base["seed"] + number}
        for option, run in inputs.items():
            config = _set_value(config, INPUTS[option], str(run.folder))
        if number:
            words = [*(word for word in words if get_key(word) != "seed"), f"seed={config['seed']}"]
        bare = config
        for option in inputs:
            bare = _set_value(bare, INPUTS[option], "")
        key = compute_stage_key(bare, {option: run.key for option, run in inputs.items()}, code)
        path = folder / make_folder_name(stage.name, number, key)
        stage_runs.append(
            StageRun(stage.name, number, tuple(words), {**config, "run_dir": str(path)}, key, path, inputs)
        )
    return stage_runs


def _set_value(config: dict[str, Any], key: str, value: str) -> dict[str, Any]:
    group, _, option = key.rpartition(".")
    return {**config, group: {**config[group], option: value}} if group else {**config, key: value}


def _check_settings(runs: Sequence[StageRun]) -> None:
    """Raise the mistakes of all stages that are found before one of them runs."""
    mistakes: list[str] = []
    errors: list[DnntrainError] = []
    for run in runs:
        if run.number:
            continue
        try:
            check_resumed_run(run.config, World())
            config = decode_light_config(run.config)[0]
            if config.launch.scheduler:
                raise ConfigError(
                    "a pipeline does not support launch=slurm, because it waits for each stage", "use launch=local"
                )
            config.data.check_files()
        except ConfigError as error:
            mistakes += [f"stage {run.stage}: {text}" for text in error.mistakes]
        except DnntrainError as error:
            error.message = f"stage {run.stage}: {error.message}"
            errors.append(error)
    if mistakes:
        raise ConfigError.from_mistakes(list(dict.fromkeys([*mistakes, *map(str, errors)])))
    if errors:
        raise errors[0]
    for run in runs:
        for option, source in run.inputs.items():
            if run.number == 0 and run.config["data"] != source.config["data"]:
                _check_classes(run, option, source)


def _check_classes(run: StageRun, option: str, source: StageRun) -> None:
    """Raise ConfigError if a stage takes a model for other classes or images than its data have."""
    from dnntrain.config.decode import decode_config
    from dnntrain.protocols import TaskFeature

    config = decode_config(run.config)
    dataset, source_dataset = config.data.build(), decode_config(source.config).data.build()
    # A method that reads features only takes a teacher of any classes; a new head is initialized.
    reads_classes = (
        bool(config.distill.needs & {TaskFeature.CLASS_LOGITS, TaskFeature.SOFTMAX_LOGITS})
        if option == "teacher"
        else not config.init_replace_head
    )
    names, source_names = dataset.targets.names, source_dataset.targets.names
    reason = ""
    if dataset.inputs.shape != source_dataset.inputs.shape and option == "teacher":
        shapes = ("x".join(map(str, item.inputs.shape)) for item in (source_dataset, dataset))
        reason = "images of {}, but the data of the stage have {}".format(*shapes)
    elif reads_classes and names != source_names:
        place = next(
            (place for place, pair in enumerate(zip(source_names, names, strict=False)) if len(set(pair)) > 1), 0
        )
        reason = (
            f"{len(source_names)} classes, but the data of the stage have {len(names)}"
            if len(names) != len(source_names)
            else f"other classes: class {place} is {source_names[place]!r}, but {names[place]!r} in the data of the stage"
        )
    if reason:
        choices = [item.config["choices"]["data"] for item in (run, source)]
        raise ConfigError(
            f"stage {run.stage}: its {'teacher' if option == 'teacher' else 'source'} {source.stage} is trained on {reason}",
            f"use {run.stage}.data={choices[1]}, or {source.stage}.data={choices[0]}",
        )
