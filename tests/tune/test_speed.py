"""`dnntrain tune speed`: which settings are tried, and what counts as faster."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from data_files import write_images
from waiting_transform import make_waiting_words

from dnntrain.cli.main import main
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError, Interrupted
from dnntrain.input.decoded_cache import CachingSource, fill_cache
from dnntrain.input.worker_replies import choose_worker_count
from dnntrain.protocols.speed import SpeedGrade
from dnntrain.run.session import open_session
from dnntrain.tune import speed_settings
from dnntrain.tune.blocks import compute_block_length, fill_cache_of_run
from dnntrain.tune.lines import Line
from dnntrain.tune.probe import (
    Probe,
    ProbeRequest,
    describe_probe,
    format_failure,
    judge,
    measure_apart,
    run_probe,
)
from dnntrain.tune.speed import SpeedResult, make_evidence
from dnntrain.tune.speed_settings import count_readers, describe_measured_steps, list_speed_settings
from dnntrain.tune.speed_worker import (
    Ratio,
    TimedLine,
    answer_request,
    compare_times,
    has_lost_first_pairs,
    is_decided,
    open_line,
)
from dnntrain.utils.world import World

FASTER: dict[str, Any] = {
    "ratio": [1.5, 1.4, 1.6],
    "step_s": [0.03, 0.02],
    "startup_s": 1.0,
    "losses": [[1.0, 0.5], [1.0, 0.5]],
}


def judge_with(grade: str = "rounding", total_steps: int | None = 1000, **changes: Any) -> Probe:
    return judge(Probe(("train.compile=on",), grade), {**FASTER, **changes}, total_steps)


def test_a_setting_is_faster_if_the_interval_excludes_one() -> None:
    assert judge_with().verdict == "faster"
    assert judge_with(ratio=[1.1, 0.99, 1.2]).verdict == "not faster"
    assert judge_with(ratio=[0.8, 0.7, 0.9]).verdict == "not faster"


@pytest.mark.parametrize(
    ("grade", "losses", "verdict"),
    [
        ("bitwise", [[1.0, 0.5], [1.0, 0.5 + 1e-9]], "other losses"),
        ("rounding", [[1.0, 0.5], [1.0, 0.5 + 1e-9]], "faster"),
        ("rounding", [[1.0, 0.5], [1.0, 0.501]], "other losses"),
        ("statistical", [[1.0, 0.5], [1.0, 0.501]], "faster"),
    ],
)
def test_the_first_losses_must_agree_as_the_grade_says(grade: str, losses: list[list[float]], verdict: str) -> None:
    assert judge_with(grade, losses=losses).verdict == verdict


def test_a_slow_start_must_pay_within_the_run() -> None:
    probe = judge_with(startup_s=30.0)
    assert probe.verdict == "starts too slowly: pays after 3000 steps, and this run has 1000"
    assert judge_with(startup_s=30.0, total_steps=5000).verdict == "faster"
    assert judge_with(startup_s=30.0, total_steps=None).verdict == "faster"
    assert "starts 30" in describe_probe(probe)


@pytest.mark.parametrize(
    ("median", "pairs", "is_given_up", "verdict"),
    [
        (0.84, 3, True, "not faster: 0.84 × as fast after 3 pairs of blocks"),
        (0.84, 2, False, "undecided: 0.84 × as fast after 2 pairs of blocks"),
        (1.3, 1, False, "undecided: 1.30 × as fast after 1 pair of blocks"),
    ],
)
def test_without_an_interval_no_setting_is_kept(median: float, pairs: int, is_given_up: bool, verdict: str) -> None:
    measured = {**FASTER, "ratio": None, "median": median, "pairs": pairs, "is_given_up": is_given_up}
    probe = judge(Probe(("train.compile=on",), "rounding", pairs=pairs), measured, 1000)
    assert (probe.ratio, probe.verdict, describe_probe(probe)) == (None, verdict, verdict)


@pytest.mark.parametrize(
    ("old", "new", "is_lost"),
    [
        ([1.0, 1.0], [2.0, 2.0], False),  # two pairs are too few
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], True),
        ([1.0, 1.0, 1.0], [2.0, 0.9, 2.0], False),
        ([1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 0.1], True),
    ],
)
def test_a_setting_is_given_up_if_it_loses_each_of_the_first_three_pairs(
    old: list[float], new: list[float], is_lost: bool
) -> None:
    assert has_lost_first_pairs(old, new, 1.0) == is_lost
    assert not has_lost_first_pairs(old, new, 4.0)  # a step of four times the examples, in twice the time


def answer_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measure: Callable[[Any], dict[str, Any]]) -> Any:
    """Return what the process of a measurement writes into its folder."""
    (tmp_path / "request.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["worker", str(tmp_path)])
    monkeypatch.setattr("dnntrain.tune.speed_worker.die_with_parent", lambda: None)
    assert answer_request(measure) == 0
    return json.loads((tmp_path / "result.json").read_text())


def test_two_lines_that_do_not_fit_into_memory_together_are_undecided(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run_out(request: Any) -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB.")

    answer = answer_with(monkeypatch, tmp_path, run_out)

    def start(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        (Path(command[-1]) / "result.json").write_text(json.dumps(answer))
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr("dnntrain.tune.probe.subprocess.run", start)
    probe = run_probe(ProbeRequest(Line(), (), ("a=1",), SpeedGrade.ROUNDING), 1.0, None)
    assert probe.verdict == "undecided: both lines together need more memory than there is"
    assert not SpeedResult(probes=[probe]).is_final
    alone = measure_apart("memory", {}, 1.0, None)  # a single line needs too much for certain
    assert format_failure(alone).startswith("cannot run: there is not enough memory")


def test_a_probe_that_was_killed_or_hung_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, -9, stderr="")

    def hang(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(command, 1.0)

    for run, verdict in (
        (kill, "undecided: ended by signal 9, memory may be full"),
        (hang, "undecided: did not end in time"),
    ):
        monkeypatch.setattr("dnntrain.tune.probe.subprocess.run", run)
        probe = run_probe(ProbeRequest(Line(), (), ("a=1",), SpeedGrade.ROUNDING), 1.0, None)
        assert probe.verdict == verdict
        assert not SpeedResult(probes=[probe]).is_final


def test_a_stop_during_a_measurement_on_ranks_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object) -> dict[str, Any]:
        raise Interrupted("SIGINT: stopped")

    monkeypatch.setattr("dnntrain.tune.probe.measure_on_ranks", stop)
    session: Any = SimpleNamespace(plan=SimpleNamespace(ranks=2))
    with pytest.raises(Interrupted):
        measure_apart("probe", {}, 1.0, session)


def test_a_larger_batch_saves_time_though_its_steps_are_longer() -> None:
    """Twice the examples in 1.25 times the time: 1.6 times as fast, 3/8 of the old time is saved."""
    larger = {"ratio": [1.6, 1.5, 1.7], "step_s": [0.04, 0.05], "startup_s": 3.0}
    assert judge_with("statistical", **larger).verdict == "faster"
    slow = judge_with("statistical", **{**larger, "startup_s": 30.0})
    assert slow.verdict == "starts too slowly: pays after 2000 steps, and this run has 1000"


def test_the_interval_of_a_ratio_may_be_looked_at_after_each_pair() -> None:
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(100):
        old, new = np.exp(generator.normal(0.0, 0.1, (2, 40))).tolist()
        ratios = [compare_times(old[:count], new[:count], 1.0) for count in range(6, 41, 2)]
        wrong += any(not ratio.low <= 1.0 <= ratio.high for ratio in ratios)
    assert wrong <= 9  # 5 are expected at most; an interval for one number of pairs is wrong in about 20
    faster = compare_times([0.02, 0.021, 0.019, 0.0205, 0.02, 0.0195, 0.02], [0.01] * 7, 1.0)
    assert 1 < faster.low < faster.median < faster.high
    for old in ([0.01] * 8 + [0.013] * 12, [0.01] * 8 + [0.012] * 4):  # the machine got busier
        drifting = compare_times(old, [0.0105] * len(old), 1.0)
        assert drifting.low <= drifting.median <= drifting.high
    assert compare_times([0.01] * 6, [0.012] * 6, 2.0).median == pytest.approx(2 / 1.2)


def list_words(allow: SpeedGrade, *words: str) -> dict[str, tuple[str, ...]]:
    session = open_session(decode_config(compose(["train.max_examples=100", *words])), World())
    return {setting.key: setting.values for setting in list_speed_settings(session, allow)}


@pytest.mark.slow
def test_only_settings_with_an_effect_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_settings, "count_cores", lambda: 4)
    resident = list_words(SpeedGrade.ROUNDING, "model=mlp", "train.cpu_threads=2", "precision=fp32")
    assert resident == {
        "train.cpu_threads": ("1", "4"),
        "train.compile": ("on",),
        "train.micro_batch_size": ("16",),
    }
    streaming = list_words(SpeedGrade.BITWISE, "data.pipeline=streaming", "data.num_workers=2")
    assert streaming == {"data.num_workers": ("1", "4", "8"), "data.pipeline": ("resident",)}
    by_default = list_words(SpeedGrade.BITWISE, "data.pipeline=streaming")
    assert str(choose_worker_count(None, 1)) not in by_default["data.num_workers"]  # the run has as many already
    different = list_words(SpeedGrade.STATISTICAL, "precision=fp32")
    assert (different["precision"], different["train.batch_size"]) == (("bf16",), ("64",))  # of 90 examples
    for words in ("train.micro_batch_size=16", "train.duration=20step"):
        assert "train.batch_size" not in list_words(SpeedGrade.STATISTICAL, words)
    assert "train.channels_last" in list_words(SpeedGrade.ROUNDING, "model=small_cnn")
    assert "train.micro_batch_size" not in list_words(SpeedGrade.ROUNDING, "model=resnet20")  # batch norm


@pytest.mark.slow
def test_readers_matter_to_a_run_that_keeps_its_images_only_in_the_first_epoch(tmp_path: Path) -> None:
    write_images(tmp_path, count=40)
    words = ("data=image_folder", f"data.root={tmp_path}", "data.image_size=8", "data.pipeline=cached", "model=mlp")
    for length, has_readers in (("1ep", True), ("2ep", False)):
        line = (*words, "data.num_workers=1", "train.batch_size=16", f"train.duration={length}")
        session = open_session(decode_config(compose(line, quiet=True)), World())
        keys = {setting.key for setting in list_speed_settings(session, SpeedGrade.BITWISE)}
        assert ("data.num_workers" in keys) == has_readers
        assert ("data.pipeline" in keys) == has_readers
        assert (count_readers(session) == 1) == has_readers
        assert ("after the first epoch" in describe_measured_steps(session)) == (not has_readers)
        fill_cache_of_run(session)
        source = session.data.dataset.train
        assert isinstance(source, CachingSource)
        assert source.has_cached(session.data.train) == (not has_readers)


@pytest.mark.slow
def test_a_mixture_of_steps_that_read_files_and_memory_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, count=40)
    words = ("data=image_folder", f"data.root={tmp_path}", "data.image_size=8", "data.pipeline=cached", "model=mlp")
    session = open_session(decode_config(compose((*words, "train.duration=2ep"), quiet=True)), World())
    monkeypatch.setattr("dnntrain.tune.blocks._READING_S", 0.0)
    with pytest.raises(ConfigError, match="take more than 0 s to read") as raised:
        fill_cache_of_run(session)
    assert "train.max_examples=N" in raised.value.hint
    fill_cache_of_run(session, must_be_full=False)
    fill_cache(session.data.dataset.train, session.data.train)
    fill_cache_of_run(session)


def test_the_line_has_the_settings_that_were_kept() -> None:
    result = SpeedResult(words=["train.cpu_threads=1", "train.compile=on"])
    assert make_evidence(result)["line"] == "train.cpu_threads=1 train.compile=on"


def test_an_answer_is_final_if_each_setting_was_decided_on_an_idle_machine() -> None:
    probes: list[Any] = [judge_with(ratio=[0.8, 0.7, 0.9])]
    assert SpeedResult(probes=probes).is_final
    assert not SpeedResult(probes=probes, skipped=["train.compile=on"]).is_final
    assert not SpeedResult(probes=probes, is_reliable=False).is_final
    undecided = judge_with(ratio=None, median=1.3, pairs=2, is_given_up=False)
    assert not SpeedResult(probes=[*probes, undecided]).is_final
    assert not SpeedResult(probes=probes, final=undecided).is_final


@pytest.mark.slow
def test_settings_are_measured_and_the_evidence_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["data=digits", "model=mlp", "train.max_examples=320", "train.micro_batch_size=16", "precision=fp32"]
    assert main(["tune", "speed", *line, "--budget", "1", "--json", "-q", "--allow", "rounding"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["probes"]) + len(result["skipped"]) >= 2
    assert result["probes"]
    assert result["details"]["step"]["phases"]["backward"] > 0
    for probe in result["probes"]:
        if probe["ratio"] is None:
            assert probe["verdict"].partition(":")[0] in ("not faster", "undecided")
        else:
            assert probe["ratio"][1] <= probe["ratio"][0] <= probe["ratio"][2]
            assert probe["verdict"] in ("faster", "not faster", "other losses")


@pytest.mark.parametrize(
    ("low", "high", "decided"),
    [(1.005, 1.9, False), (1.02, 1.9, True), (0.9, 0.99, True), (0.9, 1.005, False)],
)
def test_a_comparison_goes_on_until_its_interval_gives_a_verdict(low: float, high: float, decided: bool) -> None:
    """An interval that begins between 1 and the least gain excludes 1, but the setting would not be kept."""
    assert is_decided(Ratio((low + high) / 2, low, high)) == decided


@pytest.mark.parametrize(
    ("steps_s", "length"),
    [
        ([0.02] * 8, 10),  # 0.2 s
        ([2.0, 2.1], 1),  # the passes are slow
        ([0.01, 0.01, 0.01, 2.0], 4),  # four slow readers, one batch of each
        ([0.001, 0.001, 0.001, 0.13] * 4, 16),  # four readers, four times
        (([0.001] * 15 + [0.4]) * 2, 32),  # resident data of 16 steps
        ([0.002] * 63 + [0.02], 88),  # one step was disturbed
    ],
)
def test_a_block_has_its_share_of_the_steps_that_wait(steps_s: list[float], length: int) -> None:
    assert compute_block_length(steps_s) == length


def test_fast_steps_are_timed_until_batches_that_were_prepared_ahead_are_used_up() -> None:
    """The first steps and 16 more have their batches ready; from then on a step waits 10 ms."""

    def make_steps() -> Iterator[int]:
        for step in range(1000):
            time.sleep(0.01 if step >= 16 else 0)
            yield step

    line = TimedLine(None, make_steps(), 1, 32, "cpu", 0.0, first_steps_s=[0.01, 1e-5, 1e-5])  # type: ignore[arg-type]
    # By the first steps alone, 20,000 steps would be a block.
    assert line.choose_block_length() < 1000


def assert_stopped(lines: Sequence[TimedLine]) -> None:
    """All reading processes are stopped, which the kernel may do a moment after it was asked."""
    paths = [Path(f"/proc/{pid}/stat") for line in lines for pid in line.readers]
    deadline = time.monotonic() + 5
    while (states := {path.read_text().rpartition(") ")[2][0] for path in paths}) != {"T"}:
        assert time.monotonic() < deadline, states
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs the states of processes")
def test_readers_are_stopped_between_the_blocks_of_their_line() -> None:
    """Two lines in one process: each has readers of its own."""
    words = ["data=digits", "model=mlp", "data.pipeline=streaming", "data.num_workers=2", "train.max_examples=200"]
    lines = [open_line(decode_config(compose(words)), False, World()) for _ in range(2)]
    try:
        assert [line.make_first_steps(3) for line in lines] == [3, 3]
        assert [len(line.readers) for line in lines] == [2, 2]
        assert not lines[0].readers & lines[1].readers
        assert_stopped(lines)
        assert lines[0].run(5) > 0  # more steps than batches were prepared
        assert_stopped(lines)
    finally:
        for line in lines:
            line.close()
    assert not any(Path(f"/proc/{pid}").exists() for line in lines for pid in line.readers)


@pytest.mark.slow
def test_a_probe_of_slow_steps_ends_at_its_limit(tmp_path: Path) -> None:
    """A step takes 0.64 s: no six pairs fit into two seconds."""
    words = ("data=digits", "model=mlp", *make_waiting_words(tmp_path, 0.02))
    line = Line((*words, "data.pipeline=streaming", "data.num_workers=1", "train.max_examples=200"))
    request = ProbeRequest(line, (), ("train.cpu_threads=1",), SpeedGrade.ROUNDING, ends_early=False)
    probe = run_probe(request, 1.0, None, limit_s=2.0)
    assert probe.pairs < 6
    assert probe.ratio is None
    assert "after" in probe.verdict
