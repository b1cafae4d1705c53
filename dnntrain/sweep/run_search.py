"""Run a search: propose a trial whenever a part of the machine is free, and stop those that fall behind."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dnntrain.config.saved_config import read_saved_config
from dnntrain.errors import CheckpointError, ConfigError, DnntrainError, Preempted
from dnntrain.run.directory import lock_folder
from dnntrain.sweep.early_stop import RULES, History, StopRule
from dnntrain.sweep.grid import Combination, leave_out_folder, make_folder_name
from dnntrain.sweep.prepare import prepare_trial
from dnntrain.sweep.prepare_search import Search
from dnntrain.sweep.progress_table import PlainProgressTable, make_progress_table
from dnntrain.sweep.resources import ResourceDemand
from dnntrain.sweep.run_sweep import make_stop_error
from dnntrain.sweep.samplers import Sampler, make_sampler
from dnntrain.sweep.search_log import JOURNAL_FILE, SearchLog
from dnntrain.sweep.search_results import read_results
from dnntrain.sweep.sweep_directory import (
    STOPPED_EARLY,
    Trial,
    TrialStatus,
    freeze_trial,
    get_exit_code,
    read_failure,
    read_status,
    status_after_exit,
)
from dnntrain.sweep.trial_list import write_list
from dnntrain.sweep.trial_runner import TrialRunner, TrialSource
from dnntrain.training.metrics_writer import read_rows
from dnntrain.utils.units import pluralize

#: Proposals in a row that cannot be planned, after which a search ends.
_MAX_REFUSED = 20
#: The status of a proposal that cannot be planned.
_REFUSED = TrialStatus("refused", exit_code=2, is_final=True)
#: Digits of a trial's number in the names of folders.
_NUMBER_WIDTH = 4


@dataclass
class SearchState:
    """A search as it runs: its log, its sampler, its trials and what they have reported."""

    search: Search
    log: SearchLog
    sampler: Sampler
    trials: list[Trial] = field(default_factory=list)
    statuses: list[TrialStatus] = field(default_factory=list)
    histories: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    judged: set[tuple[int, int]] = field(default_factory=set)
    refused: int = 0

    @property
    def has_result(self) -> bool:
        """True if a trial is done."""
        return any(event.get("results") is not None for event in self.log.events)


def run_search(search: Search, display: str) -> SearchState:
    """Run the trials of a search; the same line continues it. Raises Stopped if a signal ended it."""
    with lock_folder(search.folder):
        state = _restore(search)
        table = make_progress_table(display, search.folder, state.trials, state.statuses)
        table.total = search.num_trials or table.total
        table.open()
        try:
            source = _SearchSource(state, table)
            source.record_results()
            signal_number = TrialRunner(table, search.resource_sets, source).run()
        finally:
            state.statuses = list(table.statuses)
            table.close()
        if signal_number is not None:
            num_done = sum(status.is_done for status in state.statuses)
            raise make_stop_error(signal_number, f"the search was stopped with {pluralize(num_done, 'trial')} done")
    return state


def get_search_exit_code(state: SearchState) -> int:
    """Return 0 if a trial has a result, else the exit code of the first trial."""
    return 0 if state.has_result else get_exit_code(state.statuses)


def _restore(search: Search) -> SearchState:
    """Return the search as its folder has it."""
    assert search.identity is not None
    log = SearchLog.open(search.folder, search.identity)
    maximize = [metric.higher_is_better for metric in search.metrics]
    sampler = make_sampler(search.options.search, search.space, search.seed, maximize, search.folder / JOURNAL_FILE)
    log.replay(sampler)
    state = SearchState(search, log, sampler)
    stops, finished = log.get_stops(), set(log.list_finished())
    for number, values in enumerate(log.list_values()):
        has_ended = number in finished and _place(search, number, values)[1].is_dir()
        trial = _make_ended(search, number, values) if has_ended else _prepare(search, number, values)
        if trial is not None and not has_ended and not (trial.folder / "overrides.txt").is_file():
            # The search was killed after the proposal was recorded, and before its folder was written:
            # overrides.txt is its last file.
            freeze_trial(trial, search.config_dir)
        if trial is None:
            # It cannot be planned, and its place in the list stays.
            state.trials.append(_make_placeholder(search, number, values))
            state.statuses.append(_REFUSED)
            continue
        status = read_status(trial)
        if number in stops:
            # As it was when the trial had saved and ended.
            status = _mark_stopped(status_after_exit(trial, Preempted.exit_code), *stops[number])
        elif number in finished:
            status = replace(status if status.is_done else read_failure(trial), is_final=True)
        state.trials.append(trial)
        state.statuses.append(status)
        state.histories[number] = _cut_history(read_history(trial, search), stops.get(number))
    write_list(search.folder, [trial for trial in state.trials if trial.folder.is_dir()])
    return state


def _mark_stopped(status: TrialStatus, step: int, value: float) -> TrialStatus:
    """Return the status of a trial that the search stopped after `step`, with its best value."""
    return replace(status, status=STOPPED_EARLY, step=step, best=value, value=None, exit_code=0, reason="")


def _prepare(search: Search, number: int, values: Any) -> Trial | None:
    """Return the trial of a proposal; None if it cannot be planned."""
    combination, path = _place(search, number, values)
    try:
        line = search.composer.compose(combination.words, combination.swept_words, quiet=True)
        return prepare_trial(number + 1, combination, line.config, path)[0]
    except DnntrainError:
        return None


def _make_ended(search: Search, number: int, values: Any) -> Trial:
    """Return a trial that is not trained again; it needs no plan."""
    combination, path = _place(search, number, values)
    return _make_unplanned(search, number, combination, read_saved_config(path), path)


def _make_placeholder(search: Search, number: int, values: Any) -> Trial:
    combination, path = _place(search, number, values)
    return _make_unplanned(search, number, combination, {"eval": {"metric": search.trial_metric.name}}, path)


def _make_unplanned(
    search: Search, number: int, combination: Combination, config: Mapping[str, Any], path: Path
) -> Trial:
    words, swept_words = leave_out_folder(combination.words), combination.swept_words
    return Trial(number + 1, words, swept_words, config, path, ResourceDemand(), metric_info=search.trial_metric)


def _place(search: Search, number: int, values: Any) -> tuple[Combination, Path]:
    """Return the words of a proposal and its folder."""
    combination = search.space.make_combination(values)
    name = make_folder_name(number + 1, 10**_NUMBER_WIDTH - 1, combination.swept_words)
    return combination, search.folder / name


def read_history(trial: Trial, search: Search) -> list[tuple[int, float]]:
    """Return (step, value) of a trial's validations; greater values are better."""
    metric = search.metrics[0]
    rows = read_rows(trial.folder / "metrics.jsonl")
    return [
        (row["step"], metric.sign * row[metric.name])
        for row in rows
        if row.get("split") == "val" and isinstance(row.get(metric.name), int | float) and "step" in row
    ]


def _cut_history(history: list[tuple[int, float]], stop: tuple[int, float] | None) -> list[tuple[int, float]]:
    """Return the history up to the step at which the trial was stopped; it may have trained on until it heard of it."""
    return [(step, value) for step, value in history if stop is None or step <= stop[0]]


class _SearchSource(TrialSource):
    """Give the runner of trials the next proposal, and judge the trials that run."""

    def __init__(self, state: SearchState, table: PlainProgressTable) -> None:
        self._state = state
        self._table = table
        rule = state.search.options.stop_early
        self._rule: StopRule | None = None if rule is None else RULES[rule]()

    def take_next(self) -> int | None:
        state, search = self._state, self._state.search
        while search.num_trials is None or len(state.trials) < search.num_trials:
            number = len(state.trials)
            values = state.log.ask(state.sampler)
            if values is None:
                return None
            trial = _prepare(search, number, values)
            if trial is None:
                state.trials.append(_make_placeholder(search, number, values))
                self._table.add_trial(state.trials[-1], _REFUSED)
                state.log.tell(state.sampler, number, None)
                state.refused += 1
                if state.refused >= _MAX_REFUSED:
                    raise ConfigError(
                        f"{_MAX_REFUSED} proposals in a row cannot be planned",
                        f"dnntrain plan {shlex.join(state.trials[-1].words)} says why; narrow the intervals",
                    )
                continue
            state.refused = 0
            freeze_trial(trial, search.config_dir)
            state.trials.append(trial)
            write_list(search.folder, [trial for trial in state.trials if trial.folder.is_dir()])
            self._table.add_trial(trial, TrialStatus())
            return number
        return None

    def record_results(self) -> None:
        """Record the results of trials that ended just before the search was killed."""
        finished = set(self._state.log.list_finished())
        for index, status in enumerate(self._table.statuses):
            if status.is_done and index not in finished:
                self.on_end(index)

    def on_end(self, index: int) -> None:
        state = self._state
        # Its last points may have come after the last refresh.
        self._stop_if_behind(index)
        if index in state.log.get_stops():
            stop = state.log.get_stops()[index]
            self._table.statuses[index] = _mark_stopped(self._table.statuses[index], *stop)
            return
        status = self._table.statuses[index]
        if status.is_done:
            try:
                results = read_results(state.trials[index].folder, state.search.metrics)
            except CheckpointError as error:
                # The other trials go on; the sampler takes this one for failed.
                self._table.say(f"trial {index + 1} counts as failed: {error.message}", important=True)
                results = None
            state.log.tell(state.sampler, index, results)
        elif status.status not in ("preempted", "interrupted", "killed", "broken off"):
            state.log.tell(state.sampler, index, None)

    def list_stops(self, running: Sequence[int]) -> list[int]:
        """Return the running trials that end now."""
        return [index for index in running if self._stop_if_behind(index)]

    def _stop_if_behind(self, index: int) -> bool:
        """Record that a trial is stopped if it is behind at one of its points; return whether it now is."""
        state = self._state
        if self._rule is None or index in state.log.get_stops():
            return False
        history = state.histories[index] = read_history(state.trials[index], state.search)
        point = self._find_lost_point(index, history)
        if point is None:
            return False
        # The validation at the point decides, not how far the trial has come since.
        step = next(step for step, _ in history if step >= point)
        state.histories[index] = _cut_history(history, (step, 0.0))
        best = max(value for _, value in state.histories[index])
        state.log.stop(state.sampler, index, step, state.search.metrics[0].sign * best)
        return True

    def _find_lost_point(self, index: int, history: History) -> int | None:
        """Judge a trial at each of its points once; return the first at which it is behind."""
        assert self._rule is not None
        state = self._state
        if not history:
            return None
        total = state.trials[index].total_steps
        points = self._rule.list_points(total) or tuple(step for step, _ in history)
        first = self._rule.get_first_step(total)
        reached = [point for point in points if first <= point <= history[-1][0] and point < total]
        new_points = [point for point in reached if (index, point) not in state.judged]
        state.judged.update((index, point) for point in new_points)
        return next((point for point in new_points if self._rule.should_stop(index, point, state.histories)), None)
