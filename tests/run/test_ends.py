"""Ends of runs: early signals, late signals, kills after the end, and what is made when the same line is typed again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import SHORT, environment, result, rows, trained

from dnntrain.cli.main import main

#: A network that touches the file MARK and waits where WAIT says: when it is built, or in an evaluation pass after STEPS.
WAITING = """
import os, time
from pathlib import Path
import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes: int, image_height: int, image_width: int) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(image_height * image_width, num_classes))
        self.passes = 0
        if os.environ.get("WAIT") == "build":
            self.wait()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += self.training
        if os.environ.get("WAIT") == "evaluation" and not self.training and self.passes >= int(os.environ["STEPS"]):
            self.wait()
        return self.body(images)

    def wait(self) -> None:
        if os.environ.get("RANK", "0") == "0" and not Path(os.environ["MARK"]).exists():
            Path(os.environ["MARK"]).touch()
            time.sleep(3)
"""

LINE = ("train.duration=3ep", "train.max_examples=320", "log.every=4step", "reg=[]", "augment=[]", "precision=fp32")


def start(words: tuple[str, ...], folder: Path, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dnntrain", *words],
        env={**environment(), **environ},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_condition(process: subprocess.Popen[str], is_reached: Callable[[], bool]) -> None:
    while process.poll() is None and not is_reached():
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()


def handles_sigterm(pid: int) -> bool:
    """Whether the process has installed a handler for SIGTERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def loads_torch(pid: int) -> bool:
    return "libtorch_cpu" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize("moment", ["handlers", "imports", "plan"])
def test_a_signal_in_the_first_seconds_ends_with_its_code_and_a_line(
    moment: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(WAITING)
    mark = tmp_path / "mark"
    words = (*LINE, "model=custom", "model.file=net.py", f"run_dir={tmp_path}/run")
    process = start(words, tmp_path, WAIT="build", MARK=str(mark))
    reached = {
        "handlers": lambda: handles_sigterm(process.pid),
        "imports": lambda: loads_torch(process.pid),
        "plan": mark.exists,
    }
    await_condition(process, reached[moment])
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert f"dnntrain: {number.name}: stopped" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ctrl_c_while_a_python_session_imports_torch_gives_a_short_traceback(tmp_path: Path) -> None:
    use = "dnntrain.train; time.sleep(60)"
    script = f"import dnntrain, time\ntry:\n    {use}\nfinally:\n    import torch; print(torch.ones(2).sum().item())"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    await_condition(process, lambda: loads_torch(process.pid))
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert output.strip() == "2.0"
    assert errors.strip().endswith("KeyboardInterrupt")
    assert len(errors.splitlines()) < 15


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_signal_in_the_last_evaluation_saves_and_the_same_line_ends_well(ranks: int, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(WAITING)
    layout = ("parallel=ddp", f"launch.nproc={ranks}") if ranks > 1 else ()
    words = (*LINE, "eval.every=3ep", "model=custom", "model.file=net.py", f"run_dir={tmp_path}/run", *layout)
    environ = {"WAIT": "evaluation", "MARK": str(tmp_path / "mark"), "STEPS": "30"}
    process = start(words, tmp_path, **environ)
    await_condition(process, (tmp_path / "mark").exists)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=240)
    assert (process.returncode, result(tmp_path / "run")["status"]) == (75, "preempted"), errors
    process = start(words, tmp_path, **environ)
    _, errors = process.communicate(timeout=240)
    assert (process.returncode, result(tmp_path / "run")["status"]) == (0, "done"), errors


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_is_done_ignores_a_signal_and_makes_its_report(ranks: int, tmp_path: Path) -> None:
    layout = ("parallel=ddp", f"launch.nproc={ranks}") if ranks > 1 else ()
    words = (*LINE, f"run_dir={tmp_path}/run", *layout)
    process = start(words, tmp_path)
    await_condition(process, (tmp_path / "run" / "result.json").exists)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=240)
    assert (process.returncode, result(tmp_path / "run")["status"]) == (0, "done"), errors
    assert output.strip() == str(tmp_path / "run" / "report.html")


@pytest.fixture(scope="module")
def reported_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported") / "run"
    trained(folder, "log.report=true")
    return folder


def same_line(folder: Path) -> list[str]:
    return [
        *(word for word in SHORT if not word.startswith("log.report")),
        "log.report=true",
        f"run_dir={folder}",
        "-q",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report.html", "curves.png", "results.csv", "evaluation.json", "model.safetensors"])
def test_a_missing_file_of_a_finished_run_is_made_by_the_same_line(
    name: str, reported_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reported_run, folder)
    (folder / name).unlink()
    assert main(same_line(folder)) == 0
    assert (folder / name).is_file()
    if name not in ("report.html", "model.safetensors"):  # times, and metadata in any order
        assert (folder / name).read_bytes() == (reported_run / name).read_bytes()
    for figure in ("digest", "value", "best_step", "status"):
        assert result(folder)[figure] == result(reported_run)[figure]
    assert [row["split"] for row in rows(folder)].count("test") == 1


@pytest.mark.slow
def test_the_report_of_an_earlier_end_is_made_again(reported_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reported_run, folder)
    (folder / "report.html").write_text("of a shorter run")
    os.utime(folder / "report.html", (0, 0))
    assert main(same_line(folder)) == 0
    assert "of a shorter run" not in (folder / "report.html").read_text()


@pytest.mark.slow
def test_a_report_that_cannot_be_written_leaves_the_run_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dnntrain.report

    def fail(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dnntrain.report, "write_curves", fail)
    assert main(same_line(tmp_path / "run")) == 5
    assert result(tmp_path / "run")["status"] == "done"
    monkeypatch.undo()
    assert main(same_line(tmp_path / "run")) == 0
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
def test_a_missing_integer_export_is_made_by_the_same_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [
        "quant=int8_static",
        "quant.backend=onnxruntime",
        "quant.calibration_batch_size=16",
        "quant.max_metric_drop=0.5",
    ]
    words += same_line(folder)
    assert main(words) == 0
    export = next((folder / "exports").iterdir())
    first = json.loads((export / "manifest.json").read_text())["files"]
    shutil.rmtree(export)
    assert main(words) == 0
    assert json.loads((export / "manifest.json").read_text())["files"] == first
    assert result(folder)["export"]["path"] == str(export)
