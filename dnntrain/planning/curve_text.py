"""Draw curves as text."""

from __future__ import annotations

from collections.abc import Sequence

#: Number of values of a curve in a plan, and the characters that draw them.
CURVE_POINTS = 40
_BARS = "▁▂▃▄▅▆▇█"


def format_curve(values: Sequence[float], total_steps: int) -> str:
    """Return a curve as text, such as `▁▅█▆▁ 0.01, 0.1 near step 50, 0.001`.

    The text has a drawing, the first value, the highest and lowest values between, and the last value.
    """

    def describe_value(value: float) -> tuple[int, str]:
        position = values.index(value)
        share = position / max(len(values) - 1, 1)
        return (
            position,
            f"{value:.3g} near {f'step {round(share * (total_steps - 1))}' if total_steps else f'{100 * share:.0f} %'}",
        )

    extremes = sorted(describe_value(value) for value in {max(values), min(values)} - {values[0], values[-1]})
    return (
        f"{draw_bars(values)} {', '.join([f'{values[0]:.3g}', *(text for _, text in extremes), f'{values[-1]:.3g}'])}"
    )


def draw_bars(values: Sequence[float], max_points: int = CURVE_POINTS) -> str:
    """Draw at most `max_points` of the values as bars, relative to the highest value.

    All values must be at least 0.
    """
    points = min(max_points, len(values))
    samples = [values[round(index * (len(values) - 1) / max(points - 1, 1))] for index in range(points)]
    highest = max(samples, default=0.0)
    return "".join(_BARS[round((len(_BARS) - 1) * value / highest)] if highest else _BARS[0] for value in samples)
