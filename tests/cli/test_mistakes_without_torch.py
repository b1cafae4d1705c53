"""Mistakes in combinations and paths are found before torch is imported, which takes seconds.

All lines run in one process whose import of torch fails, each in a fork.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: line → words of the message
MISTAKES = {
    "train.micro_batch_size=256": "is more than train.batch_size=32",
    "parallel=ddp launch.nproc=2 train.duration=30s": "2 ranks cannot end",
    "parallel=ddp launch.nproc=2 eval.every=5s": "2 ranks cannot end",
    "launch.nproc=2": "parallel=single does not support launch.nproc=2",
    "parallel=ddp launch.nproc=64 train.batch_size=8": "leaves some of 64 data ranks without an example",
    "parallel=pp launch.nproc=3 parallel.pp=2": "parallel.pp=2 = 2 ranks, but the run has 3",
    "parallel=ddp launch.nproc=2 parallel.reshard_after_forward=false": "applies to FSDP only",
    "parallel=fsdp launch.nproc=2 parallel.static_graph=true": "applies to plain data parallelism only",
    "parallel=pp launch.nproc=2 parallel.schedule=interleaved": "must be 2 or more",
    "parallel=pp launch.nproc=2 train.compile=on": "a pipeline does not support compilation",
    "cluster.world_size=8": "is for planning only",
    "precision=fp16 device=cpu": "precision=fp16 needs a GPU",
    "optim=muon precision=fp16 device=cpu": "optim=muon does not support the loss scale",
    "train.compile=on sched.applies_to=drop_rate": "does not support drop_rate",
    "sched.applies_to=seq_len": "task=classification has one loss for each example",
    "eval.metric=f1": "the task does not have this metric; known: accuracy, loss",
    "monitor=[early_stopping] data.val_fraction=0": "needs the validation split",
    "augment=[mixup] data.mix_block_size=1": "must be at least 2",
    "augment=[mixup] train.micro_batch_size=4": "splits them",
    "distill=dist distill.teacher=timm:x data.mix_block_size=1": "relates examples",
    "augment=[mixup] parallel=ddp launch.nproc=8": "8 ranks split the blocks",
    "average=[ema,swa]": "average.ema and average.swa both give the weights that are evaluated",
    "optim=schedule_free average=[ema]": "optim=schedule_free and average.ema both give the weights",
    "optim=schedule_free average=[swa]": "optim=schedule_free and average.swa both give the weights",
    "optim=adafactor parallel=fsdp launch.nproc=2": "optim=adafactor needs each parameter whole in one process",
    "quant=qat parallel=fsdp launch.nproc=2": "quant=qat needs the whole model in one process",
    "norm=layer parallel=tp launch.nproc=2": "norm=layer needs each layer whole",
    "monitor=[dead_units] parallel=pp launch.nproc=2": "monitor.dead_units needs outputs of inner modules",
    "train.channels_last=on model=mlp": "needs convolutions, which model=mlp does not have",
    "train.channels_last=on model=resnet18 parallel=fsdp launch.nproc=2": "supports contiguous tensors only",
    "train.activation_checkpointing=full model=small_cnn": "blocks, which model=small_cnn does not have",
    "model=timm model.name=resnet1888": "has no such model",
    "model=torchvision model.name=resnet1888": "has no such model; did you mean",
    "augment=[randaugment,trivial_augment]": "both draw operations on each image",
    "data=image_folder": "needs the folder of your images",
    "data=image_folder data.root=nowhere": "there is no such folder",
    "data=image_folder data.root=empty": "the folder is empty",
    "data=image_folder data.root=file.txt": "is not a folder",
    "data=image_folder data.root=photos": "class a has no images",
    "data=cifar10 data.root=nowhere": "there is no such file",
    "data=mnist data.root=nowhere": "is in none of",
    "init_from=nowhere.safetensors": "No such file or directory",
    "init_from=file.txt": "is not a model file: it is empty",
    "init_from=empty": "holds no model.safetensors",
    "resume=nowhere": "is neither a checkpoint nor a run directory",
    "run_dir=file.txt": "is not a folder",
    "run_dir=file.txt/run": "is not a folder",
    f"run_dir=runs/{'x' * 300}": "a name of 300 bytes is longer than the 255",
    f"run_dir=runs{'/x' * 2500}": "not the path of a folder of its own",
    "run_dir=/proc/run": "run_dir=/proc/run cannot be created",
    "run_dir=pictures": "run_dir=pictures holds data: 1.png",
    "model=custom model.file=nowhere.py": "is not a file",
    "distill=kd distill.teacher=nowhere": "there is no such run directory, export or model",
    "plan data=image_folder data.root=nowhere": "there is no such folder",
    "tune lr data=image_folder data.root=nowhere": "there is no such folder",
    "tune lr --lowest 1 --highest 0.1": "must be less than the upper bound",
    "submit launch.nodes=2": "each trains one network in 2 processes",
    "-m optim.lr=0.1,0.2 run_dir=file.txt": "is not a folder",
    "-m train.micro_batch_size=8,256": "is more than train.batch_size=32",
    "resume nowhere": "does not exist",
    "resume empty": "is not a run directory",
    "eval nowhere": "does not exist",
    "eval half": "holds no finished model",
    "predict nowhere photos": "does not exist",
    "predict done nowhere.png": "nowhere.png does not exist",
    "export empty --format onnx": "is not a run directory",
    "export done --path file.txt": "exists and is not an export",
    "bench nowhere": "does not exist",
    "bench done --csv no/where.csv": "there is no folder no",
    "report nowhere": "does not exist",
    "report done --path page.txt": "must end in .html",
    "--config-dir nowhere": "is not a folder",
}

SCRIPT = """
import builtins, json, os, shlex, sys
from dnntrain.cli.main import main
import dnntrain.planning.checks.early, hydra

real_import = builtins.__import__
def guarded_import(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0 and name.partition(".")[0] in ("torch", "torchvision", "timm"):
        print("imports", name, file=sys.stderr, flush=True)
        os._exit(99)
    return real_import(name, globals, locals, fromlist, level)
builtins.__import__ = guarded_import
assert "torch" not in sys.modules

main(["train.micro_batch_size=256"])  # what it imports is not imported again for each line
answers = {}
for line in json.loads(sys.argv[1]):
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        code = main(shlex.split(line))
        sys.stdout.flush()
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    answers[line] = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text]
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    folder = tmp_path_factory.mktemp("mistakes")
    for name in ("empty", "photos/a", "photos/b", "half", "done"):
        (folder / name).mkdir(parents=True)
    (folder / "file.txt").touch()
    (folder / "pictures").mkdir()
    (folder / "pictures" / "1.png").touch()
    for name in ("half/config.yaml", "done/config.yaml", "done/config.json"):
        (folder / name).write_text("{}\n")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("DNNTRAIN", "RANK", "WORLD"))}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(list(MISTAKES))],
        cwd=folder,
        env={**environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    return {line: (code, text) for line, (code, text) in json.loads(result.stdout).items()}


@pytest.mark.slow
@pytest.mark.parametrize("line", list(MISTAKES))
def test_a_mistake_is_found_without_torch(line: str, answers: dict[str, tuple[int, str]]) -> None:
    code, text = answers[line]
    assert code in (2, 3, 5), text
    assert MISTAKES[line] in text


@pytest.mark.slow
def test_mistakes_of_all_kinds_are_reported_at_once(tmp_path: Path, dnntrain: object) -> None:
    result = dnntrain(
        "train.micro_batch_size=256", "data=mnist", "data.root=nowhere", "init_from=nowhere", "eval.metric=f1"
    )  # type: ignore[operator]
    assert result.returncode == 2
    assert "4 mistakes" in result.stderr


@pytest.mark.parametrize("command", ["train", "plan", "-m"])
def test_a_wrong_key_is_found_before_numpy_is_imported(command: str, tmp_path: Path) -> None:
    """Hydra, which reads the line, is the only large library that such an answer waits for."""
    script = (
        "import sys\nfrom dnntrain.cli.main import main\n"
        f"code = main([{command!r}, 'optm=sgd', 'seed=1,2' if {command == '-m'} else 'seed=1'])\n"
        "sys.exit(code if 'numpy' not in sys.modules else 99)"
    )
    answer = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 2, answer.stderr
    assert "there is no key 'optm'" in answer.stderr
