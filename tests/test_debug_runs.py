"""`debug=fast` passes with every choice of every group, and with every experiment: durations are fitted to its three steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_files import idx_bytes, write_images, write_masks, write_wav
from methods import OWN
from small_texts import write_texts

import dnntrain
from dnntrain.choices.data import cifar10, cifar100
from dnntrain.choices.model.gpt import Gpt
from dnntrain.config.groups import GROUPS, LISTS
from dnntrain.config.registry import load_registry
from dnntrain.errors import ConfigError
from dnntrain.input.token_files import TokenizeOptions, tokenize_files
from dnntrain.nn.hf.folder import write_folder
from dnntrain.nn.shape import ModelShape

#: What a choice needs besides its name. A choice of a group, never a length.
NEEDS: dict[str, tuple[str, ...]] = {
    "model=custom": ("model.file=net.py",),
    "data=custom": (f"data.file={OWN}", "data.name=make_bars"),
    "task=custom": (f"task.file={OWN}", "task.metrics=[worst_recall]"),
    "optim=custom": (f"optim.file={OWN}",),
    "sched=custom": (f"sched.file={OWN}", "sched.name=sawtooth"),
    "augment=custom": (f"augment.custom.file={OWN}", "augment.custom.name=posterize"),
    "model=torchvision": ("model.name=squeezenet1_1", "data=synthetic", "data.image_size=32"),
    "model=timm": ("model.name=test_resnet", "data=synthetic", "data.image_size=32"),
    "data=cifar10": ("data.root=cifar10",),
    "data=cifar100": ("data.root=cifar100",),
    "data=mnist": ("data.root=idx",),
    "data=fashion_mnist": ("data.root=idx",),
    "data=image_folder": ("data.root=photos", "data.image_size=8"),
    "data=text_folder": ("data.root=reviews", "data.context=16", "model=gpt"),
    "data=audio_folder": ("data.root=sounds", "data.seconds=0.25", "data.n_mels=8", "data.window=64", "data.hop=64"),
    "data=image_table": ("data.file=images.csv", "data.target=[species]", "data.image_size=16"),
    "data=table": ("data.file=cars.csv", "data.target=[price]", "task=regression", "model=mlp"),
    "data=diabetes": ("task=regression", "model=mlp"),
    **{
        f"model={name}": ("data=text", "data.path=texts", "data.context=8", "task=language_model")
        for name in ("gpt", "gpt_nano")
    },
    "model=gpt_small": (
        *("data=text", "data.path=texts", "data.context=8", "task=language_model"),
        *("model.embed_dim=24", "model.depth=2"),
    ),
    "model=hf": ("data=text", "data.path=texts", "data.context=8", "task=language_model", "model.path=llama"),
    "data=text": ("data.path=texts", "data.context=8", "task=language_model", "model=gpt"),
    "data=python_library": ("data.context=8", "task=language_model", "model=gpt"),
    "data=tokens": ("data.path=tokens", "data.context=8", "task=language_model", "model=gpt"),
    "task=language_model": ("data=text", "data.path=texts", "data.context=8", "model=gpt"),
    "task=regression": ("data=diabetes", "model=mlp"),
    "task=multilabel": (
        "data=image_table",
        "data.file=images.csv",
        "data.target=[small,round]",
        "data.target_type=labels",
    ),
    "task=segmentation": ("data=scenes", "data.root=idx", "data.train_size=64", "data.test_size=16", "model=unet"),
    "data=scenes": ("data.root=idx", "data.train_size=64", "data.test_size=16", "task=multilabel"),
    "data=segmentation_folder": ("data.root=street", "data.image_size=16", "task=segmentation", "model=unet"),
    "model=unet": ("data=scenes", "data.pictures=digits", "data.train_size=64", "task=segmentation"),
    "prune=nm24": ("model=mlp",),
    "prune=depth": ("model=resnet20", "model.width=4"),
    "experiment=finetune_folder": (
        *("data.root=photos", "data.image_size=32", "model.name=squeezenet1_1", "model.weights=null"),
        "train.freeze=[features.0.*]",
    ),
    "experiment=cifar10": ("data.root=cifar10", "model=small_cnn"),
    "experiment=cifar100": ("data.root=cifar100", "model.depth=10", "model.width_factor=1"),
    "experiment=imagenet_folder": ("data.root=photos", "data.image_size=32", "model.name=squeezenet1_1"),
    "experiment=fashion_best": ("data.root=idx", "model.widths=[8,8,8]"),
    **{f"experiment=fashion_{name}": ("data.root=idx",) for name in ("baseline", "fast", "mnist")},
    "reg=drop_path": ("model=vit_tiny",),
    "reg=dropblock": ("model=resnet20", "model.width=4"),
    "optim=schedule_free": ("sched=constant",),
    "parallel=auto": (),
}
NORMED = ("model=resnet20", "model.width=4")
TEACHER = ("distill.teacher=teacher",)

#: Choices that a machine without a GPU, Slurm or mlflow, or with one process, cannot run.
ELSEWHERE = {
    *("monitor=straggler", "track=mlflow", "quant=float8", "quant=float8_training", "precision=fp16", "launch=slurm"),
    *(f"parallel={name}" for name in ("ddp", "fsdp", "hsdp", "tp", "pp")),
}

NET = """
import torch
class Net(torch.nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(torch.nn.Flatten(), torch.nn.LazyLinear(num_classes))
"""


def list_choices() -> list[str]:
    registry = load_registry()
    return [f"{group}={name}" for group in GROUPS for name in registry.list_names(group)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set of each format, a network and a teacher."""
    folder = tmp_path_factory.mktemp("debug")
    (folder / "net.py").write_text(NET.replace("LazyLinear(", "Linear(64, "))
    (folder / "idx").mkdir()
    random = np.random.default_rng(0)
    for prefix, count in (("train", 160), ("t10k", 40)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / "idx" / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / "idx" / f"{prefix}-labels-idx1-ubyte").write_bytes(
            idx_bytes((np.arange(count) % 10).astype(np.uint8))
        )
    for name, spec in (("cifar10", cifar10.SPEC), ("cifar100", cifar100.SPEC)):
        (folder / name).mkdir()
        for file in (*spec.train_files, *spec.test_files):
            labels = np.repeat((np.arange(160) % 10).astype(np.uint8)[:, None], spec.label_bytes, axis=1)
            pixels = random.integers(0, 256, (160, 3072), dtype=np.uint8)
            np.concatenate([labels, pixels], axis=1).tofile(folder / name / file)
    for number in range(80):
        write_wav(folder / "sounds" / f"class {number % 2}" / f"{number}.wav", random.uniform(-1, 1, 4000))
    tokenize_files([write_texts(folder / "texts", 40)], folder / "tokens", TokenizeOptions())
    for number in range(80):
        write_texts(folder / "reviews" / f"class {number % 2}" / str(number), 1)
    shape = ModelShape(256, 8, vocabulary=256, per_token=True)
    write_folder(Gpt(embed_dim=16, depth=2, mlp="swiglu").build(shape), folder / "llama")
    images = write_images(folder / "photos", count=80)
    write_masks(folder / "street", count=80)
    rows = [f"{path},{path.parent.name},{number % 2},{number % 3 // 2}" for number, path in enumerate(images)]
    (folder / "images.csv").write_text("\n".join(["image,species,small,round", *rows]))
    rows = [f"{number * 7 % 40},{'red' if number % 3 else 'blue'},{number}" for number in range(160)]
    (folder / "cars.csv").write_text("\n".join(["age,color,price", *rows]))
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def add_needs(choice: str) -> list[str]:
    """The line of one choice: the choice, its needs, and debug=fast."""
    group, _, name = choice.partition("=")
    words = [f"{group}=[{name}]" if group in LISTS else choice, *NEEDS.get(choice, ())]
    if choice == "augment=repeated_augment":  # something must make the copies differ
        words = ["augment=[randaugment,repeated_augment]"]
    if group == "norm" and name != "none":
        words += NORMED
    if group == "distill" and name not in ("none", "mean_teacher"):
        words += TEACHER
    if choice in ("distill=fitnet", "distill=attention_transfer"):
        words += ["distill.layers=[conv2]"]
    return words if group == "debug" else [*words, "debug=fast"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("choice", [choice for choice in list_choices() if choice not in ELSEWHERE])
def test_debug_fast_trains_with_every_choice(choice: str, here: Path, tmp_path: Path) -> None:
    if choice.startswith("distill=") and not (here / "teacher").is_dir():
        dnntrain.train("debug=fast", "run_dir=teacher", "log.report=false", display="quiet")
    line = [*add_needs(choice), "log.report=false", f"run_dir={tmp_path}/run"]
    assert dnntrain.train(*line, display="quiet")["status"] == "done", line


@pytest.mark.sampled
@pytest.mark.parametrize(
    "words",
    [
        *([f"sched={name}"] for name in load_registry().list_names("sched") if name != "custom"),
        ["average=[swa]"],
        ["quant=qat"],
        # Lengths of the long run that is tried: longer than three steps, or less than one.
        ["sched.warmup=5ep"],
        ["sched.warmup=5ep", "sched.cooldown=50step"],
        ["sched=one_cycle", "sched.warmup=1ep", "sched.cycle_momentum=true", "optim=sgd"],
        ["sched=wsd", "sched.warmup=3ep", "sched.cooldown=40ep"],
        ["sched=exponential", "sched.step_size=1%"],
        ["sched=multistep", "sched.milestones=[1%,30ep,60ep]"],
        ["sched=sequence", "sched.stages=[linear:5ep,cosine]"],
        ["sched=sequence", "sched.stages=[linear:5ep,cosine:20ep]"],
        ["sched=sequence", "sched.stages=[linear:500step,constant,cosine:500step]"],
        ["sched=step", "sched.step_size=30%", "train.duration=1step"],
        ["average=[swa]", "average.swa.every=5ep", "average.swa.start_fraction=0.9"],
        ["quant=qat", "quant.start=5ep"],
    ],
    ids=" ".join,
)
def test_durations_are_fitted_to_a_debugging_run(words: list[str]) -> None:
    plan = dnntrain.plan("debug=fast", *words)
    assert plan.total_steps == (1 if "train.duration=1step" in words else 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["sched=exponential"],
        ["sched=inverse_sqrt"],
        ["sched=step"],
        ["sched=multistep"],
        ["sched=cosine_restarts"],
        ["average=[swa]"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("steps", [1, 3])
def test_a_default_of_less_than_a_step_is_one_step(words: list[str], steps: int) -> None:
    assert dnntrain.plan(*words, f"train.duration={steps}step").total_steps == steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sched=exponential", "sched.step_size=1%"], r"sched.step_size=1% of the 3 steps of train.duration must be"),
        (["sched.warmup=5ep"], r"sched.warmup=5ep is \d+ steps, but the run has 3"),
        (["average=[swa]", "average.swa.every=2ep"], r"average.swa.every=2ep leaves no weights to average"),
        (["quant=qat", "quant.start=5ep"], r"quant.start=5ep: no step is trained with rounding"),
    ],
)
def test_other_runs_reject_a_typed_duration_that_does_not_fit(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dnntrain.plan(*words, "train.duration=3step")


def test_the_rates_of_a_fitted_warm_up_rise_to_the_base_rate() -> None:
    plan = dnntrain.plan(
        "debug=fast", "sched=constant", "sched.warmup=5ep", "sched.warmup_start_factor=0", "optim.lr=1"
    )
    assert plan.schedule["lr"] == (0.0, 0.5, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("fast", 128), ("fast", 1000), ("overfit", 64)])
def test_a_debugging_run_has_the_examples_of_one_batch(name: str, size: int) -> None:
    plan = dnntrain.plan(f"debug={name}", f"train.batch_size={size}", "device=cpu")
    assert (plan.batch_size, plan.data.train, plan.total_steps) == (size, size, 3 if name == "fast" else 100)
