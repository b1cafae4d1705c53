"""The goals of `dnntrain tune speed` besides throughput."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from dnntrain.bench import fastest_export
from dnntrain.bench.fastest_export import ExportCandidate
from dnntrain.choices.task.classification import Classification
from dnntrain.cli.main import main
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.protocols.speed import SpeedGrade, SpeedSetting
from dnntrain.run.session import open_session
from dnntrain.tune import latency, memory, time_to
from dnntrain.tune.goal import Goal, parse_goal
from dnntrain.tune.lines import Line, replace_words
from dnntrain.tune.memory import MemoryProbe, describe_memory
from dnntrain.tune.speed import SpeedRequest
from dnntrain.tune.speed_settings import list_memory_settings
from dnntrain.tune.time_to import RunToValue, compare_runs, find_first_value
from dnntrain.utils.hardware import count_cores
from dnntrain.utils.world import World

METRICS = Classification().list_infos()
SMALL = ("data=digits", "model=mlp", "train.max_examples=320", "train.cpu_threads=1", "precision=fp32")


def parse(text: str) -> Goal:
    return parse_goal(text, METRICS, "accuracy")


def test_a_goal_is_read_as_it_is_typed() -> None:
    assert [str(parse(text)) for text in ("throughput", "memory", "latency")] == ["throughput", "memory", "latency"]
    goal = parse("time_to=accuracy:0.9")
    assert str(goal) == "time_to=accuracy:0.9"
    assert goal.is_reached(0.9)
    assert not goal.is_reached(0.8999)
    assert parse("time_to=loss:1.5").is_reached(1.4)
    assert not parse("time_to=loss:1.5").is_reached(1.6)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("throughputt", "did you mean 'throughput'?"),
        ("time_to", "as in --goal time_to=accuracy:0.9"),
        ("time_to=accuracy:", "as in --goal time_to=accuracy:0.9"),
        ("time_to=accuracy:nan", "as in --goal time_to=accuracy:0.9"),
        ("time_to=accuracy:90", "did you mean --goal time_to=accuracy:0.9?"),
        ("time_to=accuracy:90%", "did you mean --goal time_to=accuracy:0.9?"),
        ("time_to=accuracy:0", "as in --goal time_to=accuracy:0.9"),
        ("memory=3", "use --goal memory"),
    ],
)
def test_a_wrong_goal_gets_the_nearest_right_one(text: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert caught.value.hint == hint


def test_a_wrong_metric_gets_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        parse("time_to=acuracy:0.9")


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["--goal", "laten", "optim.lr=-1"], ["did you mean 'latency'?", "optim.lr=-1"]),
        (["--goal", "latency", "--path", "tuned.yaml"], ["--path does not support --goal latency"]),
        (["--goal", "latency", "--allow", "bitwise"], ["use --allow rounding"]),
        (["--max-slowdown", "0.1"], ["use --goal memory"]),
        (["--batches", "1,8", "--goal", "memory"], ["use --goal latency"]),
    ],
)
def test_options_that_do_not_fit_the_goal_are_errors(
    words: list[str], texts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "speed", *words]) == 2
    message = capsys.readouterr().err
    assert all(text in message for text in texts)


def make_row(split: str, step: int, **values: float) -> dict[str, Any]:
    return {"split": split, "step": step, "examples": 10 * step, **values}


def test_the_time_to_a_value_leaves_out_evaluation() -> None:
    rows = [
        make_row("train", 10, examples_per_s=100.0, wall_s=1.0),
        make_row("val", 15, accuracy=0.5, loss=1.0, wall_s=60.0),
        make_row("train", 20, examples_per_s=50.0, wall_s=62.0),
        make_row("val", 30, accuracy=0.8, loss=0.5, wall_s=120.0),
        make_row("val", 45, accuracy=0.9, loss=0.4, wall_s=180.0),
    ]
    # 1.5 s for 150 examples at 100/s, then 3 s for 150 at 50/s.
    assert find_first_value(rows[1:2], parse("time_to=loss:1.0"), 30.0)[1] == pytest.approx(5.0)
    for goal, steps, seconds, best in (
        ("accuracy:0.8", 30, 4.5, 0.8),
        ("loss:1.0", 15, 1.5, 1.0),
        ("accuracy:0.95", None, 7.5, 0.9),
    ):
        reached = find_first_value(rows, parse(f"time_to={goal}"))
        assert (reached[0], reached[2]) == (steps, best)
        assert reached[1] == pytest.approx(seconds)


def test_a_setting_replaces_another_value_of_its_key() -> None:
    assert replace_words(["train.cpu_threads=1", "train.compile=on"], ["train.cpu_threads=2"]) == [
        "train.compile=on",
        "train.cpu_threads=2",
    ]


def test_the_answer_depends_on_the_limits_of_its_goal_only() -> None:
    def ask(goal: str, max_slowdown: float, batches: tuple[int, ...]) -> dict[str, Any]:
        return SpeedRequest(SMALL, None, parse(goal), max_slowdown=max_slowdown, batches=batches).as_question()

    assert ask("throughput", 0.1, (1,)) == ask("throughput", 0.2, (8,))
    assert ask("memory", 0.1, (1,)) != ask("memory", 0.2, (1,))
    assert ask("latency", 0.1, (1,)) != ask("latency", 0.1, (1, 8))
    assert ask("time_to=accuracy:0.8", 0.1, (1,)) != ask("time_to=accuracy:0.9", 0.1, (1,))


def test_a_memory_probe_is_described_with_its_speed() -> None:
    probe = MemoryProbe(("a=1",), "rounding", (400.0, 300.0), (0.9, 0.8, 1.0), "less memory")
    assert describe_memory(probe) == "400 → 300 MiB, 0.90 × as fast (from 0.80 to 1.00), less memory"
    assert describe_memory(MemoryProbe(("a=1",), "rounding", verdict="cannot run: no")) == "cannot run: no"


@pytest.mark.long
def test_smaller_micro_batches_need_less_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The activations of one wide layer are most of the memory: 4096 numbers for each example."""
    tried = [SpeedSetting("train.micro_batch_size", SpeedGrade.ROUNDING, ("64",))]
    monkeypatch.setattr(memory, "list_memory_settings", lambda session, allow: tried)
    line = ["data=digits", "model=mlp", "model.hidden=[4096]", "train.batch_size=1024", "train.cpu_threads=1"]
    options = ["--goal", "memory", "--max-slowdown", "0.99", "--budget", "3600", "--json", "-q", "--no-cache"]
    assert main(["tune", "speed", *line, "precision=fp32", *options]) == 0
    result = json.loads(capsys.readouterr().out)
    (probe,) = result["probes"]
    assert probe["peak_mb"][1] < probe["peak_mb"][0] - 20
    assert probe["verdict"] == "less memory"
    assert result["line"] == "train.micro_batch_size=64"
    assert result["final"]["ratio"][1] <= result["final"]["ratio"][0] <= result["final"]["ratio"][2]


@pytest.mark.slow
def test_settings_that_need_less_memory_are_listed_by_grade() -> None:
    def list_keys(allow: SpeedGrade, *words: str) -> dict[str, tuple[str, ...]]:
        config = decode_config(compose(Line(SMALL).list_words(["train.batch_size=64", *words])))
        return {item.key: item.values for item in list_memory_settings(open_session(config, World()), allow)}

    assert list_keys(SpeedGrade.BITWISE) == {}
    assert list_keys(SpeedGrade.ROUNDING) == {"train.micro_batch_size": ("32", "16", "8")}
    assert list_keys(SpeedGrade.STATISTICAL)["precision"] == ("bf16",)
    blocks = list_keys(SpeedGrade.ROUNDING, "model=vit_tiny")
    assert blocks["train.activation_checkpointing"] == ("selective", "full")
    assert "train.micro_batch_size" not in list_keys(SpeedGrade.ROUNDING, "model=resnet20")  # batch norm


@pytest.mark.slow
def test_the_steps_to_a_value_are_counted_by_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    line = [*SMALL, "train.duration=2ep", "eval.every=3step", "train.batch_size=32"]
    options = ["--budget", "0.001", "--json", "-q", "--no-cache"]
    assert main(["tune", "speed", *line, "--goal", "time_to=loss:100", *options]) == 0
    reference = json.loads(capsys.readouterr().out)["details"]["reference"]
    assert reference["steps"] == 3
    assert reference["train_s"] > 0
    assert main(["tune", "speed", *line, "--goal", "time_to=accuracy:1", *options]) == 2
    assert "--goal time_to=accuracy:0." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "verdict", "pairs"),
    [
        ([(10.0, 5.0)] * 12, "faster", 6),
        ([(5.0, 10.0)] * 12, "not faster", 6),
        ([(5.0, 5.5), (5.5, 5.0)] * 6, "undecided after 12 pairs of runs", 12),
        ([(5.0, None)], "the new line reaches 0.5 at most with seed=7", 0),
        ([(5.0, 4.0), (None, 4.0)], "the old line reaches 0.5 at most with seed=8", 1),
    ],
)
def test_settings_that_change_the_numbers_are_judged_by_pairs_of_runs(
    seconds: list[tuple[float | None, float | None]], verdict: str, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(request: SpeedRequest, words: list[str], seed: int) -> RunToValue:
        value = seconds[seed - 7][len(words)]
        return RunToValue(None if value is None else 10, value or 0.0, 0.5, 1.0)

    monkeypatch.setattr(time_to, "run_to_value", train)
    request = SpeedRequest(SMALL, None, parse("time_to=accuracy:0.9"))
    probe, times = compare_runs(7, request, [], ["precision=bf16"], time.monotonic() + 60)
    assert probe.verdict == verdict
    assert len(times) == pairs
    assert compare_runs(7, request, [], ["precision=bf16"], 0.0)[0].verdict.startswith("undecided after 0 pairs")


@pytest.mark.long
def test_the_latency_of_exports_is_measured_with_several_threads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    candidates = (ExportCandidate("onnx", "onnx"), ExportCandidate("onnx_int8", "onnx_int8"))
    monkeypatch.setattr(fastest_export, "EXPORT_CANDIDATES", candidates)
    monkeypatch.setattr(latency, "_MAX_ROUNDS", 7)
    options = ["--goal", "latency", "--batches", "1,8", "--budget", "1", "--json", "-q", "--no-cache"]
    assert main(["tune", "speed", *SMALL, *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["details"]["batches"]) == {"1", "8"}
    names = {item["name"] for item in result["details"]["measured"]}
    assert {"eager, threads 1", "onnx, threads 1", f"onnx, threads {count_cores()}"} <= names
    assert not any("int8" in name for name in names)  # another arithmetic needs --allow statistical
    best = result["details"]["batches"]["1"]
    assert result["line"] == best["options"]
    assert best["name"] in names
