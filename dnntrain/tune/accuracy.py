"""Judge whether settings that change the numbers of a run keep its accuracy, by pairs of runs."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dnntrain.config.decode import decode_config
from dnntrain.config.digest import compute_digest
from dnntrain.protocols import MetricInfo
from dnntrain.prove.metrics import choose_metric
from dnntrain.prove.pairs import Comparison, Pair, iterate_pairs, prepare_comparison
from dnntrain.prove.result import format_difference
from dnntrain.report.format import format_metric
from dnntrain.run.directory import lock_folder
from dnntrain.sweep.prepare import make_identity
from dnntrain.tune.lines import Line
from dnntrain.utils.evidence import EffectInterval, compute_effect_interval
from dnntrain.utils.files import make_folder
from dnntrain.utils.units import format_seconds, pluralize
from dnntrain.utils.words import get_key

Say = Callable[[str], None]

#: Pairs of runs of a comparison at most.
_MAX_PAIRS = 30
#: After so many pairs, a mean loss beyond the margin ends the comparison.
_PAIRS_TO_GIVE_UP = 8
#: The largest probability that settings are kept although they lose more than the margin.
_ALPHA = 0.05


@dataclass(frozen=True)
class Judgment:
    """Whether a line with other settings keeps the metric of the line as it is.

    words       the settings
    metric      the name of the metric
    values      its values in both runs of each pair, the line as it is first
    difference  the mean difference
    interval    the differences that the pairs do not reject at `alpha`; None: no bound
    is_kept     whether the interval excludes a loss beyond the margin
    folder      the folder of the runs with the settings
    """

    words: tuple[str, ...]
    metric: str
    values: tuple[tuple[float, float], ...]
    difference: float
    interval: tuple[float | None, ...]
    alpha: float
    is_kept: bool
    folder: str


@dataclass(frozen=True)
class AccuracyJudge:
    """Trains pairs of runs of a line, without and with other settings.

    margin  the metric that settings may lose
    claims  the number of settings that may be judged, one after the other: all verdicts hold together
    """

    line: Line
    margin: float
    claims: int
    say: Say

    def judge(self, words: Sequence[str]) -> Judgment:
        """Train pairs until it is known whether the line with `words` loses more than the margin.

        All settings share the runs of the line as it is. The same call continues one that was
        interrupted. Raises Stopped on a signal, and the error of a run that fails.
        """
        comparison = prepare_comparison(*split_line(self.line.overrides, words), self.line.config_dir)
        digests = [compute_digest(config) for config in comparison.configs]
        root = self._choose_root(digests[0])
        comparison = replace(comparison, folder=root / make_identity(digests[1:]), first_folder=root / "line")
        config = decode_config(comparison.configs[0])
        metric = choose_metric(None, config.eval.metric, config.task.list_infos())
        self.say(f"judging {' '.join(words)} by pairs of runs in {root}")
        with lock_folder(root):
            for folder in (comparison.folder, root / "line"):
                make_folder(folder)
            pairs, interval, is_kept = self._train_pairs(comparison, metric)
        judgment = Judgment(
            tuple(words),
            metric.name,
            tuple(pair.values for pair in pairs),
            sum(pair.difference for pair in pairs) / len(pairs),
            tuple(interval.as_json()),
            _ALPHA / self.claims,
            is_kept,
            str(comparison.folder),
        )
        self.say(_describe_judgment(judgment, interval, metric, self.margin))
        return judgment

    def _choose_root(self, digest: str) -> Path:
        """Return the folder of all runs: `run_dir` of the line, or one in runs/."""
        words = [word for word in self.line.overrides if get_key(word) == "run_dir"]
        name = words[-1].partition("=")[2] if words else Path("runs", f"tune-{make_identity([digest])}")
        return Path(name).expanduser().absolute()

    def _train_pairs(self, comparison: Comparison, metric: MetricInfo) -> tuple[list[Pair], EffectInterval, bool]:
        """Return the pairs that decide, the interval of the difference, and whether it excludes a loss."""
        pairs: list[Pair] = []
        alpha = _ALPHA / self.claims
        interval, started = compute_effect_interval([]), time.monotonic()
        for pair in iterate_pairs(comparison, metric, _MAX_PAIRS, lambda number, side, status: None):
            pairs.append(pair)
            if len(pairs) == 1:
                pair_s = format_seconds(time.monotonic() - started)
                self.say(f"the first pair took {pair_s}; {count_least_pairs(alpha)} to {_MAX_PAIRS} pairs decide")
            first, second = (format_metric(metric, value) for value in pair.values)
            difference = format_difference(metric, pair.difference)
            self.say(f"pair {pair.number}: {metric.name} {first} → {second} ({difference})")
            differences = [pair.difference for pair in pairs]
            interval = compute_effect_interval(differences, alpha)
            verdict = judge_loss(differences, interval, metric.sign, self.margin)
            if verdict is not None:
                return pairs, interval, verdict
        return pairs, interval, False


def count_least_pairs(alpha: float) -> int:
    """Return the pairs without which no interval at `alpha` has a bound: the evidence at most doubles with each."""
    return 1 + math.ceil(math.log2(1 / alpha))


def split_line(overrides: Sequence[str], words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the overrides that a line shares with the same line with `words`, and those of each."""
    keys = set(map(get_key, words))
    replaced = [word for word in overrides if get_key(word) in keys]
    shared = [word for word in overrides if get_key(word) not in keys | {"run_dir", "seed"}]
    return shared, replaced, list(words)


def make_prove_command(line: Line, words: Sequence[str]) -> str:
    """Return the command that compares the accuracy of the line as it is with that of `words`."""
    shared, first, second = split_line(line.overrides, words)
    config_dir = [] if line.config_dir is None else ["--config-dir", str(line.config_dir)]
    return shlex.join(["dnntrain", "prove", *shared, "--a", shlex.join(first), "--b", shlex.join(second), *config_dir])


def judge_loss(differences: Sequence[float], interval: EffectInterval, sign: float, margin: float) -> bool | None:
    """Return whether the loss is within the margin; None if more pairs are needed.

    `sign` is 1 if larger values are better, else -1.
    """
    least, most = sorted((-sign * interval.low, -sign * interval.high))
    if most <= margin:
        return True
    mean_loss = -sign * sum(differences) / len(differences)
    is_hopeless = mean_loss > margin and len(differences) >= _PAIRS_TO_GIVE_UP
    return False if least > margin or is_hopeless else None


def _describe_judgment(judgment: Judgment, interval: EffectInterval, metric: MetricInfo, margin: float) -> str:
    """Return the mean difference with its interval, and what follows from it."""
    low, high = (format_difference(metric, value) for value in (interval.low, interval.high))
    mean = format_difference(metric, judgment.difference)
    limit = format_difference(metric, margin).lstrip("+")
    verdict = f"kept: a loss of {limit} is excluded" if judgment.is_kept else f"not kept: it may lose more than {limit}"
    pairs = pluralize(len(judgment.values), "pair")
    return f"{metric.name} {mean} (from {low} to {high}) after {pairs}, {verdict}"
