from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config, decode_to_plain
from dnntrain.config.digest import compute_digest
from dnntrain.errors import ConfigError
from dnntrain.utils.units import Duration
from tests.support.plugin import write, write_plugin


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    return compose(["+reg=[sam]", "optim=sgd"])


def test_a_container_becomes_typed_frozen_values(container: dict[str, Any]) -> None:
    config = decode_config(container)
    assert config.train.duration == Duration(60, "ep")
    assert type(config.optim).__name__ == "Sgd"
    assert config.reg["sam"].rho == 0.05
    assert config.resolved == container


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optim.momentm", 0.9, "optim.momentm: there is no such key; did you mean 'momentum'?"),
        ("optim.lr", -1, "optim.lr: -1 is not a number above 0"),
        ("optim.name", "adamw", "optim"),
        ("optim.name", None, "optim.name: None does not name a choice"),
        ("optim.name", "sgdd", "did you mean 'sgd'?"),
        ("optim._target_", "os.system", "cannot name code to run"),
        ("optim", 3, "optim: 3 is not a mapping"),
        ("reg.sam", 3, "reg.sam: 3 is not a mapping of options"),
        ("reg.mine", {"name": "sam"}, "reg.mine.name: sam does not match the recorded choice"),
        ("trian", {}, "trian: there is no such key; did you mean 'train'?"),
        ("train.duration", "x", "train.duration: 'x' is not a duration"),
        ("hydra", {}, "settings of hydra cannot be changed"),
        ("seed", True, "seed: true is not a whole number"),
    ],
)
def test_a_wrong_value_is_named_by_its_path(container: dict[str, Any], key: str, value: Any, message: str) -> None:
    changed = _changed(container, key, value)
    for check in (decode_config, decode_to_plain):
        with pytest.raises(ConfigError) as caught:
            check(changed)
        assert message in str(caught.value)


@pytest.mark.parametrize("key", ["optim.lr", "train.batch_size", "seed", "optim", "train"])
def test_a_missing_key_is_named_by_its_path(container: dict[str, Any], key: str) -> None:
    changed = copy.deepcopy(container)
    *path, last = key.split(".")
    inner = changed
    for part in path:
        inner = inner[part]
    del inner[last]
    with pytest.raises(ConfigError, match=rf"{key}[:.].*missing"):
        decode_config(changed)


def test_all_mistakes_are_listed_at_once(container: dict[str, Any]) -> None:
    changed = _changed(_changed(container, "optim.lr", -1), "train.batch_size", 0)
    with pytest.raises(ConfigError) as caught:
        decode_config(changed)
    assert len(caught.value.mistakes) == 2


def test_what_the_dataclass_itself_refuses_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(write_plugin(tmp_path, "strict_plugin")))
    with pytest.raises(ConfigError, match=r"reg\.noise: scale=101\.0 drowns the targets"):
        decode_config(compose(["+reg=[noise]", "reg.noise.scale=101"]))


def test_equal_values_in_other_words_are_one_plain_form(container: dict[str, Any]) -> None:
    other = _changed(
        _changed(_changed(container, "optim.lr", 1), "train.compile", False), "train.duration", "10 epochs"
    )
    plain = decode_to_plain(other)
    assert (plain["optim"]["lr"], plain["train"]["compile"], plain["train"]["duration"]) == (1.0, "off", "10ep")
    assert decode_to_plain(plain) == plain


def test_the_digest_is_of_what_is_computed(container: dict[str, Any]) -> None:
    same = {**container, "name": "x", "run_dir": "/x", "resume": "never", "choices": {}}
    assert compute_digest(container) == compute_digest(same) == compute_digest(dict(reversed(container.items())))
    assert compute_digest(container) != compute_digest(_changed(container, "seed", 1))
    assert len(compute_digest(container)) == 64


def test_a_saved_preset_of_a_folder_that_is_gone_still_loads(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "narrow.yaml").write_text(
        "# Narrow.\ndefaults: [small_cnn, _self_]\nhidden: 8\n", encoding="utf-8"
    )
    saved = compose(["model=narrow"], tmp_path)
    assert decode_config(saved).model.hidden == 8
    assert decode_to_plain(saved)["choices"]["model"] == "narrow"


@pytest.mark.slow
def test_a_choice_whose_knob_is_called_name_is_known_by_what_was_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = """
from dataclasses import dataclass

from torch import nn

from dnntrain.protocols import ModelChoice

@dataclass(frozen=True)
class Named(ModelChoice):
    name: str = "resnet18"  # which of many

    def build(self):
        model = nn.Identity()
        model.label = self.name
        return model
"""
    write_plugin(tmp_path, "named_plugin")
    write(
        tmp_path / "named_plugin",
        {
            "model/__init__.py": "",
            "model/named.py": source,
            "conf/model/named.yaml": "# Named.\nname: resnet18 # which of many\n",
            "conf/model/other.yaml": "# Other.\ndefaults: [named, _self_]\nname: other # which of many\n",
        },
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    container = compose(["model=named", "model.name=small_cnn"])
    assert (container["model"], container["name"]) == ({"name": "small_cnn"}, "named-digits")
    assert decode_config(container).model.build().label == "small_cnn"
    assert decode_config(compose(["model=other"])).model.build().label == "other"


def _changed(container: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(container)
    *path, last = key.split(".")
    inner = changed
    for part in path:
        inner = inner[part]
    inner[last] = value
    return changed
