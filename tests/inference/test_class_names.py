"""Classes of other data are matched by name, and renamed on demand."""

from __future__ import annotations

import numpy as np
import pytest
from data_files import random_set

from dnntrain.errors import ConfigError, DataError
from dnntrain.inference.class_names import match_classes, parse_renames
from dnntrain.protocols import TargetSpec

MODEL = TargetSpec(("a", "b", "c", "d", "e", "f"))


def test_equal_classes_change_nothing() -> None:
    dataset = random_set()
    assert match_classes(dataset, dataset.targets, {}) is dataset


def test_classes_in_another_order_get_the_numbers_of_the_model() -> None:
    dataset = random_set()  # its classes are a, b, c, d, e
    matched = match_classes(dataset, TargetSpec(("e", "d", "c", "b", "a")), {})
    assert matched.test.labels.tolist() == (4 - dataset.test.labels).tolist()
    assert matched.targets.names == ("e", "d", "c", "b", "a")
    assert dataset.test.labels.tolist() == (np.arange(61) % 5).tolist()


def test_the_data_may_lack_classes() -> None:
    matched = match_classes(random_set(), MODEL, {})
    assert matched.targets == MODEL
    assert matched.test.labels.max() == 4


def test_a_class_that_the_model_does_not_have_is_refused_with_a_line_that_works() -> None:
    with pytest.raises(DataError, match="does not have these classes of the data: e") as caught:
        match_classes(random_set(), TargetSpec(("a", "b", "c", "d", "eel")), {})
    assert "--map e=eel" in caught.value.hint
    matched = match_classes(random_set(), TargetSpec(("a", "b", "c", "d", "eel")), {"e": "eel"})
    assert matched.test.labels.tolist() == random_set().test.labels.tolist()


@pytest.mark.parametrize(
    ("renames", "text"),
    [({"x": "f"}, "the data does not have a class 'x'"), ({"a": "x"}, "the model does not have a class 'x'")],
)
def test_a_rename_of_an_unknown_class_is_refused(renames: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        match_classes(random_set(), MODEL, renames)


def test_two_classes_cannot_become_one() -> None:
    with pytest.raises(ConfigError, match="the same name"):
        match_classes(random_set(), MODEL, {"a": "b"})


def test_renames_are_pairs() -> None:
    assert parse_renames("kitten=cat,puppy = dog") == {"kitten": "cat", "puppy": "dog"}
    assert parse_renames("") == {}
    for text in ("cat", "=cat", "cat="):
        with pytest.raises(ConfigError, match="pairs of names"):
            parse_renames(text)
