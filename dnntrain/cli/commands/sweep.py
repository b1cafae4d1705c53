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
from dnntrain.config.decode import decode, digest, load_config
from dnntrain.config.registry import registry
from dnntrain.errors import ConfigError, DnntrainError, Interrupted, Preempted
from dnntrain.run.resume_checks import refused
from dnntrain.sweep.grid import Combination, combinations, folder_name
from dnntrain.sweep.resources import Need, Slot, divide
from dnntrain.sweep.sweep_directory import Standing, Trial, freeze, names_by_digest, row, standing, write_list
from dnntrain.utils.units import counted
from dnntrain.utils.world import World


@dataclass(frozen=True)
class Sweep:
    """A sweep without mistakes: its folder, its trials, and the parts of the machine that they run on."""

    folder: Path
    trials: tuple[Trial, ...]
    slots: tuple[Slot, ...]


def run(arguments: Arguments) -> int:
    """Runs the trials. Returns 0 where all are done, else the exit code of the first one that is not."""
    if "WORLD_SIZE" in os.environ:
        raise ConfigError(
            "a sweep under torchrun is refused: every rank would run all of it",
            "start it without torchrun; it starts the processes of each trial itself, as many as launch.nproc says",
        )
    sweep = prepare(arguments)
    if arguments.dry_run:
        print(listing(sweep, arguments.json))
        return 0
    from dnntrain.run.directory import locked

    with locked(sweep.folder):
        standings = _run_trials(sweep, arguments)
    if arguments.json:
        print(json.dumps([row(*pair) for pair in zip(sweep.trials, standings, strict=True)], indent=1))
    else:
        print(sweep.folder / "results.csv")
    return next((_code(found) for found in standings if not found.done), 0)


def prepare(arguments: Arguments) -> Sweep:
    """Composes, checks and plans every trial. Raises ConfigError that lists the mistakes of all of them."""
    parts = combinations(arguments.overrides, registry(arguments.config_dir).names)
    configs = _composed(parts, arguments)
    _check_different(parts, configs)
    folder = _folder(configs)
    _check_local(parts, configs, folder, arguments)
    known = names_by_digest(folder)
    trials: list[Trial] = []
    devices: tuple[str, ...] = ()
    memory_bytes = 0
    mistakes = [f"{folder} is the folder of one run\n     name another run_dir"] * (folder / "config.yaml").exists()
    for number, (part, config) in enumerate(zip(parts, configs, strict=True), 1):
        name = known.get(digest(config)) or folder_name(number, len(parts), part.swept)
        if any(trial.folder.name == name for trial in trials):
            name = f"{name}-{digest(config)[:6]}"  # an earlier line has given the name to another trial of this one
        path = folder / name
        words = tuple(word for word in part.words if not word.startswith("run_dir="))
        try:
            session = _session({**config, "run_dir": str(path)})
        except ConfigError as error:
            mistakes += [f"{' '.join(part.swept)}: {text}" for text in error.mistakes]
            continue
        mistakes += _changed(path, config)
        plan, hardware = session.plan, session.hardware
        need = _need(session)
        trials.append(Trial(number, words, part.swept, session.config.resolved, path, need, plan.total_steps))
        memory_bytes = hardware.memory_bytes
        devices = max(devices, _devices(hardware) if need.devices else (), key=len)
    if mistakes:
        raise ConfigError.of(list(dict.fromkeys(mistakes)))
    needs = [trial.need for trial in trials]
    return Sweep(folder, tuple(trials), tuple(divide(needs, devices, _cores(), memory_bytes, arguments.at_once)))


def listing(sweep: Sweep, as_json: bool) -> str:
    """The trials, how each stands, and how many run at once: what --dry-run prints."""
    standings = [standing(trial) for trial in sweep.trials]
    if as_json:
        rows = [{**row(*pair), "words": pair[0].words} for pair in zip(sweep.trials, standings, strict=True)]
        return json.dumps({"folder": str(sweep.folder), "at_once": len(sweep.slots), "trials": rows}, indent=1)
    slot = sweep.slots[0]
    cores = counted(len(_cores()), "core")
    share = f"devices {','.join(slot.devices)}" if slot.devices else f"{len(slot.cores)} of {cores}"
    lines = [f"{counted(len(sweep.trials), 'trial')}, {len(sweep.slots)} at once, each on {share}: {sweep.folder}"]
    width = max(len(trial.label) for trial in sweep.trials)
    for trial, found in zip(sweep.trials, standings, strict=True):
        processes = f"{trial.need.processes} process{'es' if trial.need.processes > 1 else ''}"
        steps = f" at step {found.step}" if found.status == "broken off" else ""
        lines.append(f"{trial.number:>4}  {trial.label:<{width}}  {processes}  {found.status}{steps}")
    return "\n".join(lines)


def _run_trials(sweep: Sweep, arguments: Arguments) -> Sequence[Standing]:
    """Freezes and runs what is not done. Raises Stopped where a signal ended it."""
    from dnntrain.sweep.progress_table import make_board
    from dnntrain.sweep.runner import Pool, trial_command

    standings = [standing(trial) for trial in sweep.trials]
    for trial, found in zip(sweep.trials, standings, strict=True):
        if not found.done:
            freeze(trial, arguments.config_dir)
    write_list(sweep.folder, sweep.trials)
    board = make_board(arguments.display, sweep.folder, sweep.trials, standings)
    board.open()
    try:
        number = Pool(board, sweep.slots, trial_command).run()
    finally:
        board.close()
    if number is not None:
        kind = Interrupted if number == signal.SIGINT else Preempted
        done = sum(found.done for found in board.standings)
        raise kind(
            f"{signal.Signals(number).name}: the sweep was stopped with {done} of {counted(len(sweep.trials), 'trial')} done",
            "the same line again goes on with it",
        )
    return board.standings


def _composed(parts: Sequence[Combination], arguments: Arguments) -> list[dict[str, Any]]:
    """The resolved configuration of every trial. Raises ConfigError that lists the mistakes of all, each once."""
    configs: list[dict[str, Any]] = []
    mistakes: list[str] = []
    for number, part in enumerate(parts):
        try:
            configs.append(compose(part.words, arguments.config_dir, quiet=arguments.quiet or number > 0))
        except ConfigError as error:
            mistakes += error.mistakes
    if configs and (resume := configs[0]["resume"]) != "auto":
        mistakes.append(
            f"resume={resume} is for one run; in a sweep each trial goes on where it stopped\n"
            "     name another run_dir to begin anew, or init_from=PATH for weights to start from"
        )
    if mistakes:
        raise ConfigError.of(list(dict.fromkeys(mistakes)))
    return configs


def _check_different(parts: Sequence[Combination], configs: Sequence[dict[str, Any]]) -> None:
    """Refuses two trials that would compute the same."""
    first: dict[str, int] = {}
    mistakes = []
    for number, config in enumerate(configs):
        earlier = first.setdefault(digest(config), number)
        if earlier != number:
            one, other = (" ".join(parts[which].swept) for which in (earlier, number))
            mistakes.append(f"{one} and {other} are the same run\n     name each value once")
    if mistakes:
        raise ConfigError.of(mistakes)


def _check_local(
    parts: Sequence[Combination], configs: Sequence[dict[str, Any]], folder: Path, arguments: Arguments
) -> None:
    """Refuses trials that would only stand in a queue: the sweep waits for its trials, and divides this machine among them."""
    from dnntrain.choices.launch._slurm_script import sweep_job

    for number, (part, config) in enumerate(zip(parts, configs, strict=True), 1):
        choice = decode(config).launch
        if not choice.scheduler:
            continue
        flags = [] if arguments.config_dir is None else [f"--config-dir={arguments.config_dir.absolute()}"]
        words = [word for word in part.words if not word.startswith(("run_dir=", "launch="))]
        path = folder / folder_name(number, len(parts), part.swept)
        hint = f"a job for each trial: {shlex.join(['dnntrain', 'slurm', *flags, *words, f'run_dir={path}'])}"
        if choice.nodes == 1:
            at_once = [] if arguments.at_once is None else [f"--at-once={arguments.at_once}"]
            words = [word for word in arguments.overrides if not word.startswith("run_dir=")]
            line = sweep_job(choice, [*flags, *at_once, *words, f"run_dir={folder}"])
            hint += f"\n  or one job for all: {line}"
        raise ConfigError(
            "launch=slurm is for one run: a sweep waits for its trials, which would wait in Slurm's queue", hint
        )


def _folder(configs: Sequence[dict[str, Any]]) -> Path:
    """run_dir where it is set, else runs/NAME/sweep-ID, where ID follows from what the trials compute."""
    if configs[0]["run_dir"]:
        return Path(configs[0]["run_dir"]).expanduser().absolute()
    names = {config["name"] for config in configs}
    identity = hashlib.sha256(" ".join(digest(config) for config in configs).encode()).hexdigest()[:8]
    return Path("runs", names.pop() if len(names) == 1 else "mixed", f"sweep-{identity}").absolute()


def _session(config: dict[str, Any]) -> Any:
    """The trial's session: its data are there, and it has a plan."""
    from dnntrain.run.session import as_it_goes_on, open_session

    try:
        return open_session(as_it_goes_on(decode(config)), World())
    except ConfigError:
        raise
    except DnntrainError as error:
        error.message = f"{Path(config['run_dir']).name}: {error.message}"
        raise


def _changed(path: Path, config: dict[str, Any]) -> list[str]:
    """Why a trial cannot go on in `path`: it was begun there with other settings."""
    if not (path / "checkpoints" / "LAST").exists() or not (path / "config.yaml").exists():
        return []
    return [f"{path.name}: {reason}" for reason in refused(load_config(path / "config.yaml"), {**config})]


def _need(session: Any) -> Need:
    """What a trial takes of the machine, by its plan."""
    plan, config = session.plan, session.config
    if session.hardware.device != "cpu":
        own = config.device.partition(":")[2]
        return Need(plan.ranks, config.train.threads or 1, 0, plan.ranks, int(own) if own and plan.ranks == 1 else None)
    return Need(plan.ranks, config.train.threads or 1, plan.memory.total)


def _devices(hardware: Any) -> tuple[str, ...]:
    """The accelerators of this machine that may be used, by the names that CUDA_VISIBLE_DEVICES takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return tuple(names or map(str, range(hardware.device_count)))


def _cores() -> tuple[int, ...]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _code(found: Standing) -> int:
    """The exit code of a trial that is not done; 1 where a signal killed it."""
    return found.code if found.code is not None and found.code > 0 else 1
