"""Judge maps: each one, and the method as a whole. A map that fails a check is not to be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dnntrain.explain.insertion import CurveSet
from dnntrain.explain.randomization import Randomization
from dnntrain.explain.statistics import Interval, compute_interval

#: The least rank correlation under noise, and the largest one with a random network.
MIN_STABILITY = 0.5
MAX_RANDOM = 0.5


@dataclass(frozen=True)
class MapMeasurements:
    """The measurements of n maps, in one order.

    curves         insertion and deletion
    stability      [n], rank correlation under noise
    randomization  None for a model whose weights are out of reach
    """

    curves: CurveSet
    stability: Tensor
    randomization: Randomization | None

    def find_faults(self, row: int) -> list[str]:
        """Return why the map of an example is not to be trusted; empty if it is."""
        faults = []
        for kind, sign in (("insertion", 1), ("deletion", -1)):
            area = float(self.curves.compute_areas(kind, "map")[row])
            random = compute_interval(self.curves.random_areas[kind][row])
            bound = random.high if sign > 0 else random.low
            if not sign * area > sign * bound:
                side = "above" if sign > 0 else "below"
                faults.append(f"{kind} {area:.2f} is not {side} random maps ({random.low:.2f} to {random.high:.2f})")
        stability = float(self.stability[row])
        if not stability >= MIN_STABILITY:
            faults.append(f"unstable: rank correlation {stability:.2f} under {NOISE_TEXT}")
        if self.randomization is not None:
            correlation = float(self.randomization.correlations[-1, row])
            if not correlation < MAX_RANDOM:
                faults.append(f"rank correlation {correlation:.2f} with the map of a network of random weights")
        return faults

    def describe_row(self, row: int) -> dict[str, Any]:
        """Return the measurements of one map as plain values."""
        values: dict[str, Any] = {
            f"{kind}_{order}": float(self.curves.compute_areas(kind, order)[row])
            for kind in ("insertion", "deletion")
            for order in ("map", *self.curves.orders)
        }
        values["stability"] = float(self.stability[row])
        if self.randomization is not None:
            values["random_weights"] = float(self.randomization.correlations[-1, row])
            values["entropy_rise"] = float(self.randomization.entropy_rises[row])
        return values


NOISE_TEXT = "noise of 2 %"

#: The orders that a map must beat.
_ORDERS = {
    "random": "random maps",
    "center": "the distance from the center",
    "end": "the distance from the end",
}


@dataclass(frozen=True)
class Check:
    """One check of the method over the check sample: its value, the value that it must beat, and the verdict."""

    name: str
    value: Interval
    bound: Interval | None
    rule: str
    passed: bool

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            **self.value.as_json(),
            "against": None if self.bound is None else self.bound.as_json(),
            "rule": self.rule,
            "passed": self.passed,
        }


def judge_method(measured: MapMeasurements) -> list[Check]:
    """Return the checks of the method, from the maps of a sample of examples."""
    checks = []
    for kind, sign in (("insertion", 1), ("deletion", -1)):
        mine = measured.curves.compute_areas(kind, "map")
        for order in measured.curves.orders:
            noun = _ORDERS[order]
            other = measured.curves.compute_areas(kind, order)
            gain = compute_interval(sign * (mine - other))
            side = "above" if sign > 0 else "below"
            checks.append(
                Check(
                    f"{kind} against {noun}",
                    compute_interval(mine),
                    compute_interval(other),
                    f"the area must be {side} that of {noun}; difference {gain.low:+.3f} to {gain.high:+.3f}",
                    gain.low > 0,
                )
            )
    stability = compute_interval(measured.stability)
    checks.append(
        Check(
            "stability",
            stability,
            None,
            f"rank correlation under {NOISE_TEXT}: at least {MIN_STABILITY}",
            stability.mean >= MIN_STABILITY,
        )
    )
    if measured.randomization is not None:
        correlation = compute_interval(measured.randomization.correlations[-1])
        checks.append(
            Check(
                "random weights",
                correlation,
                None,
                f"rank correlation with the map of a network of random weights: below {MAX_RANDOM}",
                correlation.high < MAX_RANDOM,
            )
        )
        rise = compute_interval(measured.randomization.entropy_rises)
        checks.append(
            Check("entropy", rise, None, "entropy with random weights over entropy as trained: above 1", rise.low > 1)
        )
    return checks


#: Checks whose failure makes all maps of the method doubtful. The others are shown.
DECISIVE = ("insertion against random maps", "deletion against random maps", "stability", "random weights")


def find_method_faults(checks: list[Check]) -> list[str]:
    """Return why no map of the method is to be trusted; empty if they may be."""
    return [
        f"{check.name}: {check.value.mean:.2f} ({check.rule})"
        for check in checks
        if check.name in DECISIVE and not check.passed
    ]


def select_rows(measured: MapMeasurements, rows: list[int]) -> MapMeasurements:
    """Return the measurements of some of the maps."""
    index = torch.tensor(rows, dtype=torch.long)
    curves = CurveSet(
        {order: curve[index] for order, curve in measured.curves.insertion.items()},
        {order: curve[index] for order, curve in measured.curves.deletion.items()},
        {kind: areas[index] for kind, areas in measured.curves.random_areas.items()},
    )
    randomization = measured.randomization
    if randomization is not None:
        randomization = Randomization(
            randomization.layers, randomization.correlations[:, index], randomization.entropies[:, index]
        )
    return MapMeasurements(curves, measured.stability[index], randomization)
