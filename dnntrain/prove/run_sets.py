"""Pair the runs of two finished sets, or of the variants of a sweep, by their seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnntrain.config.digest import compute_digest
from dnntrain.config.saved_config import read_saved_config
from dnntrain.errors import ConfigError
from dnntrain.inference.run_args import check_run
from dnntrain.protocols import MetricInfo
from dnntrain.prove.metrics import choose_split, describe_split, read_pair
from dnntrain.prove.pairs import Pair
from dnntrain.sweep.trial_list import find_trial_folders
from dnntrain.utils.sealed_json import read_sealed_json
from dnntrain.utils.units import pluralize


def pair_runs(
    runs_a: Sequence[Path], runs_b: Sequence[Path], metric: MetricInfo, trust: bool = False
) -> tuple[list[Pair], tuple[str, ...]]:
    """Return the pairs of two sets of finished runs, and notes on how they are paired and compared.

    Runs with the same seed make a pair. If the seeds of the sets differ, runs are paired in their
    order. All values are of one split. Raises ConfigError if a run is not finished, a set is larger, or
    a set holds a run twice.
    """
    if len(runs_a) != len(runs_b):
        raise ConfigError(
            f"--runs-a names {len(runs_a)} runs and --runs-b {len(runs_b)}", "name as many runs for each side"
        )
    configs_a, configs_b = ([read_finished_config(run) for run in runs] for runs in (runs_a, runs_b))
    for option, runs in (("--runs-a", runs_a), ("--runs-b", runs_b)):
        _check_distinct(option, runs)
    by_seed = [
        {config["seed"]: run for run, config in zip(runs, configs, strict=True)}
        for runs, configs in ((runs_a, configs_a), (runs_b, configs_b))
    ]
    seeds = sorted(by_seed[0])
    notes = describe_split([*runs_a, *runs_b], metric)
    if len(seeds) == len(runs_a) and seeds == sorted(by_seed[1]):
        paired = [((seed, seed), (by_seed[0][seed], by_seed[1][seed])) for seed in seeds]
    else:
        notes = ("The runs do not share seeds: they are paired in their order, and need more pairs.", *notes)
        paired = [
            ((config_a["seed"], config_b["seed"]), (run_a, run_b))
            for run_a, run_b, config_a, config_b in zip(runs_a, runs_b, configs_a, configs_b, strict=True)
        ]
    split, pairs = choose_split([*runs_a, *runs_b], metric), []
    for number, (pair_seeds, (run_a, run_b)) in enumerate(paired, 1):
        pairs.append(Pair(number, pair_seeds, (run_a, run_b), read_pair((run_a, run_b), metric, trust, split)))
    return pairs, notes


def _check_distinct(option: str, runs: Sequence[Path]) -> None:
    """Raise ConfigError if two folders hold one run: its difference would count as evidence twice."""
    seen: dict[Any, Path] = {}
    for run in runs:
        keys: list[Any] = [run.resolve()]
        result = read_sealed_json(run / "result.json")
        if result.get("config_digest") and result.get("digest"):
            keys.append((result["config_digest"], result["digest"]))
        for key in keys:
            if key in seen:
                raise ConfigError(
                    f"{option}: {seen[key]} and {run} are the same run", "name runs of different seeds, each once"
                )
        seen |= dict.fromkeys(keys, run)


def read_finished_config(run: Path) -> dict[str, Any]:
    """Return the configuration of a finished run. Raises ConfigError if it is not one."""
    check_run(run)
    if (status := read_sealed_json(run / "result.json").get("status")) != "done":
        raise ConfigError(f"{run} is not finished (status {status})", f"finish it with: dnntrain resume {run}")
    return read_saved_config(run)


def group_sweep(folder: Path) -> dict[str, list[Path]]:
    """Return the finished trials of a sweep by what distinguishes them besides the seed, in order.

    Raises ConfigError if `folder` is not a sweep, or holds fewer than two variants.
    """
    trials = find_trial_folders(folder)
    if trials is None:
        raise ConfigError(f"{folder} is not the folder of a sweep", "dnntrain -m … prints the folder of its results")
    groups: dict[str, list[Path]] = {}
    names: dict[str, str] = {}
    for trial in trials:
        config = read_finished_config(trial)
        digest = compute_digest({**config, "seed": 0})
        words = trial.name.partition("-")[2].split(",")
        names.setdefault(digest, ",".join(word for word in words if not word.startswith("seed=")) or "only")
        groups.setdefault(digest, []).append(trial)
    if len(groups) < 2:
        raise ConfigError(
            f"the trials of {folder} differ in their seed only",
            "sweep a setting besides the seed, as in sched=cosine,step",
        )
    counts = {names[digest]: len(runs) for digest, runs in groups.items()}
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[least] < counts[most]:
        raise ConfigError(
            f"{folder} has {pluralize(counts[most], 'run')} of {most} and {counts[least]} of {least}",
            "run every variant with the same seeds, as in dnntrain -m … seed=0,1,2",
        )
    return {names[digest]: runs for digest, runs in groups.items()}
