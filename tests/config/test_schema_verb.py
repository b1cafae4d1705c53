from __future__ import annotations

import copy
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dnntrain.config.compose import compose
from dnntrain.config.json_schema import make_json_schema
from dnntrain.config.registry import load_registry

SCHEMA = make_json_schema(load_registry())
VALIDATOR = Draft202012Validator(SCHEMA)


@pytest.mark.slow
def test_the_schema_is_valid_itself() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["optim=sgd", "+reg=[sam]"], ["debug=fast", "sched=step"]])
def test_a_resolved_configuration_fits_it(words: list[str]) -> None:
    VALIDATOR.validate(compose(words))


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("train", "duration", "10"),
        ("train", "duration", "5%"),
        ("train", "batch_size", 0),
        ("train", "compile", "maybe"),
        ("train", "typo", 1),
        ("optim", "lr", -1),
        ("optim", "momentum", 0.9),
        ("optim", "name", "sgd"),
        ("reg", "typo", {}),
        ("eval", "test", "yes"),
    ],
)
def test_what_is_refused_does_not_fit_it(section: str, key: str, value: Any) -> None:
    container = copy.deepcopy(compose())
    container[section][key] = value
    assert not VALIDATOR.is_valid(container)


def test_every_default_fits_its_own_field() -> None:
    found = 0
    stack: list[Any] = [SCHEMA]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if "default" in node:
                Draft202012Validator(node).validate(node["default"])
                found += 1
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
    assert found > 30
