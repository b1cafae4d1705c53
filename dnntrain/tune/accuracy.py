"""Judge whether settings that change the numbers of a run keep its accuracy, by pairs of runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dnntrain.config.digest import compute_digest
from dnntrain.errors import ConfigError, DnntrainError, Stopped
from dnntrain.protocols import MetricInfo
from dnntrain.prove.metrics import choose_metric
from dnntrain.prove.pairs import Comparison, Pair, iterate_pairs, prepare_comparison
from dnntrain.prove.result import format_difference
from dnntrain.report.format import format_metric
from dnntrain.run.directory import lock_folder
from dnntrain.sweep.prepare import make_identity
from dnntrain.sweep.sweep_directory import TrialStatus
from dnntrain.tune.lines import Line
from dnntrain.utils.evidence import EffectInterval, compute_e_values, compute_effect_interval
from dnntrain.utils.files import make_folder
from dnntrain.utils.units import pluralize
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
    difference  the mean difference; None without pairs
    interval    the differences that the pairs do not reject at `alpha`; None: no bound
    is_kept     whether the interval excludes a loss beyond the margin
    reason      why a run with the settings failed; empty if none did
    folder      the folder of the runs with the settings
    """

    words: tuple[str, ...]
    metric: str
    values: tuple[tuple[float, float], ...]
    difference: float | None
    interval: tuple[float | None, ...]
    alpha: float
    is_kept: bool
    reason: str
    folder: str


@dataclass(frozen=True)
class AccuracyJudge:
    """Trains pairs of runs of a line, without and with other settings.

    margin  the largest loss of the metric that is accepted
    metric  the metric of the run
    root    the folder of all runs
    claims  the number of settings that may be judged, one after the other: all verdicts hold together
    """

    line: Line
    margin: float
    metric: MetricInfo
    root: Path
    say: Say
    claims: int = 1

    @classmethod
    def prepare(cls, line: Line, margin: float, say: Say) -> AccuracyJudge:
        """Return the judge of a line, for one claim.

        Raises ConfigError if the folder of the line is that of a single run, or if the margin is more than
        the metric can lose.
        """
        config = line.decode()
        metric = choose_metric(None, config.eval.metric, config.task.list_infos())
        if metric.is_share and margin >= 1:
            raise ConfigError(
                f"--margin {margin:g}: {metric.name} is a share, so the margin must be below 1",
                f"did you mean --margin {margin / 100:g}?",
            )
        digest = compute_digest(config.resolved)
        root = Path(config.run_dir or Path("runs", f"tune-{make_identity([digest])}")).expanduser().absolute()
        if (root / "config.yaml").exists():
            raise ConfigError(f"{root} is the folder of a single run", "name another run_dir")
        return cls(line, margin, metric, root, say)

    def judge(self, words: Sequence[str]) -> Judgment:
        """Train pairs until it is known whether the line with `words` loses more than the margin.

        All settings share the runs of the line as it is. The same call continues one that was
        interrupted. If a run with `words` fails, they are not kept. Raises Stopped on a signal, and the
        error of a run of the line as it is.
        """
        comparison = self._prepare_comparison(words)
        self.say(f"judging {' '.join(words)} by pairs of runs in {self.root}")
        pairs, verdict, reason = list[Pair](), None, ""
        sides = [0]
        with lock_folder(self.root):
            for folder in filter(None, (comparison.folder, comparison.first_folder)):
                make_folder(folder)
            try:
                for pair in iterate_pairs(comparison, self.metric, _MAX_PAIRS, partial(_note_side, sides)):
                    pairs.append(pair)
                    verdict = self._weigh(pairs)
                    if verdict is not None:
                        break
            except Stopped:
                raise
            except DnntrainError as error:
                if sides[-1] == 0:
                    raise
                reason, verdict = error.message, False
        differences = [pair.difference for pair in pairs]
        interval = compute_effect_interval(differences, self.alpha)
        judgment = Judgment(
            tuple(words),
            self.metric.name,
            tuple(pair.values for pair in pairs),
            sum(differences) / len(differences) if differences else None,
            tuple(interval.as_json()),
            self.alpha,
            bool(verdict),
            reason,
            str(comparison.folder),
        )
        self.say(self._describe(judgment, interval))
        return judgment

    @property
    def alpha(self) -> float:
        """The level of each interval, so that all hold together."""
        return _ALPHA / self.claims

    def _prepare_comparison(self, words: Sequence[str]) -> Comparison:
        """Return the comparison, whose folders belong to the configurations."""
        shared, first, second = split_line(self.line.overrides, words)
        comparison = prepare_comparison(shared, first, second, self.line.config_dir)
        names = [make_identity([compute_digest({**config, "run_dir": None})]) for config in comparison.configs]
        return replace(comparison, folder=self.root / names[1], first_folder=self.root / f"line-{names[0]}")

    def _weigh(self, pairs: Sequence[Pair]) -> bool | None:
        """Report the last pair; return whether all together keep the metric, None if more are needed."""
        if len(pairs) == 1:
            least = count_least_pairs(self.alpha)
            self.say(f"{least} to {_MAX_PAIRS} pairs decide for each of at most {pluralize(self.claims, 'line')}")
        pair = pairs[-1]
        first, second = (format_metric(self.metric, value) for value in pair.values)
        difference = format_difference(self.metric, pair.difference)
        self.say(f"pair {pair.number}: {self.metric.name} {first} → {second} ({difference})")
        differences = [pair.difference for pair in pairs]
        interval = compute_effect_interval(differences, self.alpha)
        return judge_loss(differences, interval, self.metric.sign, self.margin)

    def _describe(self, judgment: Judgment, interval: EffectInterval) -> str:
        """Return the mean difference with its interval, and what follows from it."""
        if judgment.reason or judgment.difference is None:
            return f"not kept: a run with these settings failed: {judgment.reason}"
        low, high = (format_difference(self.metric, value) for value in (interval.low, interval.high))
        mean = format_difference(self.metric, judgment.difference)
        limit = format_difference(self.metric, self.margin).lstrip("+")
        pairs = pluralize(len(judgment.values), "pair")
        verdict = (
            f"kept: a loss of {limit} is excluded" if judgment.is_kept else f"not kept: it may lose more than {limit}"
        )
        return f"{self.metric.name} {mean} (from {low} to {high}) after {pairs}, {verdict}"


def _note_side(sides: list[int], number: int, side: str, status: TrialStatus) -> None:
    """Note the side whose run is training now: 0 is the line as it is."""
    sides.append("AB".index(side))


def count_least_pairs(alpha: float) -> int:
    """Return the number of pairs without which no interval at `alpha` has a bound: equal differences decide first."""
    values = compute_e_values([1.0] * 100)
    return next(number for number, value in enumerate(values, 1) if value >= 1 / alpha)


def split_line(overrides: Sequence[str], words: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Return the overrides that a line shares with the same line with `words`, and those of each."""
    keys = set(map(get_key, words))
    first = [word for word in overrides if get_key(word) in keys]
    return [word for word in overrides if get_key(word) not in keys], first, list(words)


def make_prove_command(line: Line, words: Sequence[str]) -> str:
    """Return the command that compares the accuracy of the line as it is with that of `words`."""
    shared, first, second = split_line(line.overrides, words)
    shared = [word for word in shared if get_key(word) not in ("run_dir", "seed")]
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
