"""Make and check the maps of examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dnntrain.explain.examples import Example
from dnntrain.explain.insertion import RANDOM_MAPS, STEPS, measure_curves
from dnntrain.explain.map_checks import DECISIVE, Check, MapMeasurements, find_method_faults, judge_method
from dnntrain.explain.map_set import MapSet, join_maps, select_maps
from dnntrain.explain.map_share import MapShare
from dnntrain.explain.method import Aim, MapMethod, select_answers
from dnntrain.explain.randomization import STAGES, measure_randomization
from dnntrain.explain.stability import DRAWS, measure_stability
from dnntrain.explain.subject import Subject
from dnntrain.explain.token_checks import measure_tokens
from dnntrain.explain.token_gradients import TokenGradients
from dnntrain.utils.rng import Key

#: Random examples on which the method is judged.
CHECK_EXAMPLES = 24

#: Examples of which maps are made at once.
_BATCH = 8


@dataclass(frozen=True)
class CheckedMaps:
    """The maps that are shown, and the judgment of their method.

    examples  the shown examples
    shown     their maps
    sample    the maps of the check sample
    checks    the verdicts over the check sample
    faults    why no map is to be trusted; empty if they may be
    """

    method: MapMethod
    examples: list[Example]
    shown: MapSet
    sample: MapSet
    checks: list[Check]
    faults: list[str]

    @property
    def unit(self) -> str:
        """The places of a map."""
        return "tokens" if isinstance(self.method, TokenGradients) else "pixels"

    def find_faults(self, row: int) -> list[str]:
        """Return why the map of a shown example is not to be trusted."""
        failed = [check.name for check in self.checks if check.name in DECISIVE and not check.passed]
        shared = [f"the method failed on random examples: {', '.join(failed)}"] if failed else []
        return [*shared, *self.shown.measured.find_faults(row)]

    def as_json(self) -> dict[str, Any]:
        """Return the method, its checks, and the curves of the check sample."""
        curves = self.sample.measured.curves
        randomization = self.sample.measured.randomization
        value: dict[str, Any] = {
            "method": self.method.name,
            "grid": list(self.method.grid),
            "check_examples": len(self.sample.maps),
            "checks": [check.as_json() for check in self.checks],
            "trusted": not self.faults,
            "insertion": {order: curve.mean(0).tolist() for order, curve in curves.insertion.items()},
            "deletion": {order: curve.mean(0).tolist() for order, curve in curves.deletion.items()},
        }
        if randomization is not None:
            value["randomization"] = {
                "layers": list(randomization.layers),
                "correlations": randomization.correlations.mean(1).tolist(),
                "entropies": randomization.entropies.mean(1).tolist(),
            }
        return value


def count_calls(method: MapMethod, has_weights: bool) -> int:
    """Return the calls of the model for one image: its map, its curves and its checks."""
    maps = 1 + DRAWS + (STAGES if has_weights else 0)
    return maps * method.calls + 2 * (2 + RANDOM_MAPS) * (STEPS + 1)


def make_maps(subject: Subject, method: MapMethod, inputs: Tensor, key: Key, share: MapShare) -> MapSet | None:
    """Make the maps of inputs, and measure each of them; None on a rank that gives its part to the main one."""
    batches = torch.split(inputs, _BATCH)

    def make_part(number: int) -> MapSet:
        return _make_part(subject, method, batches[number], key, number * _BATCH)

    parts = share.make_parts(batches, make_part)
    if parts is None:
        return None
    return parts[0] if len(parts) == 1 else join_maps(parts)


def _make_part(subject: Subject, method: MapMethod, inputs: Tensor, key: Key, first: int) -> MapSet:
    outputs = select_answers(subject.loaded.compute_outputs(inputs)).float()
    aim = subject.choose_aim(outputs, inputs)
    maps = method.compute_maps(subject.model, inputs, aim)
    if isinstance(method, TokenGradients):
        measured = measure_tokens(subject, method, inputs, maps, aim, key, first)
    else:
        measured = _measure_images(subject, method, inputs, maps, aim, key, first)
    return MapSet(inputs, outputs, aim, maps, measured)


def _measure_images(
    subject: Subject, method: MapMethod, inputs: Tensor, maps: Tensor, aim: Aim, key: Key, first: int
) -> MapMeasurements:
    answer = subject.make_answer(aim, inputs)
    randomization = (
        measure_randomization(method, subject.model, inputs, maps, aim, key.with_stream("explain.weights"))
        if subject.has_gradients
        else None
    )
    spec = subject.loaded.spec.inputs
    noise_key = key.with_stream("explain.noise")
    return MapMeasurements(
        measure_curves(answer, inputs, maps, method.grid, key.with_stream("explain.random"), first),
        measure_stability(method, subject.model, inputs, maps, aim, spec, noise_key, first),
        randomization,
    )


def judge_maps(
    subject: Subject,
    method: MapMethod,
    examples: list[Example],
    inputs: Tensor,
    sample: Tensor,
    key: Key,
    share: MapShare,
) -> CheckedMaps | None:
    """Make the maps of the shown `inputs` and of the check `sample`, and judge them.

    None on a rank that gives its part to the main one.
    """
    everything = make_maps(subject, method, torch.cat([inputs, sample]), key, share)
    if everything is None:
        return None
    shown = select_maps(everything, list(range(len(inputs))))
    checked = select_maps(everything, list(range(len(inputs), len(everything.maps))))
    checks = judge_method(checked.measured)
    return CheckedMaps(method, examples, shown, checked, checks, find_method_faults(checks))
