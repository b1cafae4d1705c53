from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from dnntrain.config.compose import compose
from dnntrain.config.registry import load_registry
from dnntrain.errors import ConfigError
from tests.support.plugin import write, write_plugin


def test_the_default_is_resolved_and_free_of_hydra() -> None:
    container = compose()
    assert container["name"] == "small_cnn-digits"
    assert container["optim"]["name"] == "adamw"
    assert container["choices"]["model"] == "small_cnn"
    assert "hydra" not in container


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["model=torchvision", "data=image_folder", "data.root=pictures/photos"], "resnet50-photos"),
        (["model=torchvision", "model.name=vit_b_16", "data=cifar10", "data.root=/data"], "vit_b_16-cifar10"),
        (
            ["model=timm", "model.name=hf-hub:timm/resnet18.a1_in1k", "data=image_folder"],
            "resnet18.a1_in1k-image_folder",
        ),
        (["data=image_folder", "data.root=/_!"], "small_cnn-image_folder"),
    ],
)
def test_a_network_of_a_library_and_a_folder_of_pictures_name_the_run(words: list[str], name: str) -> None:
    container = compose(words)
    assert container["name"] == name
    assert "labels" not in container


@pytest.mark.slow
def test_plus_and_plain_choices_compose_the_same() -> None:
    assert compose(["+parallel=ddp", "+optim.lr=0.5"]) == compose(["parallel=ddp", "optim.lr=0.5"])


@pytest.mark.slow
def test_lists_replace_and_append() -> None:
    assert list(compose(["reg=[label_smoothing]", "reg.label_smoothing.smoothing=0.3"])["reg"]) == ["label_smoothing"]
    assert list(compose(["reg=[sam]"])["reg"]) == ["sam"]
    assert list(compose(["+reg=[sam]"])["reg"]) == ["label_smoothing", "sam"]


@pytest.mark.slow
def test_a_caller_keeps_its_own_hydra(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: 1\n", encoding="utf-8")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        compose(["optim=sgd"])
        assert hydra_compose("mine") == {"a": 1}
    compose(["optim=sgd"])
    assert not GlobalHydra.instance().is_initialized()


def test_nothing_is_said_and_nothing_is_warned(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compose(["+average=[ema]", "debug=fast"])
    assert capfd.readouterr() == ("", "")


def test_interpolations_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_LABEL", "first")
    container = compose(["name=${oc.env:RUN_LABEL}-${seed}", "seed=3", "eval.batch_size=${train.batch_size}"])
    assert (container["name"], container["eval"]["batch_size"]) == ("first-3", 32)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.batch_size=${eval.batch_size}", "eval.batch_size=${train.batch_size}"], "circle"),
        (["name=${nowhere}"], "cannot be resolved"),
        (["name=${oc.env:NOT_THERE_AT_ALL}"], "cannot be resolved"),
        (["train.batch_size=${name}"], "train.batch_size: 'small_cnn-digits' is not a whole number"),
        (["name=${a"], "cannot be"),
    ],
)
def test_an_interpolation_that_leads_nowhere_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(words)
    assert message in str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(
        tmp_path / "it's mine, é",
        {
            "experiment/mine.yaml": """\
                # @package _global_
                defaults:
                  - override /optim: sgd
                  - override /reg: [sam]
                optim: {lr: 0.5, momentum: 0.7}
                reg:
                  sam: {rho: 0.5}
                train: {batch_size: 7}
                """,
            "debug/small.yaml": "# @package _global_\noptim: {lr: 0.25}\n",
            "model/narrow.yaml": "# Narrow.\ndefaults: [small_cnn, _self_]\nhidden: 8\n",
        },
    )


@pytest.mark.slow
def test_a_users_experiment_and_preset_are_found(folder: Path) -> None:
    container = compose(["experiment=mine", "model=narrow"], folder)
    assert container["optim"] == {**compose(["optim=sgd"])["optim"], "lr": 0.5, "momentum": 0.7}
    assert (container["model"]["name"], container["model"]["hidden"]) == ("small_cnn", 8)
    assert (container["name"], container["choices"]["model"]) == ("narrow-digits", "narrow")


@pytest.mark.slow
def test_the_command_line_outdoes_the_experiment(folder: Path) -> None:
    container = compose(["experiment=mine", "optim.lr=0.1", "train.batch_size=9"], folder)
    assert (container["optim"]["lr"], container["train"]["batch_size"]) == (0.1, 9)


@pytest.mark.slow
def test_values_of_an_experiment_go_with_the_choice_they_were_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    container = compose(["experiment=mine", "optim=adamw", "optim.weight_decay=0.5", "reg=[]"], folder)
    assert container["optim"] == {**compose()["optim"], "weight_decay": 0.5}
    assert container["reg"] == {}
    assert "its values for optim, reg.sam are dropped" in capsys.readouterr().err


@pytest.mark.slow
def test_a_later_overlay_sets_the_same_choice_further(folder: Path) -> None:
    assert compose(["experiment=mine", "debug=small"], folder)["optim"]["lr"] == 0.25


@pytest.mark.slow
def test_a_replaced_choice_keeps_the_values_of_overlays_meant_for_it(folder: Path) -> None:
    write(
        folder, {"debug/muon.yaml": "# @package _global_\ndefaults:\n  - override /optim: muon\noptim: {lr: 0.125}\n"}
    )
    optim = compose(["experiment=mine", "debug=muon"], folder, quiet=True)["optim"]
    assert (optim["name"], optim["lr"]) == ("muon", 0.125)
    assert optim["momentum"] == compose(["optim=muon"])["optim"]["momentum"]


@pytest.mark.slow
def test_a_plugins_yaml_leaves_out_what_the_dataclass_and_its_bases_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dnntrain.config.decode import decode_config

    monkeypatch.syspath_prepend(str(write_plugin(tmp_path, "my_optimizer")))
    optim = compose(["optim=halved_sgd"])["optim"]
    inherited = {name: value for name, value in compose(["optim=sgd"])["optim"].items() if "decay" in name}
    assert optim == {**optim, **inherited, "name": "halved_sgd", "lr": 0.5, "weight_decay": 0.0, "momentum": 0.25}
    changed = compose(["optim=halved_sgd", "optim.layer_decay=0.5", "optim.momentum=0.75"])
    assert (changed["optim"]["layer_decay"], changed["optim"]["momentum"]) == (0.5, 0.75)
    assert decode_config(changed).optim.layer_decay == 0.5
    with pytest.raises(ConfigError, match=r"did you mean .optim\.layer_decay"):
        compose(["optim=halved_sgd", "optim.layer_decai=0.5"])


def test_a_plugin_composes_and_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dnntrain.config.decode import decode_config

    monkeypatch.syspath_prepend(str(write_plugin(tmp_path, "my_plugin")))
    config = decode_config(compose(["+reg=[loud_noise]"]))
    assert config.reg["noise"].scale == 9.0
    assert config.resolved["choices"]["reg"] == ["label_smoothing", "loud_noise"]


def _every_choice() -> list[str]:
    known = load_registry()
    singles = [
        (group, name)
        for group in ("data", "model", "optim", "sched", "precision", "parallel")
        for name in known.list_names(group)
    ]
    lists = [
        (group, f"[{name}]")
        for group in ("augment", "reg", "average", "monitor", "track")
        for name in known.list_names(group)
    ]
    return [f"{group}={name}" for group, name in (*singles, *lists)]


@pytest.mark.sampled
@pytest.mark.parametrize("word", _every_choice())
def test_every_choice_composes(word: str) -> None:
    group, _, name = word.partition("=")
    needed: list[Any] = []
    try:
        container = compose([word])
    except ConfigError as error:
        needed = list(error.mistakes)
        assert all("needs a value" in mistake for mistake in needed)
        return
    assert container["choices"][group] == ([name.strip("[]")] if name.startswith("[") else name)
