"""Weigh paired differences with e-processes, which may be looked at after every pair.

An e-process E starts at 1. If the change has no effect, its expected value never exceeds 1, so
E >= 1/alpha happens with a probability of at most alpha, at any time (Ville, 1939).

    symmetric  E_n = mean over k in {1, 2, 4, 8} of the product of 1 + tanh(k d_i S_{i-1} / V_i)
    normal     E_n = sqrt(c / (n + c)) ((n + c) V_n / ((n + c) V_n - S_n^2))^(n / 2),  c = 0.25

S_n is the sum of the differences d_1 … d_n and V_n the sum of their squares. The symmetric form
assumes only that a pair may be exchanged if the change has no effect: the sign of d is then a fair
coin, whatever its size, so the stake may depend on the size. V_i includes d_i², so that a large
difference after small ones cannot take the whole stake. The normal form also assumes normal
differences; it is too bold for skewed and two-valued ones. Both depend on the ratios of the
differences only, not on their unit.

Sources: Ramdas et al., "Game-theoretic statistics and safe anytime-valid inference", 2023; Koning
and van Meer, arXiv 2501.03982; Wang and Ramdas, "False discovery rate control with e-values", 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]
#: Computes E_1 … E_n [n, batch] of differences [n, batch].
EProcess = Callable[[_Array], _Array]

_STAKES = np.array([1.0, 2.0, 4.0, 8.0])
_MIXTURE_WEIGHT = 0.25
_GRID_SIZE = 401
_SUBDIVISIONS = 16
_REFINEMENTS = 6
_MAX_EXPONENT = 700.0


def compute_symmetric_e(differences: _Array) -> _Array:
    """Return E_1 … E_n of the symmetric form for differences [n, batch], as [n, batch]."""
    total = np.zeros(differences.shape[1:])
    square_sum = np.zeros(differences.shape[1:])
    log_products = np.zeros((len(_STAKES), *differences.shape[1:]))
    values = np.empty(differences.shape)
    for number, difference in enumerate(differences):
        square_sum += difference**2
        slope = np.divide(total, square_sum, out=np.zeros_like(total), where=square_sum > 0)
        # log(1 + tanh(x)) = log 2 - log(1 + exp(-2x))
        products = _STAKES.reshape(-1, *[1] * difference.ndim) * (slope * difference)
        log_products += math.log(2.0) - np.logaddexp(0.0, -2.0 * products)
        values[number] = np.exp(np.minimum(log_products, _MAX_EXPONENT)).mean(axis=0)
        total += difference
    return values


def compute_normal_e(differences: _Array) -> _Array:
    """Return E_1 … E_n of the normal form for differences [n, batch], as [n, batch]."""
    counts = np.arange(1, len(differences) + 1).reshape(-1, *[1] * (differences.ndim - 1))
    total, square_sum = differences.cumsum(axis=0), (differences**2).cumsum(axis=0)
    scaled = (counts + _MIXTURE_WEIGHT) * square_sum
    ratio = np.divide(scaled, scaled - total**2, out=np.ones_like(scaled), where=square_sum > 0)
    exponent = 0.5 * np.log(_MIXTURE_WEIGHT / (counts + _MIXTURE_WEIGHT)) + counts / 2 * np.log(ratio)
    return np.exp(np.where(square_sum > 0, np.minimum(exponent, _MAX_EXPONENT), 0.0))


#: The forms by the name of their assumption.
E_PROCESSES: dict[str, EProcess] = {"symmetric": compute_symmetric_e, "normal": compute_normal_e}


def compute_e_values(differences: Sequence[float], assume: str = "symmetric") -> list[float]:
    """Return E_1 … E_n of one sequence of differences."""
    if not differences:
        return []
    values: list[float] = E_PROCESSES[assume](np.asarray(_rescale(differences))[:, None])[:, 0].tolist()
    return values


@dataclass(frozen=True)
class EffectInterval:
    """The differences that the pairs do not reject; a bound is infinite if no pair bounds it yet."""

    low: float
    high: float

    def is_within(self, margin: float) -> bool:
        """Return whether every difference is at most `margin` from zero."""
        return -margin <= self.low and self.high <= margin

    def as_json(self) -> list[float | None]:
        return [value if math.isfinite(value) else None for value in (self.low, self.high)]


def compute_effect_interval(
    differences: Sequence[float], alpha: float = 0.05, assume: str = "symmetric"
) -> EffectInterval:
    """Return the confidence interval of the difference, valid after any number of pairs.

    It holds every shift that the e-process of the shifted differences has never rejected at
    `alpha`, and the mean, which differences that drift may have rejected earlier. If they have
    rejected every shift, it is their range. It is infinite before six pairs, because no sequence of
    five can reach 20.
    """
    values = np.asarray(_rescale(differences), dtype=np.float64)
    unit = max(map(abs, differences), default=0.0)
    if not len(values):
        return EffectInterval(-math.inf, math.inf)
    if np.all(values == values[0]):
        # Equal differences leave no width: the grid below would be a single point.
        spread = abs(values[0]) or 1.0
    else:
        spread = float(np.ptp(values))
    center = float(np.mean(values))
    process = E_PROCESSES[assume]

    def is_rejected(shifts: _Array) -> NDArray[np.bool_]:
        rejected: NDArray[np.bool_] = process(values[:, None] - shifts).max(axis=0) >= 1 / alpha
        return rejected

    reach = 8.0 * spread
    shifts = center + np.linspace(-reach, reach, _GRID_SIZE)
    rejected = is_rejected(shifts)
    kept = np.flatnonzero(~rejected)
    if not len(kept):
        return EffectInterval(float(values.min()) * unit, float(values.max()) * unit)
    low = min(_refine(shifts, kept[0], -1, is_rejected), center) * unit
    high = max(_refine(shifts, kept[-1], 1, is_rejected), center) * unit
    return EffectInterval(low, high)


def _refine(shifts: _Array, kept: int, step: int, is_rejected: Callable[[_Array], NDArray[np.bool_]]) -> float:
    """Return the bound between a kept point of the grid and its rejected neighbor, by subdivision."""
    if not 0 <= kept + step < len(shifts):
        return step * math.inf
    inside, outside = float(shifts[kept]), float(shifts[kept + step])
    for _ in range(_REFINEMENTS):
        points = np.linspace(inside, outside, _SUBDIVISIONS + 1)[1:]
        rejected = is_rejected(points)
        last = int(np.argmax(rejected)) if rejected.any() else _SUBDIVISIONS - 1
        inside, outside = float(points[last - 1]) if last else inside, float(points[last])
    return outside


def select_by_e_bh(e_values: Sequence[float], alpha: float = 0.05) -> list[bool]:
    """Return which of K claims hold, with a false discovery rate of at most `alpha`.

    The e-BH procedure keeps the k claims with the largest e-values for the largest k with
    e_(k) >= K / (alpha k). The claims may depend on each other.
    """
    order = sorted(range(len(e_values)), key=lambda index: -e_values[index])
    count = max((k for k, index in enumerate(order, 1) if e_values[index] >= len(e_values) / (alpha * k)), default=0)
    kept = set(order[:count])
    return [index in kept for index in range(len(e_values))]


def _rescale(differences: Sequence[float]) -> list[float]:
    """Return the differences over the largest, so that squares of tiny ones do not vanish."""
    largest = max(map(abs, differences), default=0.0)
    return [value / largest for value in differences] if largest else list(differences)
