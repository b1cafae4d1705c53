"""`dnntrain bisect`: which of the settings in which two runs differ lost the metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.digest import compute_digest
from dnntrain.config.saved_config import read_saved_config
from dnntrain.errors import ConfigError, DataError, DivergedError, PluginError
from dnntrain.inference.run_args import check_trusted
from dnntrain.protocols import MetricInfo
from dnntrain.prove.delta import minimize_changes
from dnntrain.prove.metrics import choose_metric
from dnntrain.prove.pairs import Comparison, check_trainable, iterate_pairs
from dnntrain.prove.run_prove import ProveOptions
from dnntrain.prove.setting_changes import Change, list_changes, make_words
from dnntrain.prove.verdict import Rules, Verdict, judge_differences
from dnntrain.run.directory import lock_folder
from dnntrain.sweep.prepare import make_identity
from dnntrain.utils.explain_error import get_first_line
from dnntrain.utils.files import make_folder
from dnntrain.utils.json_files import read_json, write_json
from dnntrain.utils.units import pluralize

RESULT_FILE = "bisect.json"

Say = Callable[[str], None]
#: Judges the good configuration with these changes against the good one.
Judge = Callable[[tuple[Change, ...]], Verdict]


@dataclass(frozen=True)
class BisectResult:
    """The settings that lost the metric.

    changes   all changes from the good to the bad configuration
    whole     the verdict on all of them together
    culprits  changes that lose the metric together, of which none can be left out; empty if `whole` is
              not worse
    verdict   the verdict on the culprits alone
    others    the verdict on all changes but the culprits; None if there are none
    """

    changes: tuple[Change, ...]
    whole: Verdict
    culprits: tuple[Change, ...] = ()
    verdict: Verdict | None = None
    others: Verdict | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "changes": [change.text for change in self.changes],
            "culprits": [change.text for change in self.culprits],
            "whole": self.whole.as_json(),
            "verdict": None if self.verdict is None else self.verdict.as_json(),
            "others": None if self.others is None else self.others.as_json(),
        }


def bisect_runs(good: Path, bad: Path, options: ProveOptions, folder: Path | None, say: Say) -> BisectResult:
    """Train pairs until it is known which settings of `bad` lose the metric of `good`.

    The same call continues one that was interrupted. Raises ConfigError if the runs do not differ, or
    name code that nobody trusts.
    """
    options.check_pairs()
    configs = read_saved_config(good), read_saved_config(bad)
    decoded = [decode_config(config) for config in configs]
    if not options.trust:
        for config, path in zip(decoded, (good, bad), strict=True):
            check_trusted(config, path, ())
    changes = list_changes(*configs)
    if not changes:
        raise ConfigError(f"{good} and {bad} have the same settings", "dnntrain diff shows what else differs")
    metric = choose_metric(options.metric, decoded[0].eval.metric, decoded[0].task.list_infos())
    rules = options.make_rules(metric)
    base = {**configs[0], "run_dir": None, "resume": "auto", "name": decoded[0].name}
    if decoded[0].launch.scheduler:
        base = compose(["launch=local"], saved=base, quiet=True)
    identity = make_identity([compute_digest(config) for config in configs])
    folder = (folder or Path("runs", f"bisect-{identity}")).expanduser().absolute()
    say(f"{pluralize(len(changes), 'setting')} differ: {_join_texts(changes)}")
    say(f"in {folder}")

    def judge(items: tuple[Change, ...]) -> Verdict:
        try:
            comparison = make_comparison(base, items, folder)
            for place in filter(None, (comparison.folder, comparison.first_folder)):
                make_folder(place)
            check_trainable(comparison)
        except (ConfigError, DataError, PluginError) as error:
            if len(items) == len(changes):
                raise
            # Such settings need others of the bad run, so they say nothing.
            say(f"cannot be trained ({get_first_line(error)}): {_join_texts(items)}")
            return judge_differences((), rules)
        return judge_changes(comparison, items, metric, rules, say)

    with lock_folder(folder):
        result = find_culprits(changes, judge)
        write_json(folder / RESULT_FILE, result.as_json())
    return result


def judge_changes(
    comparison: Comparison, items: Sequence[Change], metric: MetricInfo, rules: Rules, say: Say
) -> Verdict:
    """Train pairs of the good configuration and the same with the changes `items`, and return the verdict.

    If training diverges with the changes, they are worse. Raises the errors of a run that fails.
    """
    differences: list[float] = []
    try:
        for pair in iterate_pairs(comparison, metric, rules.max_pairs, lambda number, side, status: None):
            differences.append(pair.difference)
            if judge_differences(differences, rules).is_final:
                break
    except DivergedError:
        run = comparison.get_run_folder(1, len(differences))
        if read_json(run / "result.json").get("status") != DivergedError.status:
            raise  # the good run did
        say(f"worse, because training diverges: {_join_texts(items)}")
        return replace(judge_differences((), rules), verdict="worse")
    verdict = judge_differences(differences, rules)
    say(f"{verdict.verdict} after {pluralize(len(differences), 'pair')}: {_join_texts(items)}")
    return verdict


def _join_texts(changes: Sequence[Change]) -> str:
    return "; ".join(change.text for change in changes)


def make_comparison(base: dict[str, Any], changes: Sequence[Change], root: Path) -> Comparison:
    """Return the comparison of the configuration `base` with the same after `changes`.

    The folders in `root` are named by their configurations. All comparisons share the runs of `base`.
    """
    words = make_words(base, changes)
    changed = compose(words, saved=base, quiet=True)
    first, second = (make_identity([compute_digest({**config, "run_dir": None})]) for config in (base, changed))
    return Comparison((), ((), words), (base, changed), root / second, saved=base, first_folder=root / f"good-{first}")


def find_culprits(changes: Sequence[Change], judge: Judge) -> BisectResult:
    """Return the changes that lose the metric, as `judge` sees it."""
    verdicts: dict[tuple[Change, ...], Verdict] = {}

    def is_worse(items: tuple[Change, ...]) -> bool:
        if items not in verdicts:
            verdicts[items] = judge(items)
        return verdicts[items].verdict == "worse"

    everything = tuple(changes)
    if not is_worse(everything):
        return BisectResult(everything, verdicts[everything])
    culprits = minimize_changes(everything, is_worse)
    is_worse(culprits)
    result = BisectResult(everything, verdicts[everything], culprits, verdicts[culprits])
    others = tuple(change for change in everything if change not in culprits)
    if not others:
        return result
    is_worse(others)
    return replace(result, others=verdicts[others])


def format_bisection(result: BisectResult) -> Iterator[str]:
    """Yield the lines of the answer."""
    whole = result.whole
    if not result.culprits:
        changes, mean = pluralize(len(result.changes), "change"), f"mean difference {whole.mean_difference:+.4g}"
        if whole.verdict == "undecided":
            pairs = pluralize(len(whole.e_values), "pair")
            yield f"undecided after {pairs} with all {changes} ({mean}): whether they lose the metric is unknown"
            yield "raise --max-pairs for more evidence; dnntrain diff shows a difference in data or versions"
        else:
            yield f"B is {whole.verdict} with all {changes} ({mean}): together they do not lower the metric"
            yield "dnntrain diff shows a difference in data or versions"
        return
    assert result.verdict is not None
    yield f"all {pluralize(len(result.changes), 'change')}: worse ({_describe_loss(whole)})"
    noun = "this setting loses it" if len(result.culprits) == 1 else "these settings lose it together"
    yield f"{noun} ({_describe_loss(result.verdict)}):"
    yield from (f"  {change.text}" for change in result.culprits)
    if result.others is not None:
        count = len(result.changes) - len(result.culprits)
        yield f"without it, the other {pluralize(count, 'change')}: {result.others.verdict}"


def _describe_loss(verdict: Verdict) -> str:
    return f"mean difference {verdict.mean_difference:+.4g}" if verdict.e_values else "training diverges"
