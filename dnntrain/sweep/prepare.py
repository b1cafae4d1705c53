"""Prepare a sweep: compose, check and plan every trial before any of them starts.

Only the parent process composes. It lists every mistake of every trial at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnntrain.config.decode import decode_config, decode_light_config
from dnntrain.config.digest import compute_digest
from dnntrain.config.registry import load_registry
from dnntrain.config.saved_config import read_saved_config
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.sweep.check_process import CheckProcess
from dnntrain.sweep.compose_trials import ComposedTrial, compose_trials, find_value_mistakes, list_value_checks
from dnntrain.sweep.grid import Combination, leave_out_folder, make_combinations
from dnntrain.sweep.resources import ResourceDemand, Resources, divide_machine
from dnntrain.sweep.sweep_directory import Trial
from dnntrain.sweep.trial_list import read_names_by_digest
from dnntrain.utils.words import get_key
from dnntrain.utils.world import World

if TYPE_CHECKING:
    from dnntrain.sweep.queued_sweep import QueuedSweep
    from dnntrain.utils.hardware import Hardware


@dataclass(frozen=True)
class Sweep:
    """A checked sweep: its folder, its trials, and their parts of the machine."""

    folder: Path
    trials: tuple[Trial, ...]
    resource_sets: tuple[Resources, ...]


def prepare_sweep(
    overrides: Sequence[str], config_dir: Path | None = None, *, jobs: int | None = None, quiet: bool = False
) -> Sweep | QueuedSweep:
    """Compose, check and plan every trial; trials that are jobs of a queue are planned there.

    Raises ConfigError that lists the mistakes of all of them. `jobs` trials run at once; None: as
    many as fit on the machine.
    """
    # A sweep that sets its launch may be queued, and its trials are then checked without a plan.
    with CheckProcess(is_useful="launch" in map(get_key, overrides)) as checker:
        return _prepare_sweep(overrides, config_dir, jobs, quiet, checker)


def _prepare_sweep(
    overrides: Sequence[str], config_dir: Path | None, jobs: int | None, quiet: bool, checker: CheckProcess
) -> Sweep | QueuedSweep:
    trials = compose_trials(make_combinations(overrides, load_registry(config_dir).list_names), config_dir, quiet)
    _check_distinct(trials)
    configs = [trial.config for trial in trials]
    folder = choose_folder(configs, "sweep", make_identity(trial.digest for trial in trials))
    mistakes = [f"{folder} is the folder of a single run\n     name another run_dir"] * (
        folder / "config.yaml"
    ).exists()
    paths = _name_folders(trials, folder)
    mistakes += [reason for path, config in zip(paths, configs, strict=True) for reason in _find_changed(path, config)]
    if _is_queued(configs):
        return _prepare_queued(trials, paths, folder, mistakes, checker)
    planned = [index for index, trial in enumerate(trials) if trial.model == index]
    check_without_torch([trials[index] for index in planned], folder)
    plans: dict[int, Trial] = {}
    devices: tuple[str, ...] = ()
    memory_bytes = 0
    for index in planned:
        composed = trials[index]
        try:
            plans[index], hardware = prepare_trial(index + 1, composed.combination, composed.config, paths[index])
        except ConfigError as error:
            mistakes += [f"{composed.label}: {text}" for text in error.mistakes]
            continue
        memory_bytes = hardware.memory_bytes
        devices = max(devices, list_devices(hardware) if plans[index].demand.devices else (), key=len)
    mistakes += find_value_mistakes(list_value_checks(trials))
    if mistakes:
        raise ConfigError.from_mistakes(list(dict.fromkeys(mistakes)))
    prepared = [_copy_plan(trial, plans, index, paths[index]) for index, trial in enumerate(trials)]
    demands = [trial.demand for trial in prepared]
    return Sweep(folder, tuple(prepared), tuple(divide_machine(demands, devices, list_cores(), memory_bytes, jobs)))


def _copy_plan(composed: ComposedTrial, plans: Mapping[int, Trial], index: int, path: Path) -> Trial:
    """Return a trial with the plan that was made for it, or for the trial whose plan it shares."""
    if index in plans:
        return plans[index]
    config = {**composed.config, "run_dir": str(path)}
    return replace(
        plans[composed.model],
        number=index + 1,
        words=leave_out_folder(composed.combination.words),
        swept_words=composed.combination.swept_words,
        config=config,
        folder=path,
    )


def _name_folders(trials: Sequence[ComposedTrial], folder: Path) -> list[Path]:
    """Return the folder of each trial; a trial of an earlier line keeps its own."""
    known_names = read_names_by_digest(folder)
    names: dict[str, None] = {}
    for trial in trials:
        name = known_names.get(trial.digest) or trial.name
        # Another trial of this line may have the name from an earlier line.
        names[f"{name}-{trial.digest[:6]}" if name in names else name] = None
    return [folder / name for name in names]


def _is_queued(configs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the trials are jobs of a queue. Raises ConfigError if only some are."""
    by_launch = {json.dumps([config["launch"], config["choices"]["launch"]]): config for config in configs}
    queued = [bool(decode_light_config(config)[0].launch.scheduler) for config in by_launch.values()]
    if any(queued) and not all(queued):
        raise ConfigError(
            "some trials have launch=slurm and others launch=local", "start two sweeps, each with one launch="
        )
    return all(queued)


def _prepare_queued(
    trials: Sequence[ComposedTrial], paths: Sequence[Path], folder: Path, mistakes: list[str], checker: CheckProcess
) -> QueuedSweep:
    from dnntrain.sweep.queued_sweep import JOB_FILE, QueuedSweep, find_job_mistakes, make_queued_trial

    # A trial that was submitted has been checked: its status needs neither its choices nor torch.
    submitted = {index for index, path in enumerate(paths) if (path / JOB_FILE).is_file()}
    planned = [index for index, trial in enumerate(trials) if trial.model == index]
    # Before the checks: the other process still imports torch.
    plans = {
        index: make_queued_trial(index + 1, trials[index].combination, trials[index].config, paths[index])
        for index in planned
    }
    sweep = QueuedSweep(
        folder, tuple(_copy_plan(trial, plans, index, paths[index]) for index, trial in enumerate(trials))
    )
    for index in planned:
        if index not in submitted:
            texts = checker.call(find_job_mistakes, trials[index].config, paths[index])
            mistakes += [f"{trials[index].label}: {text}" for text in texts]
    if checks := list_value_checks(trials, submitted):
        mistakes += checker.call(find_value_mistakes, checks)
    if mistakes:
        raise ConfigError.from_mistakes(list(dict.fromkeys(mistakes)))
    return sweep


def prepare_trial(
    number: int, combination: Combination, config: Mapping[str, Any], path: Path
) -> tuple[Trial, Hardware]:
    """Return the trial of a composed configuration in the folder `path`, and the hardware of its plan.

    Raises ConfigError or DataError if it cannot be planned.
    """
    session = _open_trial_session({**config, "run_dir": str(path)})
    demand = _compute_demand(session)
    plan = session.plan
    trial = Trial(
        number,
        leave_out_folder(combination.words),
        combination.swept_words,
        session.config.resolved,
        path,
        demand,
        plan.total_steps,
        3 * plan.model.flops_per_example * plan.batch_size,
        plan.metrics[0],
    )
    return trial, session.hardware


def _check_distinct(trials: Sequence[ComposedTrial]) -> None:
    """Raise ConfigError if two trials would compute the same."""
    first: dict[str, ComposedTrial] = {}
    mistakes = []
    for trial in trials:
        earlier = first.setdefault(trial.digest, trial)
        if earlier is not trial:
            mistakes.append(f"{earlier.label} and {trial.label} are the same run\n     name each value once")
    if mistakes:
        raise ConfigError.from_mistakes(mistakes)


def check_without_torch(trials: Sequence[ComposedTrial], folder: Path) -> None:
    """Raise the mistakes that are found before torch is imported, each with its trial."""
    from dnntrain.planning.checks.early import check_new_run

    mistakes, errors = [], []
    for trial in trials:
        try:
            check_new_run({**trial.config, "run_dir": str(folder / "trial")}, World())
        except ConfigError as error:
            mistakes += [f"{trial.label}: {text}" for text in error.mistakes]
        except DnntrainError as error:
            error.message = f"{trial.name}: {error.message}"
            errors.append(error)
    if mistakes:
        raise ConfigError.from_mistakes(list(dict.fromkeys([*mistakes, *map(str, errors)])))
    if errors:
        raise errors[0]


def choose_folder(configs: Sequence[dict[str, Any]], kind: str = "sweep", identity: str | None = None) -> Path:
    """Return run_dir if it is set, else runs/NAME/sweep-ID.

    The configurations of the trials define ID, or `identity`.
    """
    if configs[0]["run_dir"]:
        return Path(configs[0]["run_dir"]).expanduser().absolute()
    names = {config["name"] for config in configs}
    identity = make_identity(map(compute_digest, configs) if identity is None else [identity])
    return Path("runs", names.pop() if len(names) == 1 else "mixed", f"{kind}-{identity}").absolute()


def make_identity(config_digests: Iterable[str]) -> str:
    """Return the ID of a folder of runs, which follows from their configurations."""
    return hashlib.sha256(" ".join(config_digests).encode()).hexdigest()[:8]


def _open_trial_session(config: dict[str, Any]) -> Any:
    """Open the session of a trial, which checks its data and makes its plan."""
    from dnntrain.run.session import drop_init_weights_if_resuming, open_session

    try:
        return open_session(drop_init_weights_if_resuming(decode_config(config)), World())
    except ConfigError:
        raise
    except DnntrainError as error:
        error.message = f"{Path(config['run_dir']).name}: {error.message}"
        raise


def _find_changed(path: Path, config: dict[str, Any]) -> list[str]:
    """Return the reasons why a trial cannot resume in `path`, where it began with other settings."""
    if not (path / "checkpoints" / "LAST").exists() or not (path / "config.yaml").exists():
        return []
    from dnntrain.run.resume_checks import find_refusals

    return [f"{path.name}: {reason}" for reason in find_refusals(read_saved_config(path), {**config})]


def _compute_demand(session: Any) -> ResourceDemand:
    """Return the resources of a trial, by its plan."""
    from dnntrain.utils.hardware import get_device_index

    plan, config = session.plan, session.config
    if session.hardware.device != "cpu":
        return ResourceDemand(
            plan.ranks,
            config.train.cpu_threads or 1,
            0,
            plan.ranks,
            get_device_index(config.device) if ":" in config.device and plan.ranks == 1 else None,
        )
    return ResourceDemand(plan.ranks, config.train.cpu_threads or 1, plan.memory.total)


def list_devices(hardware: Any) -> tuple[str, ...]:
    """Return the usable accelerators, by the names that CUDA_VISIBLE_DEVICES takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return tuple(names or map(str, range(hardware.device_count)))


def list_cores() -> tuple[int, ...]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
