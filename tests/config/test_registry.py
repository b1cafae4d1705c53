from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from dnntrain.config.groups import GROUPS
from dnntrain.config.registry import load_registry
from dnntrain.config.validate import validate_overrides
from dnntrain.errors import ConfigError
from dnntrain.protocols import Method
from tests.support.plugin import write, write_plugin


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(write_plugin(tmp_path)))
    return tmp_path


def test_a_plugin_package_adds_choices_without_being_imported(plugin: Path) -> None:
    choice = load_registry().get_choice("reg", "noise")
    assert (choice.module, choice.key, choice.schema.fields["scale"].default) == ("mine.reg.noise", "reg.noise", 0.5)
    assert "mine" not in sys.modules
    assert "noise" in load_registry().list_names("reg")


def test_a_preset_of_a_plugin_follows_its_chain_to_the_base(plugin: Path) -> None:
    choice = load_registry().get_choice("reg", "loud_noise")
    assert (choice.base, choice.key, choice.read_values()["scale"]) == ("noise", "reg.noise", 9)


def test_two_choices_of_one_base_cannot_both_be_chosen(plugin: Path) -> None:
    with pytest.raises(ConfigError, match="noise and loud_noise are both noise"):
        validate_overrides(["reg=[noise,loud_noise]"])


def test_a_preset_in_a_list_group_is_set_under_its_base(plugin: Path) -> None:
    with pytest.raises(ConfigError, match=r"write reg\.noise\.scale"):
        validate_overrides(["reg=[loud_noise]", "reg.loud_noise.scale=1"])


def test_a_plugin_whose_package_is_gone_is_told_and_does_not_stop_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = "[dnntrain.plugins]\ngone = gone_package\n"
    info = {"METADATA": "Metadata-Version: 2.1\nName: gone\nVersion: 1\n", "entry_points.txt": entry}
    write(tmp_path, {f"gone-1.dist-info/{name}": text for name, text in info.items()})
    monkeypatch.syspath_prepend(str(tmp_path))
    assert validate_overrides([]).notes == ("plug-in gone: the package 'gone_package' was not found",)


def test_presets_that_refer_to_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"model/a.yaml": "defaults: [b, _self_]\n", "model/b.yaml": "defaults: [a, _self_]\n"})
    with pytest.raises(ConfigError, match="refer to each other"):
        load_registry(tmp_path).get_choice("model", "a")


def test_a_config_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        load_registry(tmp_path / "none")


def test_a_module_that_is_no_choice_is_refused_with_its_file(plugin: Path) -> None:
    (plugin / "mine" / "reg" / "noise.py").write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"noise\.py: a module of a choice must define exactly one"):
        validate_overrides(["+reg=[noise]"])


def test_a_choice_without_the_base_of_its_group_is_refused_with_the_line_to_write(plugin: Path) -> None:
    path = plugin / "mine" / "reg" / "noise.py"
    path.write_text(
        path.read_text(encoding="utf-8").replace("class Noise(RegChoice):", "class Noise:"), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match="Noise must inherit RegChoice") as refused:
        load_registry().get_choice("reg", "noise").schema
    assert "from dnntrain.protocols import RegChoice" in refused.value.hint


def test_literals_that_are_read_early_agree_with_the_classes() -> None:
    """They are read from the source before torch is imported; here the modules are imported."""
    registry = load_registry()
    for group in GROUPS:
        for choice in registry.get_choices(group).values():
            if choice.module is None:
                continue
            kind = getattr(importlib.import_module(choice.module), choice.schema.class_name)
            for name, value in choice.schema.constants.items():
                actual = getattr(kind, name)
                if isinstance(actual, frozenset):
                    actual, value = {str(member) for member in actual}, set(value)
                assert actual == value, (choice.module, name)
            if issubclass(kind, Method) and kind.claimed_roles:
                claims = [(claim.role.name, claim.setting, claim.remedy) for claim in kind().get_claims()]
                for role in kind.claimed_roles:
                    assert (role, choice.key, f"leave {choice.key} out") in claims
