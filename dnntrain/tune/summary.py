"""Describe how a search found its result, for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnntrain.utils.units import format_bytes


def format_result(target: str, result: Mapping[str, Any]) -> str:
    """Return a text on how the result was found."""
    if target == "lr":
        from dnntrain.planning.curve_text import draw_bars

        # Cut at the loss of the first steps: an explosion would hide the fall before it.
        highest, lowest = result["smoothed"][0], min(result["smoothed"])
        heights = [min(value, highest) - lowest for value in result["smoothed"]]
        return "\n".join(
            [
                f"loss from {result['rates'][0]:.2g} to {result['rates'][-1]:.2g}: {draw_bars(heights)}",
                f"steepest fall at {result['suggestion']:.2g}; a tenth of the rate of the lowest loss: "
                f"{result['tenth_of_minimum']:.2g} ({result['ended']})",
            ]
        )
    lines = [f"{'micro-batch':>11} {'examples/s':>11} {'memory':>10}"]
    lines += [
        f"{row['microbatch']:>11} {row['examples_per_s']:>11} {format_bytes(row['memory_bytes']):>10}"
        for row in result["rows"]
    ]
    lines.append(f"largest that fits: {result['largest']} ({result['ended']})")
    if result["same_batch"]:
        lines.append(f"with an unchanged batch size: {result['same_batch']}")
    return "\n".join(lines)
