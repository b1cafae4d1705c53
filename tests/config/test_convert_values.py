from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnntrain.config.convert import convert_value, describe_type, to_plain
from dnntrain.config.fields import Duration, Fraction, Positive, PositiveInt, Range, RunDuration, RunName


@pytest.mark.parametrize(
    ("value", "annotation", "converted"),
    [
        (1, float, 1.0),
        (3, int, 3),
        (True, bool, True),
        ("a", str, "a"),
        (7, str, "7"),
        (None, PositiveInt | None, None),
        (4, PositiveInt | None, 4),
        ("10ep", Duration, Duration(10, "ep")),
        (False, Literal["off", "on"], "off"),
        (True, Literal["off", "on"], "on"),
        (2, Literal[1, 2], 2),
        ([1, 2], tuple[int, ...], (1, 2)),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
    ],
)
def test_a_valid_value_gets_the_type_of_its_field(value: Any, annotation: Any, converted: Any) -> None:
    result = convert_value(value, annotation)
    assert result == converted
    assert type(result) is type(converted)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        ("abc", Positive, "'abc' is not a number above 0"),
        (-1, Positive, "-1 is not a number above 0"),
        (math.nan, Positive, "nan is not a number above 0: it must be finite"),
        (math.inf, float, "inf is not a number: it must be finite"),
        (1, Fraction, "1 is not a number at least 0 and below 1"),
        (True, PositiveInt, "true is not a whole number at least 1"),
        (10.0, PositiveInt, "write 10"),
        (0, PositiveInt, "0 is not a whole number at least 1"),
        ("yes", bool, "write true"),
        (0, bool, "write false"),
        (None, int, "null is not a whole number"),
        (5, Duration, "add a unit: 5ep or 5step"),
        ("5", Duration, "'5' is not a duration"),
        ("0ep", RunDuration, "'0ep' is not a duration above 0, such as 10ep, 5000step or 90s"),
        ("5%", RunDuration, "is not a duration above 0"),
        ("cosin", Literal["linear", "cosine"], "did you mean 'cosine'?"),
        ("zzz", Literal["linear", "cosine"], "one of linear, cosine"),
        ([1], tuple[float, float], "is not a list of 2, each a number"),
        (3, tuple[int, ...], "3 is not a list, each a whole number"),
        ("../x", RunName, "is not a name of letters"),
        ("a\x1b[31mb", RunName, "\\x1b"),
        ("x" * 300, RunName, "at most 100 characters"),
        (True, str, "quotes"),
        ("???", int, "needs a value"),
    ],
)
def test_a_refused_value_is_told_with_the_bound_and_the_fix(value: Any, annotation: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        convert_value(value, annotation)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_bound_is_described_in_words() -> None:
    assert (
        describe_type(Annotated[int, Range(at_least=1, at_most=9)] | None)
        == "a whole number at least 1 and at most 9 or null"
    )


@given(st.text(max_size=30))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        duration = Duration.parse(text)
    except ValueError:
        return
    assert Duration.parse(str(duration)) == duration


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
_TYPES: list[Any] = [
    int,
    float,
    bool,
    str,
    Positive,
    PositiveInt | None,
    RunDuration,
    Literal["on", "off", 3],
    tuple[int, ...],
]


@given(_VALUES, st.sampled_from(_TYPES))
def test_conversion_gives_a_value_that_converts_to_itself_or_a_value_error(value: Any, annotation: Any) -> None:
    try:
        converted = convert_value(value, annotation)
    except ValueError:
        return
    assert convert_value(to_plain(converted), annotation) == converted
