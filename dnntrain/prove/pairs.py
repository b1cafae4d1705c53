"""Train pairs of runs that share a seed, one after the other, until the evidence decides.

Each run is a trial of a sweep: it has its own process and folder, a finished one is used again, and
an interrupted one is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_light_config
from dnntrain.config.digest import compute_digest
from dnntrain.errors import ConfigError
from dnntrain.protocols import MetricInfo
from dnntrain.prove.metrics import LATENCY, read_pair
from dnntrain.sweep.grid import Combination
from dnntrain.sweep.prepare import make_identity, prepare_trial
from dnntrain.sweep.sweep_directory import Trial, TrialStatus
from dnntrain.sweep.train_trial import train_trial
from dnntrain.sweep.trial_process import TrialStarter
from dnntrain.utils.json_files import read_json, write_json

#: The file of a pair's measured latencies.
_LATENCY_FILE = "latencies.json"


@dataclass(frozen=True)
class Comparison:
    """The two configurations: words that both share, words of each, and their first seeds.

    configs       the resolved configurations of A and B for the first pair
    folder        the folder of all pairs
    saved         the configuration of a run that the words change; None: the defaults
    first_folder  the folder of the runs of A, if other comparisons share them
    """

    shared: tuple[str, ...]
    words: tuple[tuple[str, ...], tuple[str, ...]]
    configs: tuple[dict[str, Any], dict[str, Any]]
    folder: Path
    config_dir: Path | None = None
    saved: Mapping[str, Any] | None = None
    first_folder: Path | None = None

    def get_run_folder(self, side: int, number: int) -> Path:
        """Return the folder of the run of one side of pair `number`, which counts from 0."""
        folder = self.folder if side or self.first_folder is None else self.first_folder
        return folder / f"{number + 1:02}-{'ab'[side]}"

    def make_words(self, side: int, number: int) -> tuple[str, ...]:
        """Return the words that train the run of one side of pair `number`, which counts from 0."""
        words = [word for word in (*self.shared, *self.words[side]) if not word.startswith(("seed=", "run_dir="))]
        return (*words, f"seed={self.configs[side]['seed'] + number}")


@dataclass(frozen=True)
class Pair:
    """A finished pair: its number from 1, its seeds, its runs, and the value of each."""

    number: int
    seeds: tuple[int, int]
    runs: tuple[Path, Path]
    values: tuple[float, float]

    @property
    def difference(self) -> float:
        return self.values[1] - self.values[0]


def prepare_comparison(
    shared: Sequence[str], words_a: Sequence[str], words_b: Sequence[str], config_dir: Path | None = None
) -> Comparison:
    """Compose both sides of the first pair.

    Raises ConfigError with the mistakes of both, or if they are the same configuration.
    """
    mistakes: list[str] = []
    configs = []
    for name, words in (("--a", words_a), ("--b", words_b)):
        try:
            configs.append(compose([*shared, *words], config_dir, quiet=True))
        except ConfigError as error:
            mistakes += [text if not words else f"{name}: {text}" for text in error.mistakes]
    if mistakes:
        raise ConfigError.from_mistakes(list(dict.fromkeys(mistakes)))
    digests = [compute_digest(config) for config in configs]
    if digests[0] == digests[1]:
        raise ConfigError(
            "--a and --b are the same configuration", 'name what differs, as in --a "" --b "+average=[ema]"'
        )
    if any(word.startswith("run_dir=") for word in (*words_a, *words_b)):
        raise ConfigError("run_dir must be the same for --a and --b", "write run_dir=FOLDER outside of --a and --b")
    folder = Path(configs[0]["run_dir"] or Path("runs", f"prove-{make_identity(digests)}")).expanduser().absolute()
    _check_local(configs)
    _check_folder(folder, digests)
    return Comparison(tuple(shared), (tuple(words_a), tuple(words_b)), (configs[0], configs[1]), folder, config_dir)


def _check_local(configs: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError if a side is a job of a queue, whose result nothing waits for, or is several runs."""
    if any(decode_light_config(config)[0].launch.scheduler for config in configs):
        raise ConfigError(
            "pairs of runs do not support launch=slurm, because each run is judged before the next one starts",
            "leave it out, and submit this command itself as a job",
        )
    if any(config["folds"] is not None and config["fold"] is None for config in configs):
        raise ConfigError("pairs of runs do not support folds", "leave it out: each pair has a seed of its own")


def _check_folder(folder: Path, digests: Sequence[str]) -> None:
    """Raise ConfigError if the folder belongs to something else."""
    saved_digests = read_json(folder / "prove.json").get("config_digests")
    if saved_digests is not None and list(saved_digests) != list(digests):
        raise ConfigError(f"{folder} holds pairs of other configurations", "name another run_dir")
    if (folder / "config.yaml").exists():
        raise ConfigError(f"{folder} is the folder of a single run", "name another run_dir")


def check_trainable(comparison: Comparison) -> None:
    """Plan both sides of the first pair. Raises the error of the one that cannot be planned."""
    for side in (0, 1):
        _prepare_side(comparison, side, 0)


def iterate_pairs(
    comparison: Comparison, metric: MetricInfo, max_pairs: int, show: Callable[[int, str, TrialStatus], None]
) -> Iterator[Pair]:
    """Train and yield pair after pair. Odd pairs train A first, even ones B.

    `show` receives the number of a pair, its side, and the status of its run. Raises Stopped on a
    signal, and the error of a run that fails.
    """
    with closing(TrialStarter(keep_servers=True)) as starter:
        for index in range(max_pairs):
            trials = [_prepare_side(comparison, side, index) for side in (0, 1)]
            for side in (0, 1) if index % 2 == 0 else (1, 0):
                train_trial(trials[side], comparison.config_dir, partial(show, index + 1, "AB"[side]), "pair", starter)
            runs = (trials[0].folder, trials[1].folder)
            values = _read_pair_once(comparison.folder, index + 1, runs, metric)
            seeds = (trials[0].config["seed"], trials[1].config["seed"])
            yield Pair(index + 1, seeds, runs, values)


def _prepare_side(comparison: Comparison, side: int, index: int) -> Trial:
    words = comparison.make_words(side, index)
    config = compose(words, comparison.config_dir, saved=comparison.saved, quiet=True)
    path = comparison.get_run_folder(side, index)
    return prepare_trial(2 * index + side, Combination(words, words), config, path)[0]


def _read_pair_once(folder: Path, number: int, runs: tuple[Path, Path], metric: MetricInfo) -> tuple[float, float]:
    """Return the values of a pair; measured latencies are kept, so that a continued search has the same."""
    if metric.name != LATENCY.name:
        return read_pair(runs, metric, trust=True)
    path = folder / _LATENCY_FILE
    saved = read_json(path)
    if str(number) not in saved:
        saved[str(number)] = read_pair(runs, metric, trust=True)
        write_json(path, saved)
    first, second = saved[str(number)]
    return float(first), float(second)
