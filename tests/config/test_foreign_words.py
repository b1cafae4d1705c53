"""Words of Lightning, timm, ultralytics, Hugging Face and Keras get a line that works, without an import of torch."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import environment

from dnntrain.cli.parser import parse_arguments
from dnntrain.config.foreign_choices import TORCHVISION_NAMES
from dnntrain.config.foreign_words import GROUP_OF_WORD, SETTING_WORDS
from dnntrain.config.validate import validate_overrides
from dnntrain.errors import ConfigError

#: The line as typed, and the settings that its message suggests.
LINES = {
    # Lightning
    "trainer.max_epochs=3": "train.duration=3ep",
    "max_epochs=3": "train.duration=3ep",
    "max_steps=500": "train.duration=500step",
    "devices=4": "parallel=ddp launch.nproc=4",
    "accelerator=gpu": "device=cuda",
    "accelerator=cpu": "device=cpu",
    "strategy=ddp": "parallel=ddp",
    "strategy=ddp_spawn": "parallel=ddp",
    "strategy=deepspeed_stage_2": "parallel=fsdp",
    "num_nodes=2": "launch=slurm launch.nodes=2",
    "precision=16-mixed": "precision=fp16",
    "precision=bf16-mixed": "precision=bf16",
    "precision=32": "precision=fp32",
    "accumulate_grad_batches=4": "train.micro_batch_size=16",
    "gradient_clip_val=0.5": "+reg=[grad_clip] reg.grad_clip.max=0.5",
    "fast_dev_run=true": "debug=fast",
    "overfit_batches=1": "debug=overfit",
    "limit_train_batches=200": "train.max_examples=200",
    "check_val_every_n_epoch=2": "eval.every=2ep",
    "val_check_interval=100": "eval.every=100step",
    "log_every_n_steps=10": "log.every=10step",
    "default_root_dir=out": "run_dir=out",
    "ckpt_path=last.ckpt": "resume=last.ckpt",
    "logger=tensorboard": "+track=[tensorboard]",
    "sync_batchnorm=true": "norm=sync model=resnet20",
    "seed_everything=7": "seed=7",
    "--trainer.max_epochs 3": "train.duration=3ep",
    "--trainer.max_epochs=3": "train.duration=3ep",
    "fit": "dnntrain train",
    "validate": "dnntrain eval RUN",
    # timm and torchvision's references
    "opt=sgd": "optim=sgd",
    "opt=adamwbnb8bit": "optim=adamw_8bit",
    "sched=onecycle": "sched=one_cycle",
    "lr=0.1": "optim.lr=0.1",
    "wd=1e-4": "optim.weight_decay=1e-4",
    "momentum=0.8": "optim=sgd optim.momentum=0.8",
    "warmup_epochs=5": "sched.warmup=5ep",
    "decay_epochs=30": "sched=step sched.step_size=30ep",
    "clip_grad=1.0": "+reg=[grad_clip] reg.grad_clip.max=1.0",
    "smoothing=0.2": "reg=[label_smoothing] reg.label_smoothing.smoothing=0.2",
    "mixup=0.2": "+augment=[mixup] augment.mixup.alpha=0.2",
    "cutmix=1.0": "+augment=[cutmix] augment.cutmix.alpha=1.0",
    "reprob=0.25": "+augment=[random_erasing] augment.random_erasing.probability=0.25",
    "aa=rand-m9-mstd0.5": "+augment=[randaugment]",
    "hflip=0.5": "augment.flip.probability=0.5",
    "drop_path=0.2": "+reg=[drop_path] reg.drop_path.probability=0.2",
    "model_ema=true": "+average=[ema]",
    "model_ema_decay=0.9999": "+average=[ema] average.ema.decay=0.9999",
    "workers=2": "data.num_workers=2",
    "img_size=160": "data=image_folder data.root=FOLDER data.image_size=160",
    "channels_last=true": "train.channels_last=on",
    "amp=true": "precision=bf16",
    "grad_checkpointing=true": "train.activation_checkpointing=full",
    "model=resnet50": "model=torchvision model.name=resnet50",
    "model=vit_base_patch16_224.augreg_in21k": "model=timm model.name=vit_base_patch16_224",
    "--epochs 3": "train.duration=3ep",
    "-b 64": "train.batch_size=64",
    "-a resnet50": "model=torchvision model.name=resnet50",
    "-j 4": "data.num_workers=4",
    "--amp": "precision=bf16",
    "--opt lamb": "optim=lamb",
    "--sched cosine": "sched=cosine",
    "--data-dir photos": "data=image_folder data.root=photos",
    # ultralytics
    "epochs=3": "train.duration=3ep",
    "data=photos": "data=image_folder data.root=photos",
    "data='my photos'": "data=image_folder 'data.root=my photos'",
    "data=imagenet": "data=image_folder data.root=FOLDER",
    "data=CIFAR-10": "data=cifar10",
    "data=FashionMNIST": "data=fashion_mnist",
    "model=yolov8n-cls.pt": "model=torchvision model.name=resnet18",
    "batch=16": "train.batch_size=16",
    "imgsz=64": "data=image_folder data.root=FOLDER data.image_size=64",
    "device=0": "device=cuda:0",
    "device=gpu": "device=cuda",
    "patience=10": "+monitor=[early_stopping] monitor.early_stopping.patience=10",
    "lr0=0.01": "optim.lr=0.01",
    "cos_lr=true": "sched=cosine",
    "fliplr=0.5": "augment.flip.probability=0.5",
    "erasing=0.4": "+augment=[random_erasing] augment.random_erasing.probability=0.4",
    "dropout=0.2": "+reg=[dropout] reg.dropout.probability=0.2",
    "pretrained=true": "model=torchvision model.name=resnet18 model.weights=DEFAULT",
    "project=out": "run_dir=out",
    "exist_ok=true": "resume=never",
    "save_period=2": "checkpoint.every=2ep",
    # Hugging Face
    "num_train_epochs=3.0": "train.duration=3.0ep",
    "per_device_train_batch_size=64": "train.batch_size=64",
    "per_device_eval_batch_size=64": "eval.batch_size=64",
    "learning_rate=5e-5": "optim.lr=5e-5",
    "lr_scheduler=cosine": "sched=cosine",
    "lr_scheduler_type=cosine_with_restarts": "sched=cosine_restarts",
    "optim=adamw_torch": "optim=adamw",
    "warmup_steps=100": "sched.warmup=100step",
    "warmup_ratio=0.1": "sched.warmup=5%",
    "gradient_accumulation_steps=4": "train.micro_batch_size=16",
    "gradient_checkpointing=true": "train.activation_checkpointing=full",
    "max_grad_norm=1.0": "+reg=[grad_clip] reg.grad_clip.max=1.0",
    "fp16=true": "precision=fp16",
    "bf16=true": "precision=bf16",
    "output_dir=out": "run_dir=out",
    "save_total_limit=3": "checkpoint.keep_last=3",
    "eval_steps=50": "eval.every=50step",
    "logging_steps=10": "log.every=10step",
    "report_to=wandb": "+track=[mlflow]",
    "metric_for_best_model=loss": "eval.metric=loss",
    "label_smoothing_factor=0.1": "reg=[label_smoothing] reg.label_smoothing.smoothing=0.1",
    "model=microsoft/resnet-50": "model=torchvision model.name=resnet50",
    "dataloader_num_workers=2": "data.num_workers=2",
    "torch_compile=true": "train.compile=on",
    # Keras, and words of every script
    "optimizer=rmsprop": "optim=adamw",
    "optimizer=Adam": "optim=adam",
    "model=EfficientNetB0": "model=torchvision model.name=efficientnet_b0",
    "model=VGG16": "model=torchvision model.name=vgg16",
    "validation_split=0.2": "data.val_fraction=0.2",
    "learning_rate=fast": "optim.lr=0.01",
    "batch_size=64": "train.batch_size=64",
    "gpus=2": "parallel=ddp launch.nproc=2",
    "gpus=0": "device=cpu",
    "gpus=1": "device=cuda",
    "gpus=0,1": None,
    "weight_decay=1e-4": "optim.weight_decay=1e-4",
    "sched=ReduceLROnPlateau": "sched=plateau",
    "model=net.py": "model=custom model.file=net.py",
    "reg=[mixup]": "+augment=[mixup]",
    "augment=[RandomHorizontalFlip]": "augment=[flip]",
    "track=[wandb]": "+track=[mlflow]",
    "optim.learning_rate=0.1": "optim.lr=0.1",
    "train.epochs=3": "train.duration=3ep",
    "seed 3": "dnntrain seed=3",
    "lr 0.1": "dnntrain optim.lr=0.1",
    "train seed 3": "seed=3",
    "resnet50": "dnntrain model=torchvision model.name=resnet50",
    "cifar10": "dnntrain data=cifar10",
    "photos": "dnntrain data=image_folder data.root=photos",
    "model resnet50": "dnntrain model=torchvision model.name=resnet50",
    "test": "dnntrain eval RUN",
    "infer": "dnntrain predict RUN PATH",
    "benchmark": "dnntrain bench RUN",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "my photos").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_message(words: list[str]) -> str:
    """The message for a line."""
    with pytest.raises(ConfigError) as caught:
        validate_overrides(parse_arguments(words).overrides)
    return str(caught.value)


def assert_accepted(line: str) -> None:
    words = shlex.split(line)
    arguments = parse_arguments([word for word in words if word != "dnntrain"])
    validate_overrides(arguments.overrides)


@pytest.mark.sampled
@pytest.mark.parametrize(("typed", "suggested"), LINES.items(), ids=LINES)
def test_a_foreign_word_gets_a_line_that_works(typed: str, suggested: str | None) -> None:
    message = read_message(shlex.split(typed))
    if suggested is None:
        assert "sweep" in message
        return
    assert re.findall(r"^ +write (.*)$", message, re.M) == [suggested]
    if "RUN" not in suggested:
        assert_accepted(suggested)


@pytest.mark.sampled
@pytest.mark.parametrize("word", [*SETTING_WORDS, *GROUP_OF_WORD])
def test_every_word_of_the_table_gets_a_line_that_works(word: str) -> None:
    value = {"data": "photos", "optim": "SGD", "sched": "cosine", "task": "classify"}.get(GROUP_OF_WORD.get(word, ""))
    examples = {"model": "resnet50", "precision": "bf16", "parallel": "ddp", "track": "wandb", "distill": "none"}
    examples |= {"quant": "int8", "launch": "torchrun", "device": "2"}
    value = value or examples.get(GROUP_OF_WORD.get(word, ""), "1")
    message = read_message([f"{word}={value}"])
    (suggested,) = re.findall(r"^ +write (.*)$", message, re.M)
    assert_accepted(suggested)


def test_there_are_at_least_sixty_lines_and_most_words_stand_in_no_key_of_ours() -> None:
    assert len(LINES) >= 60
    assert len(SETTING_WORDS) + len(GROUP_OF_WORD) >= 200


def test_all_mistakes_of_a_line_are_translated() -> None:
    message = read_message(["epochs=3", "model=resnet50", "optim.lr=0.1", "gpus=2"])
    assert message.startswith("3 mistakes:")
    assert re.findall(r"write (.*)", message) == [
        "train.duration=3ep",
        "model=torchvision model.name=resnet50",
        "parallel=ddp launch.nproc=2",
    ]


def test_an_option_of_another_choice_keeps_its_hint() -> None:
    assert "it belongs to optim=lars" in read_message(["optim.momentum=0.9"])


def test_the_networks_are_those_of_torchvision() -> None:
    import torchvision

    assert set(torchvision.models.list_models(module=torchvision.models)) <= set(TORCHVISION_NAMES)


@pytest.mark.slow
def test_no_word_imports_torch(folder: Path) -> None:
    typed = [shlex.split(line) for line in LINES]
    code = (
        "import sys, contextlib, io\n"
        "from dnntrain.cli.main import main\n"
        f"for words in {typed!r}:\n"
        "    with contextlib.redirect_stderr(io.StringIO()):\n"
        "        assert main(words) == 2, words\n"
        "assert not {'torch', 'timm', 'torchvision'} & set(sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, timeout=250
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("call", [validate_overrides])
def test_a_word_that_is_a_key_of_ours_is_not_translated(call: Callable[..., object]) -> None:
    call(["optim.lr=0.1", "train.batch_size=64", "seed=3", "sched=cosine"])
