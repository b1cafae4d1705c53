"""The goals of `dnntrain tune speed` besides throughput."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dnntrain.bench import fastest_export
from dnntrain.bench.fastest_export import ExportCandidate
from dnntrain.bench.measure import BenchResult
from dnntrain.choices.task.classification import Classification
from dnntrain.cli.main import main
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.protocols.speed import SpeedGrade, SpeedSetting
from dnntrain.run.session import open_session
from dnntrain.tune import latency, memory, speed_answer, time_to
from dnntrain.tune.goal import Goal, parse_goal
from dnntrain.tune.lines import Line, replace_words
from dnntrain.tune.memory import MemoryProbe, describe_memory
from dnntrain.tune.speed import SpeedRequest, SpeedResult
from dnntrain.tune.speed_answer import answer_speed
from dnntrain.tune.speed_settings import list_memory_settings
from dnntrain.tune.time_to import RunToValue, compare_runs, describe_pairs, find_first_value
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
        (["--path", "/nowhere/at/tuned.yaml", "optim.lr=-1"], ["there is no folder /nowhere/at", "optim.lr=-1"]),
        (["--path", "/"], ["name a file, as in --path /tuned.yaml"]),
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
    assert ask("time_to=accuracy:0.8", 0.1, (1,)) != ask("time_to=accuracy:0.9", 0.1, (1,))


def test_a_memory_probe_is_described_with_its_speed() -> None:
    probe = MemoryProbe(("a=1",), "rounding", (400.0, 300.0), (0.9, 0.8, 1.0), "less memory")
    assert describe_memory(probe) == "400 → 300 MiB, 0.90 × as fast (from 0.80 to 1.00), less memory"
    assert describe_memory(MemoryProbe(("a=1",), "rounding", verdict="cannot run: no")) == "cannot run: no"


def reduce_with(
    monkeypatch: pytest.MonkeyPatch, peaks: Sequence[float], speeds: Sequence[dict[str, Any]]
) -> SpeedResult:
    """Return the result of a search for memory with three settings, whose peaks follow those of the line.

    `speeds` are what the processes measure that compare the speed of those which need less.
    """
    settings = [SpeedSetting(name, SpeedGrade.ROUNDING, ("1",)) for name in ("a.x", "a.y", "a.z")]
    monkeypatch.setattr(memory, "list_memory_settings", lambda session, allow: settings)
    values, measured = iter(peaks), iter(speeds)
    monkeypatch.setattr(memory, "measure_apart", lambda *arguments: {"peak_mb": next(values)})
    monkeypatch.setattr("dnntrain.tune.probe.measure_apart", lambda *arguments: next(measured))
    session: Any = None
    return memory.reduce_memory(session, SpeedRequest(SMALL, None, parse("memory")), lambda text: None)


def make_speed(median: float, *ends: float) -> dict[str, Any]:
    """Return what a process measures; without the ends of the interval, after three pairs."""
    ratio = [median, *ends] if ends else None
    facts = {"startup_s": 0.0, "step_s": [1.0, 1 / median], "losses": [[1.0], [1.0]], "is_given_up": False}
    return {"ratio": ratio, "median": median, "pairs": 6 if ends else 3, **facts}


def test_each_setting_must_save_more_than_the_noise_of_two_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line needs 100 and 104 MiB; after the first setting, 5 MiB less are within that noise, and 15 are not."""
    result = reduce_with(monkeypatch, [100, 104, 80, 75, 65], [make_speed(1.0, 0.9, 1.1)] * 3)
    assert [probe.verdict for probe in result.probes] == ["less memory", "not less memory", "less memory"]
    assert result.words == ["a.x=1", "a.z=1"]


def test_the_speed_of_less_memory_is_judged_by_the_slowdown_and_only_with_an_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speeds = [make_speed(0.9, 0.85, 0.95), make_speed(0.7, 0.65, 0.75), make_speed(0.9)]
    result = reduce_with(monkeypatch, [100, 100, 80, 60, 50], speeds)
    verdicts = ["less memory", "too slow", "undecided: 0.90 × as fast after 3 pairs of blocks"]
    assert [probe.verdict for probe in result.probes] == verdicts
    assert not result.is_final


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


def test_pairs_of_runs_are_announced_with_the_budget_that_they_need() -> None:
    """Six pairs of runs of 30 s take six minutes; the settings that keep the numbers take two minutes before."""
    text = describe_pairs(2, 30.0, 120.0, 120.0)
    assert text.startswith("2 settings with other numbers: 6 pairs of runs or more each, about 6:00; ")
    assert "enough for 0: --budget 924s is for all" in text
    assert "enough for 1: --budget" in describe_pairs(2, 30.0, 500.0, 120.0)
    assert "--budget" not in describe_pairs(2, 30.0, 924.0, 120.0)


def test_a_setting_whose_pairs_cannot_end_in_time_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("no pair of runs begins")

    monkeypatch.setattr(time_to, "compare_runs", refuse)
    result, said = SpeedResult(), list[str]()
    attempts = [SpeedSetting("precision", SpeedGrade.STATISTICAL, ("bf16",)).make_attempt("bf16")]
    request = SpeedRequest(SMALL, None, parse("time_to=accuracy:0.9"))
    deadline, reference = time.monotonic() + 300, RunToValue(10, 20.0, 0.9, 30.0)
    session: Any = None
    time_to._judge_by_runs(session, request, attempts, reference, result, deadline, said.append)
    assert result.skipped == ["precision=bf16"]
    assert "not tried: precision=bf16" in said[0]


_PARENT = """
import sys, time
from pathlib import Path
from dnntrain.tune.training_process import start_training
folder = Path(sys.argv[1])
print(start_training(sys.argv[2:], None, folder / "messages.txt").pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs the states of processes")
def test_a_training_ends_with_the_search_that_was_killed(tmp_path: Path) -> None:
    words = ["data=digits", "model=mlp", "train.duration=1000000step", f"run_dir={tmp_path / 'run'}"]
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path), *words], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent, parent.stdout:
        stat = Path("/proc") / parent.stdout.readline().strip() / "stat"
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        parent.kill()
    while stat.exists() and stat.read_text().rpartition(") ")[2][0] not in "ZX":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def make_timed(name: str, rate: float) -> BenchResult:
    info = {"load_s": 0.1, "size_bytes": 1}
    return BenchResult(name, info, {1: [1 / rate]}, {1: [rate + number for number in range(7)]}, first_call_s={1: 0.1})


def test_a_network_that_is_faster_with_fewer_threads_is_not_called_an_export(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`eager` with one thread wins: there is no option of `export` to print, and nothing says the contrary."""
    entries = [latency._Entry(None, 2), latency._Entry(None, 1), latency._Entry(ExportCandidate("onnx", "onnx"), 1)]
    results = [make_timed(entry.name, rate) for entry, rate in zip(entries, (100, 200, 90), strict=True)]
    said: list[str] = []

    def measure(session: object, request: object, say: Callable[[str], None]) -> SpeedResult:
        return latency._make_result(entries, results, [1], {}, say)

    monkeypatch.setattr(speed_answer, "tune_speed", measure)
    session = open_session(decode_config(compose(SMALL, quiet=True)), World())
    request = SpeedRequest(SMALL, None, parse("latency"))
    assert answer_speed(session, request, use_cache=False, say=said.append).words == ()
    assert said[0].startswith("batch 1: eager, threads 1, ")
    assert said[1:] == ["no export is known to be faster at batch 1, to which the line on stdout belongs"]


def test_exports_answer_on_the_processor_beside_the_network(tmp_path: Path) -> None:
    candidate = latency._make_candidate(latency._Entry(ExportCandidate("pt2", "pt2"), 2), tmp_path, tmp_path)
    assert candidate.request["overrides"] == ["device=cpu"]
    assert candidate.threads == 2


@pytest.mark.slow
def test_the_brief_training_of_a_latency_fits_every_schedule_and_keeps_the_batch(tmp_path: Path) -> None:
    words = [*SMALL, "train.batch_size=48", "train.duration=100step", "sched.warmup=60step"]
    config = decode_config(compose(words, quiet=True))
    brief = Line(tuple(words)).list_words(latency.list_brief_words(config, tmp_path))
    session = open_session(decode_config(compose(brief, quiet=True)), World())
    assert (session.plan.total_steps, session.plan.batch_size) == (3, 48)
    assert len(session.data.train) == len(open_session(config, World()).data.train)


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
