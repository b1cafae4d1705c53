"""Compare two configurations, two sets of finished runs, or the variants of a sweep."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dnntrain.config.decode import decode_config
from dnntrain.config.digest import compute_digest
from dnntrain.errors import ConfigError, DnntrainError
from dnntrain.protocols import MetricInfo
from dnntrain.prove.display import EvidenceDisplay
from dnntrain.prove.distillation import diagnose_pairs
from dnntrain.prove.metrics import DEFAULT_SHARE_MARGIN, FIGURES, choose_metric, describe_split
from dnntrain.prove.page import write_prove_report
from dnntrain.prove.pairs import Comparison, Pair, iterate_pairs
from dnntrain.prove.result import ProveResult, describe_verdict, format_line
from dnntrain.prove.run_sets import group_sweep, pair_runs, read_finished_config
from dnntrain.prove.verdict import Rules, judge_differences
from dnntrain.run.directory import lock_folder
from dnntrain.utils.evidence import select_by_e_bh
from dnntrain.utils.json_files import read_json, write_json
from dnntrain.utils.words import add_config_dir

RESULT_FILE = "prove.json"


@dataclass(frozen=True)
class ProveOptions:
    """The options of a comparison, as the command line has them.

    Raises ConfigError for a single pair.
    """

    metric: str | None = None
    margin: float | None = None
    alpha: float = 0.05
    max_pairs: int = 30
    assume: str = "symmetric"
    trust: bool = False

    def __post_init__(self) -> None:
        if self.max_pairs < 2:
            raise ConfigError(
                "--max-pairs must be at least 2", "one pair shows nothing about noise; use --max-pairs 30"
            )

    def check_pairs(self) -> None:
        """Raise ConfigError for a number of pairs that cannot decide.

        The e-value of n pairs is below 2^(n - 1) if their differences are only known to be symmetric.
        """
        needed = math.floor(math.log2(1 / self.alpha)) + 2
        if self.assume == "symmetric" and self.max_pairs < needed:
            raise ConfigError(
                f"--max-pairs {self.max_pairs} cannot decide: --alpha {self.alpha:g} needs at least {needed} pairs",
                f"use --max-pairs {max(needed, 12)}, or a larger --alpha",
            )

    def make_rules(self, metric: MetricInfo) -> Rules:
        """Return the rules for a metric; only shares have a margin by default."""
        margin = self.margin if self.margin is not None else DEFAULT_SHARE_MARGIN if metric.is_share else None
        return Rules(metric.sign, self.alpha, margin, self.max_pairs, self.assume)


def prove_by_training(comparison: Comparison, options: ProveOptions, display_mode: str) -> ProveResult:
    """Train pairs until they decide, and write prove.json and report.html in the folder.

    A comparison that was interrupted continues. Raises Stopped on a signal.
    """
    options.check_pairs()
    config = decode_config(comparison.configs[0])
    metric = choose_metric(options.metric, config.eval.metric, config.task.list_infos())
    rules = options.make_rules(metric)
    labels = (shlex.join(comparison.words[0]), shlex.join(comparison.words[1]))
    digests = [compute_digest(config) for config in comparison.configs]
    pairs: list[Pair] = []
    verdict = judge_differences([], rules)
    with lock_folder(comparison.folder), EvidenceDisplay(metric, rules, display_mode) as display:
        # An earlier verdict on the same configurations stays until there is a new one.
        if read_json(comparison.folder / RESULT_FILE).get("config_digests") != digests:
            write_json(comparison.folder / RESULT_FILE, {"config_digests": digests})
        display.say(f"A: {labels[0] or 'as configured'}\nB: {labels[1] or 'as configured'}\nin {comparison.folder}")
        for pair in iterate_pairs(comparison, metric, rules.max_pairs, display.show_status):
            pairs.append(pair)
            verdict = judge_differences([pair.difference for pair in pairs], rules)
            display.show_pair(pair, verdict)
            if verdict.is_final:
                break
        result = ProveResult(
            labels,
            metric,
            rules,
            tuple(pairs),
            verdict,
            _list_lines(comparison, len(pairs)),
            notes=describe_split([run for pair in pairs for run in pair.runs], metric),
        )
        result = _add_test_facts(result, display.say, True, options.trust)
        write_json(comparison.folder / RESULT_FILE, {"config_digests": digests, **result.as_json()})
        write_prove_report({"Verdict": result}, comparison.folder / "report.html")
    return result


def prove_by_runs(
    runs_a: Sequence[Path], runs_b: Sequence[Path], options: ProveOptions, say: Callable[[str], None]
) -> ProveResult:
    """Compare two sets of finished runs."""
    config = decode_config(read_finished_config(runs_a[0]))
    metric = choose_metric(options.metric, config.eval.metric, config.task.list_infos())
    pairs, notes = pair_runs(runs_a, runs_b, metric, options.trust)
    rules = replace(options.make_rules(metric), max_pairs=max(len(pairs), options.max_pairs))
    verdict = judge_differences([pair.difference for pair in pairs], rules)
    labels = (_name_runs(runs_a), _name_runs(runs_b))
    result = ProveResult(labels, metric, rules, tuple(pairs), verdict, notes=notes)
    return _add_test_facts(result, say, options.trust, options.trust)


def prove_sweep(folder: Path, options: ProveOptions, say: Callable[[str], None]) -> dict[str, ProveResult]:
    """Compare every variant of a sweep with its first, pair by pair of a seed.

    All claims hold together at `alpha` by e-BH: a claim that it does not keep becomes undecided.
    """
    groups = group_sweep(folder)
    (first_name, first_runs), *others = groups.items()
    results = {}
    for name, runs in others:
        result = prove_by_runs(first_runs, runs, options, say)
        results[name] = replace(result, labels=(first_name, name))
    kept = select_by_e_bh([result.verdict.e_value for result in results.values()], options.alpha)
    for (name, result), is_kept in zip(list(results.items()), kept, strict=True):
        if result.verdict.verdict in ("better", "worse") and not is_kept:
            note = f"Alone it would be {result.verdict.verdict}; among {len(results)} claims the evidence is too weak."
            undecided = replace(result.verdict, verdict="undecided")
            results[name] = replace(result, verdict=undecided, notes=(*result.notes, note))
    write_prove_report({f"{name} against {first_name}": item for name, item in results.items()}, folder / "prove.html")
    return results


def _list_lines(comparison: Comparison, count: int) -> tuple[tuple[str, str], ...]:
    def format_side(side: int, index: int) -> str:
        return format_line(add_config_dir(comparison.config_dir, comparison.make_words(side, index)))

    return tuple((format_side(0, index), format_side(1, index)) for index in range(count))


def _name_runs(runs: Sequence[Path]) -> str:
    return str(runs[0]) if len(runs) == 1 else f"{runs[0]} and {len(runs) - 1} more"


def _add_test_facts(
    result: ProveResult, say: Callable[[str], None], trusts_runs: bool, trusts_teachers: bool
) -> ProveResult:
    """Return the result with the error of the test set and the diagnosis of a distillation.

    Runs that the command has trained may use the code that they name; teachers may come from elsewhere.
    """
    test_set_error = _measure_test_set_error(result, say, trusts_runs)
    distillation = diagnose_pairs(result.pairs, trusts_runs, trusts_teachers, say)
    return replace(result, test_set_error=test_set_error, distillation=distillation)


def _measure_test_set_error(result: ProveResult, say: Callable[[str], None], trust: bool) -> float | None:
    """Return the error that the finite test set causes; None if the metric is not one of the task."""
    if not result.pairs or result.metric.name in {figure.name for figure in FIGURES}:
        return None
    from dnntrain.prove.test_set_error import measure_test_set_error

    say(f"evaluating the test set with {2 * len(result.pairs)} models")
    try:
        return measure_test_set_error([pair.runs for pair in result.pairs], result.metric.name, trust)
    except DnntrainError as error:
        say(f"the error of the test set is unknown: {error.message}")
        return None


def format_text(results: Sequence[ProveResult]) -> str:
    """Return the verdicts in words; each comparison of a sweep names its variant first."""
    blocks = []
    for result in results:
        head = [f"B = {result.labels[1]}"] if len(results) > 1 else []
        blocks.append("\n".join([*head, *describe_verdict(result)]))
    return "\n\n".join(blocks)
