"""`tuned=FILE`: the settings of `dnntrain tune speed`, where they were measured."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dnntrain.choices.data.digits import Digits
from dnntrain.cli.main import main
from dnntrain.cli.parser import parse_arguments
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.protocols.speed import SpeedGrade
from dnntrain.prove.modes import split_settings
from dnntrain.run import tuned_settings
from dnntrain.run.session import Session, open_session
from dnntrain.run.tuned_settings import TunedSettings, expand_tuned, make_speed_key, read_tuned_settings
from dnntrain.tune import speed_answer
from dnntrain.tune.goal import parse_goal
from dnntrain.tune.probe import Probe
from dnntrain.tune.speed import SpeedRequest, SpeedResult
from dnntrain.tune.speed_answer import answer_speed
from dnntrain.tune.speed_settings import list_speed_settings
from dnntrain.utils.hardware import probe_hardware
from dnntrain.utils.world import World

LINE = ("data=digits", "model=mlp", "train.max_examples=100")
WORDS = ("train.cpu_threads=1", "train.compile=off")


def make_key(*words: str, found: Sequence[str] = ()) -> dict[str, Any]:
    line = [word for word in LINE if word.partition("=")[0] not in {given.partition("=")[0] for given in words}]
    config = decode_config(compose([*line, *words], quiet=True))
    return make_speed_key(config, probe_hardware("cpu"), config.data.build().digest, 1, found)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tuned") / "tuned.yaml"
    TunedSettings(WORDS, make_key(), {"line": " ".join(WORDS)}).write(path)
    return path


def test_the_settings_of_the_file_take_its_place(file: Path) -> None:
    assert expand_tuned((*LINE, f"tuned={file}")) == ((*WORDS, *LINE), read_tuned_settings(file))
    assert expand_tuned(LINE) == (LINE, None)


def test_a_setting_of_the_line_takes_precedence(file: Path) -> None:
    assert expand_tuned((*LINE, f"tuned={file}", "train.cpu_threads=2"))[0] == (
        "train.compile=off",
        *LINE,
        "train.cpu_threads=2",
    )


def test_the_scaling_of_the_rate_belongs_to_the_batch_size_of_the_file(tmp_path: Path) -> None:
    words = ("train.batch_size=64", "optim.lr_scaling=sqrt", "optim.lr_base_batch_size=32", "train.cpu_threads=1")
    TunedSettings(words, make_key(found=words), {}).write(tmp_path / "tuned.yaml")
    line = (*LINE, f"tuned={tmp_path / 'tuned.yaml'}")
    assert expand_tuned(line)[0] == (*words, *LINE)
    assert expand_tuned((*line, "train.batch_size=48"))[0] == ("train.cpu_threads=1", *LINE, "train.batch_size=48")


def test_settings_whose_accuracy_was_judged_belong_to_the_length_of_the_run() -> None:
    config = decode_config(compose([*LINE, "train.duration=3ep"], quiet=True))
    facts = config, probe_hardware("cpu"), config.data.build().digest, 1
    judged = TunedSettings(WORDS, make_speed_key(*facts, is_judged=True), {})
    judged.check(*facts)
    longer = decode_config(compose([*LINE, "train.duration=4ep"], quiet=True))
    with pytest.raises(ConfigError, match="another length, on which the accuracy depends"):
        judged.check(longer, *facts[1:])
    TunedSettings(WORDS, make_speed_key(*facts), {}).check(longer, *facts[1:])


def test_settings_belong_to_the_number_of_ranks_and_of_their_devices() -> None:
    config = decode_config(compose(LINE, quiet=True))
    server = replace(probe_hardware("cpu"), device="cuda", device_count=4)
    tuned = TunedSettings(WORDS, make_speed_key(config, server, "data", 2), {})
    tuned.check(config, server, "data", 2)
    with pytest.raises(ConfigError, match="ranks 2 → 8; devices 2 → 4"):
        tuned.check(config, server, "data", 8)
    # One rank does not use the devices beside its own.
    TunedSettings(WORDS, make_speed_key(config, server, "data", 1), {}).check(
        config, replace(server, device_count=1), "data", 1
    )


@pytest.mark.slow
def test_a_file_of_one_rank_does_not_fit_a_run_of_two(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *LINE, "parallel=ddp", "launch.nproc=2", f"tuned={file}"]) == 2
    assert "ranks 1 → 2" in capsys.readouterr().err


@pytest.mark.slow
def test_length_and_seed_do_not_matter_but_network_and_batch_size_do() -> None:
    assert make_key("seed=3", "train.duration=1ep", "eval.batch_size=8", "train.cpu_threads=2") == make_key()
    assert make_key("train.batch_size=16")["network"] != make_key()["network"]
    assert make_key("model=small_cnn")["network"] != make_key()["network"]


def test_another_machine_or_network_is_rejected(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", LINE[0], "model=small_cnn", LINE[2], f"tuned={file}"]) == 2
    assert "another network, batch size or method" in capsys.readouterr().err
    tuned = read_tuned_settings(file)
    other = {**tuned.key, "hardware": {**tuned.key["hardware"], "processor": "Abacus"}, "data": "other"}
    with pytest.raises(ConfigError, match=r"processor Abacus → .*; other data"):
        replace(tuned, key=other).check_without_session(decode_config(compose(LINE, quiet=True)))


def test_the_data_of_a_run_are_built_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = Digits.build
    monkeypatch.setattr(Digits, "build", lambda choice: built.append(choice) or build(choice))
    assert main(["plan", *LINE, f"tuned={file}"]) == 0
    assert len(built) == 1


@pytest.mark.parametrize("word", ["model.file=evil.py", "run_dir=/", "optim.lr=1"])
def test_a_file_can_set_speed_and_nothing_else(word: str, file: Path, tmp_path: Path) -> None:
    replace(read_tuned_settings(file), words=(word,)).write(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match="may set"):
        read_tuned_settings(tmp_path / "bad.yaml")


def test_the_plan_takes_the_file_and_other_commands_name_those_that_do(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *LINE, f"tuned={file}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["threads"] == 1
    assert main(["tune", "lr", *LINE, f"tuned={file}"]) == 2
    assert "it is for train, plan, submit, why" in capsys.readouterr().err


def open_small() -> Session:
    return open_session(decode_config(compose(LINE, quiet=True)), World())


def test_a_result_is_measured_once_unless_the_machine_was_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    counted = []

    def measure(*arguments: object) -> SpeedResult:
        counted.append(arguments)
        probe = Probe(WORDS, "rounding", (1.5, 1.4, 1.6), verdict="faster")
        return SpeedResult(list(WORDS), [probe], probe, 1.0, is_reliable=len(counted) > 1)

    monkeypatch.setattr(speed_answer, "tune_speed", measure)
    session = open_small()
    said: list[str] = []

    def ask(use_cache: bool = True, allow: SpeedGrade = SpeedGrade.ROUNDING) -> TunedSettings:
        request = SpeedRequest(LINE, budget_s=1.0, allow=allow)
        return answer_speed(session, request, use_cache=use_cache, say=said.append)

    ask()
    assert ask().words == WORDS
    assert len(counted) == 2
    assert ask().evidence["final"]["ratio"] == [1.5, 1.4, 1.6]
    assert len(counted) == 2
    assert said[-1].startswith("measured before")
    ask(use_cache=False)
    ask(allow=SpeedGrade.BITWISE)
    assert len(counted) == 4


@pytest.mark.slow
def test_an_answer_counts_for_the_whole_configuration_and_not_for_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An experiment or a folder of configurations may change under the same words."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    counted = []

    def measure(*arguments: object) -> SpeedResult:
        counted.append(arguments)
        return SpeedResult(list(WORDS))

    monkeypatch.setattr(speed_answer, "tune_speed", measure)

    def ask(*words: str, goal: str = "throughput") -> None:
        session = open_session(decode_config(compose([*LINE, *words], quiet=True)), World())
        request = SpeedRequest(LINE, goal=parse_goal(goal, [], ""))
        answer_speed(session, request, use_cache=True, say=lambda text: None)

    ask()
    for others in (("seed=5",), ("name=other",), ("log.every=3step",)):
        ask(*others)
    assert len(counted) == 1
    changes = ("precision=bf16", "train.compile=on", "train.cpu_threads=1", "train.duration=7ep", "data.num_workers=3")
    for number, word in enumerate(changes, 2):
        ask(word)
        ask(word)
        assert len(counted) == number
    for _ in range(2):  # formats that are installed later may be faster
        ask(goal="latency")
    assert len(counted) == len(changes) + 3


def test_settings_that_train_differently_come_with_the_command_that_judges_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = ["train.batch_size=64", "precision=bf16"]

    def measure(*arguments: object) -> SpeedResult:
        probe = Probe(words, "statistical", (1.5, 1.4, 1.6), verdict="faster")
        return SpeedResult(list(words), [probe], probe, 1.0)

    monkeypatch.setattr(speed_answer, "tune_speed", measure)
    line = ("data.root=my photos", *LINE, "train.batch_size=32", "run_dir=a", "seed=3")
    request = SpeedRequest(line, Path("my presets"), allow=SpeedGrade.STATISTICAL)
    for _ in range(2):  # measured, and from the cache
        said: list[str] = []
        tuned = answer_speed(open_small(), request, use_cache=True, say=said.append)
        command = shlex.split(said[-1].partition("or with: ")[2])
        assert command[:2] == ["dnntrain", "prove"]
        arguments = parse_arguments(command[1:])
        assert list(arguments.overrides) == ["data.root=my photos", *LINE]
        assert split_settings(arguments.options["a"]) == ["train.batch_size=32"]
        assert split_settings(arguments.options["b"]) == words
        assert arguments.config_dir == Path("my presets")
    assert said[0].startswith("measured before")
    tuned.write(tmp_path / "tuned.yaml")
    assert read_tuned_settings(tmp_path / "tuned.yaml").words == tuple(words)


@pytest.mark.slow
def test_a_file_may_set_each_key_that_a_search_tries(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(100):
            Image.new("L", (4, 4), number).save(tmp_path / "train" / name / f"{number}.png")
    streaming = ("data=image_folder", f"data.root={tmp_path}", "data.pipeline=streaming", "data.image_size=8")
    keys = set()
    for line in (LINE, ("model=small_cnn", "precision=fp32"), ("parallel=ddp",), streaming):
        session = open_session(decode_config(compose([*line], quiet=True)), World())
        keys |= {setting.key for setting in list_speed_settings(session, SpeedGrade.STATISTICAL)}
    assert {"data.decode", "train.batch_size", "precision"} <= keys <= tuned_settings.SPEED_KEYS


def test_settings_belong_to_a_batch_size_unless_they_change_it() -> None:
    small, large = (make_key(f"train.batch_size={size}") for size in (16, 32))
    assert small != large
    found = ["train.batch_size=64"]
    assert make_key("train.batch_size=16", found=found) == make_key("train.batch_size=64", found=found) != small


def test_the_speed_keys_are_keys() -> None:
    configs = [compose(words, quiet=True) for words in ((), ("parallel=ddp",), ("data=image_folder",))]
    for key in tuned_settings.SPEED_KEYS:
        section, _, name = key.partition(".")
        assert any(section in config and (not name or name in config[section]) for config in configs), key
