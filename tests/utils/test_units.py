"""Durations and sizes as they are written and read."""

from __future__ import annotations

import pytest

from dnntrain.utils.units import Duration, format_bytes, format_count, format_epochs, format_seconds, pluralize


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("10ep", 10, "ep"),
        ("0.5ep", 0.5, "ep"),
        ("5000step", 5000, "step"),
        ("3 steps", 3, "step"),
        ("90s", 90, "s"),
        ("5%", 5, "%"),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, value: float, unit: str) -> None:
    assert Duration.parse(text) == Duration(value, unit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["10", "ep", "10 parsecs", "-1ep", "1.5step", "120%", "nan s", "1e999s", "", "10ep 5step"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|integer|percentage"):
        Duration.parse(text)


def test_a_duration_reads_back_as_written() -> None:
    for text in ("10ep", "0.5ep", "5000step", "90s", "5%", "0.00005ep", "1000000000000000step"):
        assert str(Duration.parse(text)) == text
    assert str(Duration.parse("1e3step")) == "1000step"


def test_lengths_in_steps() -> None:
    assert Duration(2, "ep").to_steps(11, 110) == 22
    assert Duration(5, "%").to_steps(11, 110) == 6
    with pytest.raises(ValueError, match="is a time"):
        Duration(5, "s").to_steps(11, 110)


def test_numbers_are_short_for_people() -> None:
    assert [format_bytes(512), format_bytes(1536), format_bytes(3 * 2**40)] == ["512 B", "1.5 KiB", "3.0 TiB"]
    assert [format_count(999), format_count(1_200_000)] == ["999", "1.20 M"]
    assert [format_seconds(42.06), format_seconds(100), format_seconds(3725)] == ["42.1s", "1:40", "1:02:05"]
    assert [format_epochs(0.125), format_epochs(60), format_epochs(2000)] == ["0.125", "60", "2000"]


def test_a_noun_agrees_with_its_number() -> None:
    assert [pluralize(number, "epoch") for number in (0, 1, "1", "2.5", "1,000")] == [
        "0 epochs",
        "1 epoch",
        "1 epoch",
        "2.5 epochs",
        "1,000 epochs",
    ]
