"""The style of a report: `report.css` and its colors, dark and light, screen and paper.

Colors keep a contrast of at least 4.5 to 1 for text and 3 to 1 for lines (WCAG 2.2 AA), in both
schemes.
"""

from __future__ import annotations

from pathlib import Path

#: Colors of curves, by tone: light scheme, dark scheme. The first eight differ also for colorblind
#: readers.
TONES = (
    ("#2559c9", "#7fadff"),
    ("#c4480a", "#ff9d5c"),
    ("#0b7a55", "#4fcf9d"),
    ("#8a2fd0", "#cda2ff"),
    ("#b3255a", "#ff93b6"),
    ("#0c7089", "#62cfe6"),
    ("#7d6200", "#e3c454"),
    ("#5b5651", "#bdb7b0"),
)

_LIGHT = """
--page:#f6f7f9;--surface:#ffffff;--ink:#171a21;--soft:#545b69;--rule:#e1e4ea;--grid:#e8ebf0;--accent:#2559c9;
--good:#0b6b4a;--good-bg:#dcf5ea;--bad:#a81e2d;--bad-bg:#fde5e7;--wait:#7a5200;--wait-bg:#fdf0d3;--code:#f0f2f6;
""".strip()
_DARK = """
--page:#101217;--surface:#191c23;--ink:#e9ebf0;--soft:#a3abba;--rule:#2c313c;--grid:#272c36;--accent:#7fadff;
--good:#6fe0b1;--good-bg:#11392b;--bad:#ff9aa5;--bad-bg:#451a20;--wait:#f2c76a;--wait-bg:#3d2e0c;--code:#12151b;
""".strip()

#: Levels of a matrix cell: background and text, light and dark. Right answers are blue, wrong ones
#: orange.
_RIGHT = (
    ("#eaf1fe", "#cfe0fd", "#a4c4fb", "#6c9df3", "#2559c9"),
    ("#1c2740", "#203459", "#274782", "#3462b5", "#7fadff"),
)
_WRONG = (
    ("#fef0e6", "#fddcc5", "#fcbc93", "#f59255", "#c4480a"),
    ("#33231a", "#4a2c1a", "#6e3b1a", "#a3521a", "#ff9d5c"),
)
_INK_LIGHT = ("#171a21", "#171a21", "#171a21", "#171a21", "#ffffff")
_INK_DARK = ("#e9ebf0", "#e9ebf0", "#e9ebf0", "#ffffff", "#101217")


def build_style_sheet() -> str:
    """Return the whole style sheet."""
    light = f":root{{color-scheme:light dark;{_LIGHT}}}" + _render_tone_rules(0) + _render_level_rules(0, _INK_LIGHT)
    dark = f":root{{{_DARK}}}" + _render_tone_rules(1) + _render_level_rules(1, _INK_DARK)
    # Paper is white in both schemes.
    rules = "".join(
        line.strip() for line in Path(__file__).with_name("report.css").read_text(encoding="utf-8").splitlines()
    )
    return f"{light}{rules}@media screen and (prefers-color-scheme:dark){{{dark}}}"


def _render_tone_rules(scheme: int) -> str:
    return "".join(f".t{number}{{--tone:{colors[scheme]}}}" for number, colors in enumerate(TONES))


def _render_level_rules(scheme: int, inks: tuple[str, ...]) -> str:
    return "".join(
        f".{kind}{level}{{background:{colors[scheme][level]};color:{inks[level]}}}"
        for kind, colors in (("r", _RIGHT), ("w", _WRONG))
        for level in range(5)
    )
