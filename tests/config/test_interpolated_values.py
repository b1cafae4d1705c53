"""A variable or another key gives a value of the type that its key takes."""

from __future__ import annotations

from typing import Any

import pytest

from dnntrain.config.compose import compose
from dnntrain.errors import ConfigError


def read(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("48", "train.batch_size", 48),
        ("48", "train.max_examples", 48),
        ("null", "train.max_examples", None),
        ("1e-3", "optim.lr", 1e-3),
        ("3", "optim.lr", 3.0),
        ("false", "log.report", False),
        ("5ep", "train.duration", "5ep"),
        ("[8,16]", "model.channels", [8, 16]),
        # Text stays as it is.
        ("007", "name", "007"),
        ("1e3", "name", "1e3"),
        ("cuda:1", "device", "cuda:1"),
        ("on", "train.compile", "on"),
    ],
)
def test_a_variable_gives_a_value_of_the_keys_type(
    text: str, key: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DNNTRAIN_VALUE", text)
    assert read(compose([f"{key}=${{oc.env:DNNTRAIN_VALUE}}"]), key) == value


def test_a_key_that_refers_to_a_variables_key_has_the_value_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNNTRAIN_VALUE", "48")
    config = compose(
        [
            "train.batch_size=${oc.env:DNNTRAIN_VALUE}",
            "eval.batch_size=${train.batch_size}",
            "name=b${train.batch_size}",
        ]
    )
    assert (config["train"]["batch_size"], config["eval"]["batch_size"], config["name"]) == (48, 48, "b48")


def test_an_item_of_a_list_may_be_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNNTRAIN_VALUE", "48")
    assert compose(["model.channels=[${oc.env:DNNTRAIN_VALUE},8]"])["model"]["channels"] == [48, 8]


@pytest.mark.sampled
@pytest.mark.parametrize("text", ["many", "0", "1.5", "a: b", "{x: 1}", "!!python/name:os.system", "2\n3", ""])
def test_a_text_that_is_not_of_the_type_is_rejected(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNNTRAIN_VALUE", text)
    with pytest.raises(ConfigError, match=r"train\.batch_size: "):
        compose(["train.batch_size=${oc.env:DNNTRAIN_VALUE}"])


def test_a_typed_text_is_not_converted() -> None:
    with pytest.raises(ConfigError, match="'48' is not a whole number"):
        compose(["train.batch_size='48'"])
