"""An export says nothing about the folders of the machine that made it."""

from __future__ import annotations

import re

import pytest

from dnntrain.cli.command_table import COMMANDS
from dnntrain.config.conf_folder import find_conf_folder
from dnntrain.config.registry import load_registry
from dnntrain.inference.data_root import remove_places, restore_data_root

#: `path: null # text file, or folder of text files`
PLACE = re.compile(r"^(\w+): null # (?!name of|text between)[^;\n]*\b(?:file|folder)\b", re.MULTILINE)


@pytest.mark.parametrize("name", load_registry().list_names("data"))
def test_every_option_that_names_a_file_or_a_folder_is_left_out(name: str) -> None:
    conf = find_conf_folder()
    assert conf is not None
    text = (conf / "data" / f"{name}.yaml").read_text()
    constants = load_registry().get_choice("data", name).schema.constants
    places = set(PLACE.findall(text)) | ({"root"} if re.search("^root:", text, re.MULTILINE) else set())
    assert set(constants.get("place_options", ())) == places


def test_verify_takes_the_place_of_every_data_set() -> None:
    registry = load_registry()
    places = {
        f"data.{place}"
        for name in registry.list_names("data")
        for place in registry.get_choice("data", name).schema.constants.get("place_options", ())
    }
    settings = COMMANDS["verify"].settings
    assert settings is not None
    assert {*settings} == {*places, "data.download"}


def test_the_place_of_a_language_model_is_left_out() -> None:
    config = {"choices": {"data": "text"}, "task": {}, "data": {"name": "text", "path": "/home/me/diary", "context": 8}}
    exported = remove_places(config)
    assert exported["data"] == {"name": "text", "path": None, "context": 8}


@pytest.mark.parametrize(("value", "kept"), [("/home/me/weights.csv", "none"), ("balanced", "balanced")])
def test_the_file_of_class_weights_is_left_out(value: str, kept: str) -> None:
    config = {"choices": {"task": "classification"}, "task": {"loss": "bce", "class_weights": value}, "data": {}}
    assert remove_places(config)["task"] == {"loss": "bce", "class_weights": kept}


def test_data_of_a_plug_in_that_is_not_installed_stay_as_they_are(tmp_path) -> None:
    config = {"choices": {"data": "stars"}, "data": {"name": "stars", "root": "x"}}
    assert restore_data_root(config, tmp_path / "exports" / "onnx") == config
