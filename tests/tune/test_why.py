"""`dnntrain why`: where the time of a step goes, and the name of its bottleneck."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from waiting_transform import make_waiting_words

from dnntrain.choices.reg.label_smoothing import LabelSmoothing
from dnntrain.cli.main import main
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.input.reader import Reader, Reply, Request
from dnntrain.protocols import BuildContext, Hooks, StepInfo
from dnntrain.protocols.speed import SpeedGrade
from dnntrain.report.load_run import read_run
from dnntrain.report.step_time import render_step_time
from dnntrain.run.session import Session, open_session
from dnntrain.tune import phase_clock
from dnntrain.tune import remedies as remedies_module
from dnntrain.tune.lines import Line
from dnntrain.tune.phase_clock import PhaseClock
from dnntrain.tune.probe import Probe, ProbeRequest, run_probe
from dnntrain.tune.remedies import CALLBACKS, COMMUNICATION, COMPUTE, DATA, SMALL_BATCH, list_remedies
from dnntrain.tune.step_time import Rate, StepTime, measure_step_time
from dnntrain.tune.why import TriedRemedy, WhyResult, name_bottleneck, select_best
from dnntrain.tune.why_text import format_why
from dnntrain.utils.world import World
from tests.support.short_runs import trained

#: Seconds of a planted delay: longer than all that a small step computes.
DELAY_S = 0.05
SMALL = (
    "data=digits",
    "model=mlp",
    "train.max_examples=200",
    "train.batch_size=32",
    "precision=fp32",
    "train.compile=off",
)


def open_small(*words: str) -> Session:
    return open_session(decode_config(compose([*SMALL, *words])), World())


def tried(kind: str, *ratio: float, verdict: str = "faster") -> TriedRemedy:
    return TriedRemedy(kind, Probe((f"{kind}=1",), "bitwise", tuple(ratio) or None, verdict=verdict))  # type: ignore[arg-type]


def test_time_counts_in_the_innermost_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(phase_clock.time, "perf_counter", lambda: now)
    clock = PhaseClock(is_on=True)

    @contextmanager
    def lasting(name: str, seconds: float) -> Iterator[None]:
        nonlocal now
        with clock.mark(name):
            now += seconds
            yield

    with lasting("optimizer", 1.0):
        with lasting("forward", 2.0):
            pass
        with lasting("backward", 4.0), lasting("callbacks/reg.a", 8.0):
            pass
    clock.is_on = False
    with lasting("forward", 100.0):
        pass
    assert dict(clock.seconds) == {"forward": 2.0, "backward": 4.0, "callbacks/reg.a": 8.0, "optimizer": 1.0}


@pytest.mark.parametrize(
    ("phases", "remedies", "name"),
    [
        ({"data wait": 3.0, "forward": 2.0, "backward": 3.0}, (), DATA),
        ({"host to device": 4.0, "forward": 2.0, "backward": 3.0}, (), DATA),
        ({"callbacks/reg.a": 1.0, "callbacks/monitor.b": 1.0, "forward": 5.0}, (), CALLBACKS),
        ({"forward": 2.0, "backward": 3.0, "communication": 2.0}, (), COMMUNICATION),
        ({"forward": 5.0, "backward": 5.0}, (tried(SMALL_BATCH, 1.5, 1.3, 1.6),), SMALL_BATCH),
        (
            {"forward": 5.0, "backward": 5.0},
            (tried(SMALL_BATCH, 1.1, 1.0, 1.2), tried(COMPUTE, 2.0, 1.9, 2.1)),
            COMPUTE,
        ),
    ],
)
def test_the_bottleneck_is_named(phases: dict[str, float], remedies: tuple[TriedRemedy, ...], name: str) -> None:
    assert name_bottleneck(StepTime(1.0, 32, phases), remedies) == name


def test_the_best_three_remedies_come_first() -> None:
    remedies = tuple(tried(str(number), 9.0 - number, 2.0, 9.0) for number in range(4))
    step = StepTime(0.01, 32, {"forward": 0.004, "callbacks/reg.a": 0.005, "gaps": 0.001})
    failed = tried("memory", verdict="cannot run: no room")
    slow = Probe(("slow=1",), "bitwise", verdict="undecided: 1.30 × as fast after 3 pairs of blocks", pairs=3)
    undecided = TriedRemedy("slow", slow)
    large = tried("large", verdict="undecided: both lines together need more memory than there is")
    every = (*remedies, failed, undecided, large)
    result = WhyResult(step, (Rate("optimizer", 1e9, 4e9, "B/s"),), CALLBACKS, every, ("late=1",), 1.0)
    assert [item.kind for item in select_best(result)] == ["0", "1", "2"]
    lines = list(format_why(result))
    assert lines[0] == "a step takes 10 ms: 32 examples, 3,200 examples/s"
    assert "bottleneck  callbacks: a method's own code takes a large part of the step (reg.a)" in lines
    assert "  9.00 × (2.00 to 9.00)  0=1  the same numbers" in lines
    assert "  faster too: 3=1" in lines
    assert "  not better: memory=1 (cannot run: no room)" in lines
    assert "  undecided: slow=1 (1.30 × as fast after 3 pairs of blocks). --budget gives more time" in lines
    assert "  undecided: large=1 (both lines together need more memory than there is)" in lines
    assert not any("add up to" in line for line in lines)
    slower = replace(result, step=replace(step, seconds=0.011), remedies=(failed, undecided))
    assert "  the phases are timed in other steps: they add up to 10 ms" in list(format_why(slower))
    assert "remedies: none of those tried is known to be faster" in list(format_why(slower))
    assert "remedies: none of those tried is faster" in list(format_why(replace(result, remedies=(failed,))))
    assert any(line.startswith("optimizer: 1.00 GB/s of 4.00 GB/s") for line in lines)


def test_words_replace_overrides_of_their_keys_and_of_a_removed_choice() -> None:
    line = Line(("train.batch_size=4", "+reg=[sam]", "reg.sam.rho=0.1", "model=mlp"))
    assert line.list_words(("train.batch_size=16",)) == [
        "+reg=[sam]",
        "reg.sam.rho=0.1",
        "model=mlp",
        "train.batch_size=16",
    ]
    assert line.list_words(("reg=[]",), without="reg.sam") == ["train.batch_size=4", "model=mlp", "reg=[]"]
    assert Line.from_json(line.as_json()) == line


def plant_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Reader.__getitem__

    def read_slowly(self: Reader, request: Request) -> Reply:
        time.sleep(DELAY_S)
        return read(self, request)

    monkeypatch.setattr(Reader, "__getitem__", read_slowly)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_slow_data_set_is_named(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_slow_reader(monkeypatch)
    session = open_small("data.pipeline=streaming", f"data.num_workers={workers}")
    step, _ = measure_step_time(session, 0.2)
    assert name_bottleneck(step, ()) == DATA
    words = [remedy.words[0] for remedy in list_remedies(session, step) if remedy.kind == DATA]
    assert words[0] == "data.pipeline=resident"
    assert words[1].startswith("data.num_workers=")


@pytest.mark.slow
def test_more_workers_are_measured_as_faster_if_one_worker_is_too_slow(tmp_path: Path) -> None:
    """The transform waits 4 ms for each image: a batch of 32 takes one worker 128 ms, and four a quarter."""
    line = Line((*SMALL, *make_waiting_words(tmp_path, 0.004), "data.pipeline=streaming", "data.num_workers=1"))
    session = open_session(line.decode(), World())
    step, _ = measure_step_time(session, 0.2)
    assert name_bottleneck(step, ()) == DATA
    words = [remedy.words for remedy in list_remedies(session, step) if remedy.kind == DATA]
    assert ("data.num_workers=8",) in words
    request = ProbeRequest(line, (), ("data.num_workers=4",), SpeedGrade.BITWISE, keeps_callbacks=True)
    probe = run_probe(request, 10.0, None)
    assert probe.ratio is not None
    assert probe.verdict == "faster"


@pytest.mark.parametrize(("factor", "bound"), [(4.0, 2.5), (0.8, None)])
def test_bf16_is_a_remedy_where_its_products_are_faster(
    factor: float, bound: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(Line(SMALL).decode(), World())
    monkeypatch.setattr(remedies_module, "measure_bf16_factor", lambda session: factor)
    step = StepTime(0.01, 256, {"data": 0.002, "forward": 0.003, "backward": 0.005})
    remedies = [remedy for remedy in list_remedies(session, step) if remedy.words == ("precision=bf16",)]
    expected = [] if bound is None else [(COMPUTE, SpeedGrade.STATISTICAL, pytest.approx(bound))]
    assert [(remedy.kind, remedy.grade, remedy.bound) for remedy in remedies] == expected


@pytest.mark.slow
def test_bf16_is_measured_as_faster_where_the_processor_computes_it_fast() -> None:
    """Without instructions for it, the products are emulated, and the probe must find that."""
    larger = ("model.hidden=[1024,1024]", "train.max_examples=1000", "train.batch_size=256")
    line = Line((*Line(SMALL).list_words(larger),))
    session = open_session(line.decode(), World())
    probe = run_probe(ProbeRequest(line, (), ("precision=bf16",), SpeedGrade.STATISTICAL), 10.0, None)
    assert probe.verdict.partition(":")[0] == ("faster" if session.hardware.fast_bf16_feature else "not faster")


@pytest.mark.slow
def test_a_sleep_in_a_callback_is_named_with_its_method(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(step_info: StepInfo) -> None:
        time.sleep(DELAY_S)

    def build(self: LabelSmoothing, context: BuildContext) -> Hooks:
        return Hooks(after_step_hooks=(sleep,))

    monkeypatch.setattr(LabelSmoothing, "build", build)
    session = open_small("reg=[label_smoothing]")
    step, rates = measure_step_time(session, 0.2)
    assert name_bottleneck(step, ()) == CALLBACKS
    assert "callbacks/reg.label_smoothing" in step.phases
    assert {"data wait", "forward", "backward", "optimizer", "gaps"} <= set(step.phases)
    assert [rate.name for rate in rates] == ["forward and backward", "optimizer"]
    (remedy,) = [remedy for remedy in list_remedies(session, step) if remedy.kind == CALLBACKS]
    assert remedy.words == ("reg=[]",)
    assert remedy.without == "reg.label_smoothing"


@pytest.mark.slow
def test_a_small_batch_is_named_from_a_probe() -> None:
    line = Line((*SMALL, "train.batch_size=2", "reg=[label_smoothing]"))
    line = Line(tuple(word for word in line.overrides if word != "train.batch_size=32"))
    words = ("train.batch_size=64",)
    probe = run_probe(ProbeRequest(line, (), words, SpeedGrade.STATISTICAL, keeps_callbacks=True), 3.0, None)
    assert probe.verdict == "faster"
    step = StepTime(0.01, 2, {"forward": 0.004, "backward": 0.006})
    assert name_bottleneck(step, [TriedRemedy(SMALL_BATCH, probe)]) == SMALL_BATCH


@pytest.mark.slow
def test_the_result_for_a_run_is_kept_and_in_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "run", "train.duration=1ep", "model=mlp")
    assert main(["why", str(tmp_path / "run"), "--budget", "0.1", "--json", "-q"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "run" / "why.json").read_text()) == result
    assert result["untried"]
    section = render_step_time(read_run(tmp_path / "run"))
    assert "Time of a step" in section
    assert "backward" in section


@pytest.mark.slow
def test_the_waiting_for_other_ranks_is_named_and_a_smaller_bucket_is_tried(capsys: pytest.CaptureFixture[str]) -> None:
    """One bucket of 1,000 MiB is sent when the whole backward pass has ended, and the network is wide."""
    line = (
        *("data=digits", "model=mlp", "model.hidden=[2048,2048]", "train.batch_size=16", "precision=fp32"),
        *("parallel=ddp", "launch.nproc=2", "parallel.bucket_size_mb=1000", "train.compile=off", "optim=sgd"),
    )
    assert main(["why", *line, "--budget", "4", "--json", "-q"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["step"]["phases"]["communication"] > 0
    assert result["bottleneck"] == COMMUNICATION
    words = [*result["untried"], *(" ".join(item["probe"]["words"]) for item in result["remedies"])]
    assert "parallel.bucket_size_mb=25" in words
    assert "parallel.grad_compression=bf16" in words


@pytest.mark.slow
def test_two_lines_are_compared_on_their_ranks() -> None:
    line = Line((*SMALL, "parallel=ddp", "launch.nproc=2"))
    request = ProbeRequest(line, (), ("parallel.bucket_size_mb=5",), SpeedGrade.ROUNDING, ends_early=False)
    probe = run_probe(request, 0.1, None, open_session(line.decode(), World()))
    assert probe.ratio is not None
    assert probe.loss_difference <= 1e-5
