"""Propose the values of the next trial: all combinations in order, or what Optuna's samplers propose.

Optuna is asked and told; it runs nothing. Its state follows from the questions and answers so far, which
`search.json` lists: a search is continued by asking and telling again, and no file of Optuna is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dnntrain.errors import ConfigError
from dnntrain.sweep.option_values import SamplerName
from dnntrain.sweep.search_space import Dimension, SearchSpace

Values = Mapping[str, float | str]

#: Points of a search, for a sampler that learns from few trials.
_NSGA_POPULATION = 16


class Sampler:
    """Propose values, and learn from results; trials count from 0, in the order of `ask`."""

    def ask(self) -> Values | None:
        """Return the values of the next trial by key; None if no trial is left."""
        return None

    def tell(self, trial: int, results: Sequence[float]) -> None:
        """Record the results of a trial, one for each metric."""

    def tell_stopped(self, trial: int, step: int, value: float) -> None:
        """Record that a trial was stopped after `step`, with its best value."""

    def tell_failed(self, trial: int) -> None:
        """Record that a trial has no result."""

    def compute_importances(self) -> dict[str, float]:
        """Return the share of each key in the variance of the results; empty if it cannot be known."""
        return {}


class GridSampler(Sampler):
    """Every combination, the last word fastest."""

    def __init__(self, space: SearchSpace) -> None:
        for dimension in space.dimensions:
            if not dimension.choices:
                raise ConfigError(
                    f"{dimension.key}: an interval has infinitely many values",
                    "use --search tpe --trials 20, or list its values",
                )
        keys = [dimension.key for dimension in space.dimensions]
        values = itertools.product(*(dimension.choices for dimension in space.dimensions))
        self._combinations = iter([dict(zip(keys, combination, strict=True)) for combination in values])

    def ask(self) -> Values | None:
        return next(self._combinations, None)


class OptunaSampler(Sampler):
    """A sampler of Optuna, with a journal file that its dashboard opens.

    journal  the file; it is written again when a search continues
    """

    def __init__(
        self, name: SamplerName, space: SearchSpace, seed: int, maximize: Sequence[bool], journal: Path
    ) -> None:
        optuna = import_optuna()
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        for path in (journal, journal.with_name(f"{journal.name}.lock")):
            path.unlink(missing_ok=True)
        self._distributions = {dimension.key: _make_distribution(dimension) for dimension in space.dimensions}
        self._study: Any = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            sampler=_make_optuna_sampler(name, seed),
            directions=["maximize" if is_greater else "minimize" for is_greater in maximize],
            study_name=journal.parent.name,
        )
        self._trials: list[Any] = []

    def ask(self) -> Values | None:
        trial = self._study.ask(self._distributions)
        self._trials.append(trial)
        return dict(trial.params)

    def tell(self, trial: int, results: Sequence[float]) -> None:
        self._study.tell(self._trials[trial], list(results))

    def tell_stopped(self, trial: int, step: int, value: float) -> None:
        self._trials[trial].report(value, step)
        self._study.tell(self._trials[trial], state=import_optuna().trial.TrialState.PRUNED)

    def tell_failed(self, trial: int) -> None:
        self._study.tell(self._trials[trial], state=import_optuna().trial.TrialState.FAIL)

    def compute_importances(self) -> dict[str, float]:
        optuna = import_optuna()
        if len(self._study.directions) > 1:
            return {}
        # Few results, or equal ones, have no importances.
        with suppress(ValueError, RuntimeError):
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            return {
                key: float(share)
                for key, share in optuna.importance.get_param_importances(self._study, evaluator=evaluator).items()
            }
        return {}


def import_optuna() -> Any:
    """Return the module optuna. Raises ConfigError if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "--search needs optuna, which is not installed",
            "pip install 'dnntrain[sweep]', or use --search grid",
        ) from None
    return optuna


def _make_distribution(dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.is_whole:
        return IntDistribution(round(dimension.low), round(dimension.high), log=dimension.is_log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.is_log)


def _make_optuna_sampler(name: SamplerName, seed: int) -> Any:
    samplers = import_optuna().samplers
    if name == "random":
        return samplers.RandomSampler(seed=seed)
    if name == "tpe":
        return samplers.TPESampler(seed=seed, multivariate=False, constant_liar=True)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=seed, population_size=_NSGA_POPULATION)
    if find_spec("cmaes") is None:
        raise ConfigError("--search cmaes needs cmaes, which is not installed", "pip install 'dnntrain[sweep]'")
    return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


def make_sampler(name: SamplerName, space: SearchSpace, seed: int, maximize: Sequence[bool], journal: Path) -> Sampler:
    """Return the sampler called `name`. Raises ConfigError if it cannot search this space."""
    if name == "grid":
        return GridSampler(space)
    if len(maximize) > 1 and name == "cmaes":
        raise ConfigError("--search cmaes has one metric", "use --search nsga2 for several, or name one")
    if name == "cmaes" and not any(not dimension.choices for dimension in space.dimensions):
        raise ConfigError("--search cmaes needs a key with an interval", "use --search tpe for choices")
    return OptunaSampler(name, space, seed, maximize, journal)
