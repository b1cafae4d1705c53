"""A pipeline is killed, continued, measured, certified and verified."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pipelines import write_pipeline
from short_runs import environment

from dnntrain import train
from dnntrain.cli.main import main
from dnntrain.pipeline.definition import read_definition
from dnntrain.pipeline.prepare import prepare_pipeline

TINY = """
settings:
  model: small_cnn
  train.duration: 40step
  train.batch_size: 32
  eval.every: 20step
  checkpoint.every: 5step
  train.cpu_threads: 1
  log.report: false
stages:
  - name: teacher
    model.hidden: 32
    train.duration: 5step
  - name: student
    from: {teacher: teacher}
    model.channels: [8, 16]
    model.hidden: 16
    distill: kd
"""


def kill_while_training(command: list[str], student: Path) -> None:
    """Start the pipeline, and kill all of its processes when the student has its first checkpoint."""
    process = subprocess.Popen(command, env=environment(), start_new_session=True, stderr=subprocess.DEVNULL)
    while not (student / "checkpoints" / "LAST").is_file():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_pipeline_ends_with_the_same_model_and_its_certificate_holds(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dnntrain.pipeline.measure._ROUNDS", 2)
    monkeypatch.setattr("dnntrain.pipeline.measure._BLOCK_S", 0.02)
    config_dir = write_pipeline(tmp_path / "conf", TINY, "tiny")
    folder = tmp_path / "made"
    line = ["pipeline", "tiny", f"--config-dir={config_dir}", f"run_dir={folder}"]
    pipeline = prepare_pipeline(read_definition("tiny", line[3:], config_dir), config_dir)
    student = pipeline.final_run
    kill_while_training([sys.executable, "-m", "dnntrain", *line, "-q"], student.folder)

    assert main([*line, "--status"]) == 0
    assert "1 of 2 done" in capsys.readouterr().out
    assert main([*line, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)

    # The same words train the same model without a pipeline.
    alone = train(*student.words, f"run_dir={tmp_path / 'alone'}", display="quiet")
    assert json.loads((student.folder / "result.json").read_text())["digest"] == alone["digest"]
    assert main([*line, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["digest"] == made["digest"]
    assert again["points"] == made["points"]

    assert main(["report", str(folder), "--max-latency", "1s", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["take"]["name"] in ("teacher", "student")
    assert main(["report", str(folder), "--max-latency", "0.001us"]) == 2
    assert "lost it" in capsys.readouterr().err

    copy = shutil.copytree(Path(made["certificate"]).parent, tmp_path / "copy")
    assert main(["verify", str(copy / "certificate.json"), "--no-timing", "--json"]) == 0
    checks = {item["subject"]: item["status"] for item in json.loads(capsys.readouterr().out)["checks"]}
    assert checks == {"files": "same", "code": "same", "data": "same", "accuracy": "same"}
    (copy / "model.safetensors").write_bytes(b"altered")
    assert main(["verify", str(copy / "certificate.json"), "--no-timing"]) == 5
    assert "model.safetensors is damaged or was altered" in capsys.readouterr().err
