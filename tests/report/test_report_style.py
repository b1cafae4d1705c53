"""Colours that can be told from their ground (WCAG 2.2: 4.5 to 1 for text, 3 to 1 for lines)."""

from __future__ import annotations

import re

import pytest

from dnntrain.report import style

SCHEMES = {"light": (style._LIGHT, 0, style._INK_LIGHT), "dark": (style._DARK, 1, style._INK_DARK)}


def luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(left: str, right: str) -> float:
    darker, lighter = sorted((luminance(left), luminance(right)))
    return (lighter + 0.05) / (darker + 0.05)


def variables(sheet: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+):(#[0-9a-f]{6})", sheet))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_is_legible(scheme: str) -> None:
    colour = variables(SCHEMES[scheme][0])
    pairs = [(text, ground) for text in ("ink", "soft", "accent", "good", "bad") for ground in ("page", "surface")]
    pairs += [("good", "good-bg"), ("bad", "bad-bg"), ("wait", "wait-bg"), ("ink", "code")]
    for text, ground in pairs:
        assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_curves_stand_out(scheme: str) -> None:
    sheet, number, _ = SCHEMES[scheme]
    for tones in style.TONES:
        assert contrast(tones[number], variables(sheet)["surface"]) >= 3


@pytest.mark.parametrize("scheme", SCHEMES)
def test_numbers_of_the_matrix_are_legible_on_their_cells(scheme: str) -> None:
    _, number, inks = SCHEMES[scheme]
    for levels in (style._RIGHT[number], style._WRONG[number]):
        for ground, ink in zip(levels, inks, strict=True):
            assert contrast(ground, ink) >= 4.5, (ground, ink)


def test_the_sheet_loads_nothing_and_knows_dark_and_paper() -> None:
    sheet = style.build_style_sheet()
    assert "url(" not in sheet
    assert "@import" not in sheet
    assert "@media screen and (prefers-color-scheme:dark)" in sheet
    assert "@media print" in sheet
    assert sheet.count("{") == sheet.count("}")
