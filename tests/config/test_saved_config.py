"""A saved configuration is read from one checked place, and is data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.config.saved_config import read_saved_config, write_saved_config
from dnntrain.config.saved_values import escape_interpolations
from dnntrain.errors import CheckpointError, ConfigError

WORDS = ("model=resnet56", "data=cifar10", "+reg=[sam]", "reg.sam.rho=0.3", "optim=sgd", "optim.lr=0.3", "name=first")


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    return compose(WORDS)


def test_a_saved_configuration_reads_back_equal(saved: dict[str, Any], tmp_path: Path) -> None:
    write_saved_config(tmp_path, saved)
    assert read_saved_config(tmp_path) == saved


def test_comments_and_layout_of_the_file_may_change(saved: dict[str, Any], tmp_path: Path) -> None:
    write_saved_config(tmp_path, saved)
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(f"# yaml-language-server: $schema=schema.json\n{text}\n")
    assert read_saved_config(tmp_path) == saved


@pytest.mark.slow
def test_every_changed_digit_is_noticed(saved: dict[str, Any], tmp_path: Path) -> None:
    write_saved_config(tmp_path, saved)
    path = tmp_path / "config.yaml"
    text = path.read_text()
    for match in re.finditer(r"\d", text):
        path.write_text(f"{text[: match.start()]}{(int(match[0]) + 1) % 10}{text[match.end() :]}")
        with pytest.raises(CheckpointError, match=r"config\.yaml"):
            read_saved_config(tmp_path)


@pytest.mark.parametrize("share", [0, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_noticed(saved: dict[str, Any], tmp_path: Path, share: float) -> None:
    write_saved_config(tmp_path, saved)
    path = tmp_path / "config.yaml"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        read_saved_config(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "a: [1", "a: !!python/object:os.x {}", "defaults: [a]\n", "a: 1\na: 2\n", "\x00", "[]"],
    ids=["empty", "torn", "tag", "defaults", "duplicate", "binary", "list"],
)
def test_a_file_of_another_kind_is_a_checkpoint_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.yaml"):
        read_saved_config(tmp_path)


def test_a_missing_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_saved_config(tmp_path)


def test_no_override_changes_nothing(saved: dict[str, Any]) -> None:
    assert compose([], saved=saved) == saved


def test_an_override_changes_its_key_alone(saved: dict[str, Any]) -> None:
    assert compose(["optim.lr=0.1"], saved=saved) == {**saved, "optim": {**saved["optim"], "lr": 0.1}}


@pytest.mark.slow
def test_another_choice_brings_its_own_defaults_and_leaves_the_rest(saved: dict[str, Any]) -> None:
    changed = compose(["optim=adamw"], saved=saved)
    assert changed["optim"] == compose(["optim=adamw"])["optim"]
    assert changed["reg"] == saved["reg"]
    assert changed["choices"] == {**saved["choices"], "optim": "adamw"}


def test_appending_to_a_list_keeps_the_saved_choices(saved: dict[str, Any]) -> None:
    changed = compose(["+reg=[grad_clip]", "reg.grad_clip.max=1.0"], saved=saved)
    assert changed["reg"].keys() == {*saved["reg"], "grad_clip"}
    assert changed["reg"]["sam"]["rho"] == 0.3


def test_an_interpolation_refers_to_the_saved_values(saved: dict[str, Any]) -> None:
    assert compose(["optim.lr=${reg.sam.rho}"], saved=saved)["optim"]["lr"] == 0.3


def test_an_interpolation_in_a_saved_value_is_text(saved: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBURL", "secret")
    foreign = {**saved, "data": {**saved["data"], "root": "/x/${oc.env:DBURL}"}}
    assert compose(["optim.lr=0.1"], saved=foreign)["data"]["root"] == "/x/${oc.env:DBURL}"


@given(st.text(alphabet="\\${}a.b:", max_size=12))
def test_an_escaped_text_resolves_to_itself(text: str) -> None:
    config = OmegaConf.create({"key": escape_interpolations(text)})
    assert OmegaConf.to_container(config, resolve=True) == {"key": text}


@pytest.mark.slow
def test_an_experiment_that_changed_or_moved_does_not_change_a_saved_run(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    text = "# @package _global_\n# Mine.\ndefaults:\n  - override /optim: sgd\noptim: {lr: 0.7}\n"
    (folder / "mine.yaml").write_text(text)
    saved = compose(["experiment=mine"], tmp_path / "mine")
    (folder / "mine.yaml").unlink()
    changed = compose(["eval.batch_size=7"], saved=saved)
    assert changed == {**saved, "eval": {**saved["eval"], "batch_size": 7}}
    assert changed["optim"]["lr"] == 0.7


@pytest.mark.slow
def test_a_preset_with_an_option_name_is_decoded_without_its_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# Mine.\ndefaults: [torchvision, _self_]\nname: resnet18\n")
    saved = compose(["model=mine"], tmp_path)
    (tmp_path / "model" / "mine.yaml").unlink()
    assert type(decode_config(saved).model).__name__ == "Torchvision"
    assert compose(["seed=3"], saved=saved) == {**saved, "seed": 3}


@pytest.mark.sampled
@pytest.mark.parametrize("label", [["custom"], {"custom": 1}, 5, "nowhere", "resnet20", None])
def test_a_label_does_not_decide_which_choice_is_decoded(label: Any) -> None:
    saved = compose(["model=custom", "model.file=/x/net.py"])
    config = decode_config({**saved, "choices": {**saved["choices"], "model": label}})
    assert config.model.list_code_options() == ("file",)
    assert config.resolved["choices"]["model"] == ("nowhere" if label == "nowhere" else "custom")


@pytest.mark.parametrize("change", [{"model": {}}, {"model": []}, {"eval": 3}, {"reg": []}, {"choices": [1]}])
def test_a_configuration_of_another_form_is_an_error(saved: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        compose(["seed=1"], saved={**saved, **change})
