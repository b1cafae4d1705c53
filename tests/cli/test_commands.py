"""The verbs that use a run, and those that look at the machine, as a person types them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from short_runs import result

from dnntrain.cli.main import main

Capture = pytest.CaptureFixture[str]


def test_plan_says_what_would_run_and_why(capsys: Capture) -> None:
    assert main(["plan", "train.batch_size=96", "train.micro_batch_size=32"]) == 0
    text = capsys.readouterr().out
    assert "96 = 1 data rank × 3 accumulated × 32" in text
    assert "precision" in text
    assert "at the peak" in text


def test_plan_as_json_holds_the_numbers(capsys: Capture) -> None:
    assert main(["plan", "--json", "parallel=ddp", "launch.nproc=4", "train.batch_size=64"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["ranks"], made["micro_batch_size"]) == (4, 16)
    assert made["model"]["parameters"] == 320 + 18496 + 32896 + 1290
    assert made["memory_bytes"] > 10**8


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["train.micro_batch_size=64"], "more than train.batch_size=32"),
        (["precision=fp16", "device=cpu"], "use precision=bf16"),
        (["parallel=ddp", "launch.nproc=64"], "leaves some of 64 data ranks without"),
        (["parallel=tp", "cluster.world_size=64"], "use parallel.tp=32 cluster.world_size=32"),
        (["parallel=tp", "parallel.tp=16", "cluster.world_size=64"], "use cluster.world_size=16"),
        (["device=cuda:7"], "device=cuda:7"),
        (
            ["launch.nproc=2"],
            "parallel=single does not support launch.nproc=2: it uses one process\n  use parallel=ddp, or launch.nproc=1",
        ),
    ],
)
def test_what_cannot_run_is_refused_with_the_nearest_that_can(words: list[str], reason: str, capsys: Capture) -> None:
    assert main(["plan", *words]) == 2
    assert reason in capsys.readouterr().err


def test_eval_repeats_the_figures_of_the_run(short_run: Path, capsys: Capture) -> None:
    assert main(["eval", str(short_run), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["accuracy"] == pytest.approx(result(short_run)["test_accuracy"])
    assert values["examples"] == 360


def test_eval_of_an_unknown_split_names_the_nearest(short_run: Path, capsys: Capture) -> None:
    assert main(["eval", str(short_run), "--split=tset"]) == 2
    assert "test" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["eval", "splt=val"], "did you mean --split val?"),
        (["bench", "bathces=1"], "did you mean --batches 1?"),
        (["export", "fromat=onnx"], "did you mean --format onnx?"),
        (["eval", "optim.lr=1"], "optim.lr=1 has no effect on a trained model"),
        (["bench", "train.batch_size=4"], "train.batch_size=4 has no effect on a trained model"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(
    words: list[str], reason: str, short_run: Path, capsys: Capture
) -> None:
    verb, setting = words
    assert main([verb, str(short_run), setting]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["eval", "resume", "bench"])
def test_a_path_that_is_no_run_names_the_nearest_run(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "rates/1-seed=1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").write_text("seed: 0\n")
    assert main([verb, "runs/frist"]) == 2
    assert "did you mean runs/first?" in capsys.readouterr().err


@pytest.mark.sampled
@pytest.mark.parametrize("weights", ["none.safetensors", "other.safetensors"])
@pytest.mark.parametrize("verb", ["plan", "train"])
def test_first_weights_that_are_missing_or_foreign_are_refused_before_a_folder_is_made(
    verb: str, weights: str, tmp_path: Path, capsys: Capture
) -> None:
    save_file({"elsewhere": torch.zeros(3)}, tmp_path / "other.safetensors")
    assert main([verb, f"init_from={tmp_path / weights}", f"run_dir={tmp_path / 'run'}"]) == 5
    assert weights in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_eval_on_data_of_another_shape_is_refused(short_run: Path, capsys: Capture) -> None:
    assert main(["eval", str(short_run), "data=synthetic", "data.image_size=16"]) == 3
    assert "the model" in capsys.readouterr().err


def test_predict_writes_a_table_and_lists_what_it_could_not_read(
    short_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    from PIL import Image

    from dnntrain.choices.data.digits import Digits

    source = Digits().build().test
    for number in range(3):
        Image.fromarray(source.read(number)[0].numpy()).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_text("no picture")
    assert main(["predict", str(short_run), str(tmp_path)]) == 0
    captured = capsys.readouterr()
    rows = list(csv.DictReader(captured.out.splitlines()))
    assert [Path(row["path"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    assert all(row["class"] in "0123456789" and 0 < float(row["probability"]) <= 1 for row in rows)
    assert "broken.png" in captured.err


def test_predict_writes_as_many_classes_as_top_says(short_run: Path, tmp_path: Path, capsys: Capture) -> None:
    from dnntrain.choices.data.digits import Digits

    Image.fromarray(Digits().build().test.read(0)[0].numpy()).save(tmp_path / "0.png")
    assert main(["predict", str(short_run), str(tmp_path), "--format", "csv", "--top", "3"]) == 0
    [row] = csv.DictReader(capsys.readouterr().out.splitlines())
    assert list(row) == ["path", "class", "probability", "class_2", "probability_2", "class_3", "probability_3"]
    assert main(["predict", str(short_run), str(tmp_path), "--format=jsonl", "--top=3"]) == 0
    top = json.loads(capsys.readouterr().out)["top"]
    assert [name for name, _ in top] == [row["class"], row["class_2"], row["class_3"]]


def test_predict_of_nothing_readable_is_a_data_problem(short_run: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no picture")
    assert main(["predict", str(short_run), str(tmp_path)]) == 3
    assert main(["predict", str(short_run), str(tmp_path / "nowhere")]) == 3


@pytest.mark.parametrize("verb", ["eval", "resume", "predict", "export", "bench"])
def test_a_folder_that_is_no_run_is_refused(verb: str, tmp_path: Path, capsys: Capture) -> None:
    assert main([verb, str(tmp_path), *([str(tmp_path)] if verb == "predict" else [])]) == 2
    assert "not a run directory" in capsys.readouterr().err


def test_a_damaged_model_file_has_exit_code_5(short_run: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = shutil.copytree(short_run, tmp_path / "copy")
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert main(["eval", str(copy)]) == 5
    assert "model.safetensors" in capsys.readouterr().err


def test_a_model_file_that_was_altered_is_found_by_its_checksum(
    short_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    copy = shutil.copytree(short_run, tmp_path / "copy")
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-5] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert main(["eval", str(copy)]) == 5
    assert "model.safetensors is damaged: it differs from the file that the run wrote" in capsys.readouterr().err


def test_a_run_that_does_not_exist_is_said_to(tmp_path: Path, capsys: Capture) -> None:
    assert main(["eval", str(tmp_path / "nothing")]) == 2
    assert f"{tmp_path}/nothing does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_a_test_image_that_cannot_be_read_costs_the_test_and_not_the_model(tmp_path: Path, capsys: Capture) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 2), ("test", 300)):
        for level, name in enumerate(("cats", "dogs")):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 128, (6, 8, 3), dtype=np.uint8) + np.uint8(100 * level)
                Image.fromarray(pixels).save(folder / f"{number:03}.png")
    checked = np.linspace(0, 599, 500).round().astype(int)
    (number, *_) = sorted({*range(300)} - {*checked.tolist()})
    damaged = tmp_path / "photos" / "test" / "cats" / f"{number:03}.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:80])
    run = tmp_path / "run"
    words = ["data=image_folder", f"data.root={tmp_path}/photos", "data.image_size=8", "train.duration=2step"]
    words += ["data.pipeline=streaming", "data.num_workers=0", "train.batch_size=4", "eval.batch_size=100"]
    assert main([*words, "log.report=false", f"run_dir={run}"]) == 3
    assert f"then test it with: dnntrain eval {run}" in capsys.readouterr().err
    assert result(run)["status"] == "failed"
    damaged.write_bytes(whole)
    assert main(["eval", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 600


@pytest.mark.slow
def test_a_run_of_a_users_own_model_runs_its_code_only_where_that_is_asked_for(tmp_path: Path, capsys: Capture) -> None:
    code = tmp_path / "net.py"
    code.write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes: int) -> None:\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    words = ["model=custom", f"model.file={code}", "model.name=Net", "debug=fast", "log.report=false"]
    assert main([*words, f"run_dir={tmp_path}/run", "--quiet"]) == 0
    assert main(["eval", str(tmp_path / "run")]) == 2
    assert f"model.file={code}" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "run"), f"model.file={code}"]) == 0


@pytest.mark.slow
def test_a_run_with_choices_of_the_users_own_is_replayed_by_resume(tmp_path: Path) -> None:
    (tmp_path / "mine" / "optim").mkdir(parents=True)
    (tmp_path / "mine" / "optim" / "slow.yaml").write_text("# Slow.\ndefaults: [sgd, _self_]\nlr: 0.001\n")
    words = ["--config-dir", str(tmp_path / "mine"), "optim=slow", "log.report=false", "train.duration=2step"]
    assert main([*words, "train.max_examples=64", f"run_dir={tmp_path}/run", "--quiet"]) == 0
    assert main(["resume", str(tmp_path / "run"), "train.duration=3step", "--quiet"]) == 0
    assert result(tmp_path / "run")["steps"] == 3


def test_doctor_finds_this_installation_sound(capsys: Capture) -> None:
    assert main(["doctor", "--json"]) == 0
    findings = {finding["topic"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["torch"]["level"] == "ok"
    assert findings["device"]["text"].startswith(("cpu", "cuda", "mps"))


@pytest.mark.slow
def test_a_run_directory_that_cannot_be_is_refused(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run", Path("/")):
        assert main(["debug=fast", f"run_dir={place}", "--quiet"]) == 2
    assert "run_dir" in capsys.readouterr().err
