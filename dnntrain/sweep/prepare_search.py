"""Prepare a search: read its space, check both ends of it, and divide the machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.config.decode import decode_config, decode_light_config
from dnntrain.config.digest import compute_digest
from dnntrain.config.line_composer import LineComposer
from dnntrain.config.registry import load_registry
from dnntrain.errors import ConfigError
from dnntrain.protocols import MetricInfo
from dnntrain.protocols.metric import find_metric
from dnntrain.sweep.compose_trials import compose_trials
from dnntrain.sweep.grid import leave_out_folder, make_folder_name
from dnntrain.sweep.option_values import RuleName, SamplerName
from dnntrain.sweep.prepare import (
    check_without_torch,
    choose_folder,
    list_cores,
    list_devices,
    prepare_trial,
)
from dnntrain.sweep.resources import Resources, divide_machine
from dnntrain.sweep.samplers import import_optuna
from dnntrain.sweep.search_space import SearchSpace, read_search_space
from dnntrain.sweep.sweep_directory import Trial
from dnntrain.utils.words import add_config_dir

#: Figures of result.json that a search may optimize, besides the metrics of the task.
FIGURES = (
    MetricInfo("parameters"),
    MetricInfo("step_ms", unit="ms"),
    MetricInfo("train_s", unit="s"),
    MetricInfo("peak_memory_mb", unit="MB"),
    MetricInfo("examples_per_s", higher_is_better=True, unit="1/s"),
)

#: Trials of a search if --trials does not say.
DEFAULT_TRIALS = 20


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search, as the command line has them.

    Raises ConfigError for options that exclude each other.
    """

    search: SamplerName = "grid"
    trials: int | None = None
    stop_early: RuleName | None = None
    metrics: tuple[str, ...] = ()
    jobs: int | None = None

    def __post_init__(self) -> None:
        if len(self.metrics) > 1 and self.search != "nsga2":
            raise ConfigError("several metrics need --search nsga2", "use it, or name one metric")
        if len(self.metrics) > 1 and self.stop_early:
            raise ConfigError("--stop-early compares one metric", "leave it out, or name one metric")
        if self.search == "grid" and self.trials is not None:
            raise ConfigError("--search grid trains every combination", "leave out --trials, or use --search random")

    def list_words(self) -> list[str]:
        """Return the options as words of a command line."""
        values = {
            "search": self.search,
            "trials": self.trials,
            "stop-early": self.stop_early,
            "metrics": ",".join(self.metrics) or None,
            "jobs": self.jobs,
        }
        return [f"--{name}={value}" for name, value in values.items() if value is not None]


@dataclass(frozen=True)
class Search:
    """A checked search.

    metrics        the metrics that it optimizes
    trial_metric   the metric of each trial, which the table shows
    num_trials     number of trials at most; None: every combination
    resource_sets  the parts of the machine, one for each trial that runs at once
    composer       composes the lines of its trials
    """

    folder: Path
    space: SearchSpace
    options: SearchOptions
    metrics: tuple[MetricInfo, ...]
    trial_metric: MetricInfo
    seed: int
    resource_sets: tuple[Resources, ...]
    composer: LineComposer
    config_dir: Path | None = None
    identity: Mapping[str, Any] | None = None

    @property
    def num_trials(self) -> int | None:
        if self.options.search == "grid":
            return None
        return self.options.trials or DEFAULT_TRIALS


def prepare_search(
    overrides: Sequence[str], options: SearchOptions, config_dir: Path | None = None, *, quiet: bool = False
) -> Search:
    """Compose, check and plan trials that together have both ends and every choice of each dimension.

    Raises ConfigError that lists the mistakes of all of them.
    """
    space = read_search_space(overrides, load_registry(config_dir).list_names)
    if options.search != "grid":
        import_optuna()
    probes = space.list_probes()
    composer = LineComposer(config_dir)
    trials = compose_trials(probes, config_dir, quiet, composer)
    configs = [trial.config for trial in trials]
    identity = _make_identity(space, options, configs[0])
    folder = choose_folder(configs, "search", json.dumps(identity, sort_keys=True))
    if (folder / "config.yaml").exists():
        raise ConfigError(f"{folder} is the folder of a single run", "name another run_dir")
    words = leave_out_folder(overrides)
    _check_local(configs, options, [*add_config_dir(config_dir, words), f"run_dir={folder}"])
    check_without_torch(trials, folder)
    mistakes: list[str] = []
    planned: list[Trial] = []
    for number, (combination, config) in enumerate(zip(probes, configs, strict=True), 1):
        try:
            path = folder / make_folder_name(number, len(probes), combination.swept_words)
            trial, hardware = prepare_trial(number, combination, config, path)
        except ConfigError as error:
            mistakes += [f"{' '.join(combination.swept_words)}: {text}" for text in error.mistakes]
            continue
        planned.append(trial)
    if mistakes:
        raise ConfigError.from_mistakes(list(dict.fromkeys(mistakes)))
    demands = [trial.demand for trial in planned]
    devices = list_devices(hardware) if any(demand.devices for demand in demands) else ()
    # As many trials as there are cores may run at once, whatever the number of probes.
    demands += [demands[0]] * len(list_cores())
    resource_sets = divide_machine(demands, devices, list_cores(), hardware.memory_bytes, options.jobs)
    metrics = _choose_metrics(options, configs)
    _check_early_stop(options, planned, metrics[0])
    seed = int(configs[0]["seed"])
    return Search(
        folder, space, options, metrics, trial.info, seed, tuple(resource_sets), composer, config_dir, identity
    )


def _check_local(configs: Sequence[Mapping[str, Any]], options: SearchOptions, words: Sequence[str]) -> None:
    """Reject trials for a job queue: a search waits for their results, and divides this machine among them."""
    choice = next((c for c in (decode_light_config(config)[0].launch for config in configs) if c.scheduler), None)
    if choice is None:
        return
    hint = "start the search on a node: launch=local"
    if choice.nodes == 1:
        hint = f"one job for all trials: {choice.make_sweep_command([*options.list_words(), *words])}"
    raise ConfigError("a search does not support launch=slurm, because it waits for the results of its trials", hint)


def _choose_metrics(options: SearchOptions, configs: Sequence[Mapping[str, Any]]) -> tuple[MetricInfo, ...]:
    """Return the metrics that --metrics names, by default the run's own.

    Raises ConfigError if a trial has no validation split to measure them on.
    """
    decoded = decode_config(configs[0])
    infos = (*decoded.task.list_infos(), *FIGURES)
    metrics = tuple(find_metric(name, infos, "--metrics") for name in options.metrics or (decoded.eval.metric,))
    names = [metric.name for metric in metrics if metric not in FIGURES]
    if names and any(config["data"].get("val_fraction", 1) == 0 for config in configs):
        raise ConfigError(
            f"a search for {names[0]} needs the validation split, which is empty with data.val_fraction=0",
            "use data.val_fraction=0.1, or --metrics train_s",
        )
    return metrics


def _check_early_stop(options: SearchOptions, trials: Sequence[Trial], metric: MetricInfo) -> None:
    """Reject --stop-early where a trial has no values to compare at a step, so that it would stop none."""
    if options.stop_early is None:
        return
    if metric in FIGURES:
        raise ConfigError(
            f"--stop-early compares validations, and {metric.name} is known at the end of a trial",
            "leave it out, or name a metric of the task",
        )
    for trial in trials:
        if trial.config["folds"] is not None and trial.config["fold"] is None:
            raise ConfigError("--stop-early does not support folds, because a trial is several runs", "leave one out")
        if not trial.total_steps:
            raise ConfigError(
                "--stop-early compares trials after the same steps, and the steps of "
                f"train.duration={trial.config['train']['duration']} are unknown",
                "use train.duration=10ep or 5000step",
            )


def _make_identity(space: SearchSpace, options: SearchOptions, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes two searches the same: space, fixed settings, sampler, rule and metrics.

    The number of trials may change: more of them continue a search.
    """
    fixed = leave_out_folder([word for word in space.words if isinstance(word, str)])
    return {
        "sampler": options.search,
        "stop_early": options.stop_early,
        "metrics": list(options.metrics),
        "fixed": list(fixed),
        "space": [dimension.as_json() for dimension in space.dimensions],
        "digest": compute_digest(config),
    }
