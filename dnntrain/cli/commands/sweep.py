"""`dnntrain -m …`, `dnntrain sweep …`: one run for each combination of values.

The parent alone composes. It refuses every mistake of every trial before any starts, freezes each trial's configuration
in a folder of its own, and runs the trials as processes, each on its part of the machine. The same line again skips
what is done and goes on with what was broken off.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnntrain.cli.parser import Arguments
from dnntrain.config.compose import compose
from dnntrain.config.decode import compute_digest, decode_config, load_config
from dnntrain.config.registry import load_registry
from dnntrain.errors import ConfigError, DnntrainError, Interrupted, Preempted
from dnntrain.run.resume_checks import find_refusals
from dnntrain.sweep.grid import Combination, make_combinations, make_folder_name
from dnntrain.sweep.resources import ResourceDemand, Resources, divide_machine
from dnntrain.sweep.sweep_directory import (
    Trial,
    TrialStatus,
    freeze_trial,
    read_names_by_digest,
    read_status,
    result_row,
    write_list,
)
from dnntrain.utils.units import pluralize
from dnntrain.utils.world import World


@dataclass(frozen=True)
class Sweep:
    """A sweep without mistakes: its folder, its trials, and the parts of the machine that they run on."""

    folder: Path
    trials: tuple[Trial, ...]
    resource_sets: tuple[Resources, ...]


def run(arguments: Arguments) -> int:
    """Runs the trials. Returns 0 where all are done, else the exit code of the first one that is not."""
    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            "a sweep under torchrun is refused: every rank would run all of it",
            "start it without torchrun; it starts the processes of each trial itself, as many as launch.nproc says",
        )
    sweep = prepare_sweep(arguments)
    if arguments.dry_run:
        print(format_listing(sweep, arguments.json))
        return 0
    from dnntrain.run.directory import lock_folder

    with lock_folder(sweep.folder):
        statuses = _run_trials(sweep, arguments)
    if arguments.json:
        print(json.dumps([result_row(*pair) for pair in zip(sweep.trials, statuses, strict=True)], indent=1))
    else:
        print(sweep.folder / "results.csv")
    return next((_get_exit_code(status) for status in statuses if not status.is_done), 0)


def prepare_sweep(arguments: Arguments) -> Sweep:
    """Composes, checks and plans every trial. Raises ConfigError that lists the mistakes of all of them."""
    trial_words = make_combinations(arguments.overrides, load_registry(arguments.config_dir).list_names)
    configs = _compose_trials(trial_words, arguments)
    _check_distinct(trial_words, configs)
    folder = _choose_folder(configs)
    _check_local(trial_words, configs, folder, arguments)
    known_names = read_names_by_digest(folder)
    trials: list[Trial] = []
    devices: tuple[str, ...] = ()
    memory_bytes = 0
    mistakes = [f"{folder} is the folder of one run\n     name another run_dir"] * (folder / "config.yaml").exists()
    for number, (combination, config) in enumerate(zip(trial_words, configs, strict=True), 1):
        name = known_names.get(compute_digest(config)) or make_folder_name(
            number, len(trial_words), combination.swept_words
        )
        if any(trial.folder.name == name for trial in trials):
            name = f"{name}-{compute_digest(config)[:6]}"  # an earlier line has given the name to another trial of this one
        path = folder / name
        words = tuple(word for word in combination.words if not word.startswith("run_dir="))
        try:
            session = _open_trial_session({**config, "run_dir": str(path)})
        except ConfigError as error:
            mistakes += [f"{' '.join(combination.swept_words)}: {text}" for text in error.mistakes]
            continue
        mistakes += _find_changed_settings(path, config)
        plan, hardware = session.plan, session.hardware
        demand = _compute_demand(session)
        trials.append(
            Trial(number, words, combination.swept_words, session.config.resolved, path, demand, plan.total_steps)
        )
        memory_bytes = hardware.memory_bytes
        devices = max(devices, _list_devices(hardware) if demand.devices else (), key=len)
    if mistakes:
        raise ConfigError.from_mistakes(list(dict.fromkeys(mistakes)))
    demands = [trial.demand for trial in trials]
    return Sweep(
        folder, tuple(trials), tuple(divide_machine(demands, devices, _list_cores(), memory_bytes, arguments.at_once))
    )


def format_listing(sweep: Sweep, as_json: bool) -> str:
    """The trials, how each stands, and how many run at once: what --dry-run prints."""
    statuses = [read_status(trial) for trial in sweep.trials]
    if as_json:
        rows = [{**result_row(*pair), "words": pair[0].words} for pair in zip(sweep.trials, statuses, strict=True)]
        return json.dumps({"folder": str(sweep.folder), "at_once": len(sweep.resource_sets), "trials": rows}, indent=1)
    resources = sweep.resource_sets[0]
    cores = pluralize(len(_list_cores()), "core")
    share = f"devices {','.join(resources.devices)}" if resources.devices else f"{len(resources.cores)} of {cores}"
    lines = [
        f"{pluralize(len(sweep.trials), 'trial')}, {len(sweep.resource_sets)} at once, each on {share}: {sweep.folder}"
    ]
    width = max(len(trial.label) for trial in sweep.trials)
    for trial, status in zip(sweep.trials, statuses, strict=True):
        processes = f"{trial.demand.processes} process{'es' if trial.demand.processes > 1 else ''}"
        steps = f" at step {status.step}" if status.status == "broken off" else ""
        lines.append(f"{trial.number:>4}  {trial.label:<{width}}  {processes}  {status.status}{steps}")
    return "\n".join(lines)


def _run_trials(sweep: Sweep, arguments: Arguments) -> Sequence[TrialStatus]:
    """Freezes and runs what is not done. Raises Stopped where a signal ended it."""
    from dnntrain.sweep.progress_table import make_progress_table
    from dnntrain.sweep.runner import TrialRunner, make_trial_command

    statuses = [read_status(trial) for trial in sweep.trials]
    for trial, status in zip(sweep.trials, statuses, strict=True):
        if not status.is_done:
            freeze_trial(trial, arguments.config_dir)
    write_list(sweep.folder, sweep.trials)
    progress_table = make_progress_table(arguments.display, sweep.folder, sweep.trials, statuses)
    progress_table.open()
    try:
        signal_number = TrialRunner(progress_table, sweep.resource_sets, make_trial_command).run()
    finally:
        progress_table.close()
    if signal_number is not None:
        error_class = Interrupted if signal_number == signal.SIGINT else Preempted
        num_done = sum(status.is_done for status in progress_table.statuses)
        raise error_class(
            f"{signal.Signals(signal_number).name}: the sweep was stopped with {num_done} of {pluralize(len(sweep.trials), 'trial')} done",
            "the same line again goes on with it",
        )
    return progress_table.statuses


def _compose_trials(trial_words: Sequence[Combination], arguments: Arguments) -> list[dict[str, Any]]:
    """The resolved configuration of every trial. Raises ConfigError that lists the mistakes of all, each once."""
    configs: list[dict[str, Any]] = []
    mistakes: list[str] = []
    for number, combination in enumerate(trial_words):
        try:
            configs.append(compose(combination.words, arguments.config_dir, quiet=arguments.quiet or number > 0))
        except ConfigError as error:
            mistakes += error.mistakes
    if configs and (resume := configs[0]["resume"]) != "auto":
        mistakes.append(
            f"resume={resume} is for one run; in a sweep each trial goes on where it stopped\n"
            "     name another run_dir to begin anew, or init_from=PATH for weights to start from"
        )
    if mistakes:
        raise ConfigError.from_mistakes(list(dict.fromkeys(mistakes)))
    return configs


def _check_distinct(trial_words: Sequence[Combination], configs: Sequence[dict[str, Any]]) -> None:
    """Refuses two trials that would compute the same."""
    first: dict[str, int] = {}
    mistakes = []
    for number, config in enumerate(configs):
        earlier = first.setdefault(compute_digest(config), number)
        if earlier != number:
            first_words, second_words = (" ".join(trial_words[index].swept_words) for index in (earlier, number))
            mistakes.append(f"{first_words} and {second_words} are the same run\n     name each value once")
    if mistakes:
        raise ConfigError.from_mistakes(mistakes)


def _check_local(
    trial_words: Sequence[Combination], configs: Sequence[dict[str, Any]], folder: Path, arguments: Arguments
) -> None:
    """Refuses trials that would only stand in a queue: the sweep waits for its trials, and divides this machine among them."""
    from dnntrain.choices.launch._slurm_script import make_sweep_command

    for number, (combination, config) in enumerate(zip(trial_words, configs, strict=True), 1):
        choice = decode_config(config).launch
        if not choice.scheduler:
            continue
        flags = [] if arguments.config_dir is None else [f"--config-dir={arguments.config_dir.absolute()}"]
        words = [word for word in combination.words if not word.startswith(("run_dir=", "launch="))]
        path = folder / make_folder_name(number, len(trial_words), combination.swept_words)
        hint = f"a job for each trial: {shlex.join(['dnntrain', 'slurm', *flags, *words, f'run_dir={path}'])}"
        if choice.nodes == 1:
            at_once = [] if arguments.at_once is None else [f"--at-once={arguments.at_once}"]
            words = [word for word in arguments.overrides if not word.startswith("run_dir=")]
            line = make_sweep_command(choice, [*flags, *at_once, *words, f"run_dir={folder}"])
            hint += f"\n  or one job for all: {line}"
        raise ConfigError(
            "launch=slurm is for one run: a sweep waits for its trials, which would wait in Slurm's queue", hint
        )


def _choose_folder(configs: Sequence[dict[str, Any]]) -> Path:
    """run_dir where it is set, else runs/NAME/sweep-ID, where ID follows from what the trials compute."""
    if configs[0]["run_dir"]:
        return Path(configs[0]["run_dir"]).expanduser().absolute()
    names = {config["name"] for config in configs}
    identity = hashlib.sha256(" ".join(compute_digest(config) for config in configs).encode()).hexdigest()[:8]
    return Path("runs", names.pop() if len(names) == 1 else "mixed", f"sweep-{identity}").absolute()


def _open_trial_session(config: dict[str, Any]) -> Any:
    """The trial's session: its data are there, and it has a plan."""
    from dnntrain.run.session import drop_init_weights_if_resuming, open_session

    try:
        return open_session(drop_init_weights_if_resuming(decode_config(config)), World())
    except ConfigError:
        raise
    except DnntrainError as error:
        error.message = f"{Path(config['run_dir']).name}: {error.message}"
        raise


def _find_changed_settings(path: Path, config: dict[str, Any]) -> list[str]:
    """Why a trial cannot go on in `path`: it was begun there with other settings."""
    if not (path / "checkpoints" / "LAST").exists() or not (path / "config.yaml").exists():
        return []
    return [f"{path.name}: {reason}" for reason in find_refusals(load_config(path / "config.yaml"), {**config})]


def _compute_demand(session: Any) -> ResourceDemand:
    """What a trial takes of the machine, by its plan."""
    from dnntrain.utils.hardware import get_device_index

    plan, config = session.plan, session.config
    if session.hardware.device != "cpu":
        return ResourceDemand(
            plan.ranks,
            config.train.threads or 1,
            0,
            plan.ranks,
            get_device_index(config.device) if ":" in config.device and plan.ranks == 1 else None,
        )
    return ResourceDemand(plan.ranks, config.train.threads or 1, plan.memory.total)


def _list_devices(hardware: Any) -> tuple[str, ...]:
    """The accelerators of this machine that may be used, by the names that CUDA_VISIBLE_DEVICES takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return tuple(names or map(str, range(hardware.device_count)))


def _list_cores() -> tuple[int, ...]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _get_exit_code(status: TrialStatus) -> int:
    """The exit code of a trial that is not done; 1 where a signal killed it."""
    return status.exit_code if status.exit_code is not None and status.exit_code > 0 else 1
