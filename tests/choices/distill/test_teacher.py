"""Where a teacher comes from, and what it is checked for before anything starts."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from rank_pool import Pool
from short_runs import rows, trained
from stand_ins import class_spec
from students import SMALL, of_digits, taught_by
from two_ranks_teacher import SHARES, outputs_on_two_ranks

from dnntrain import plan
from dnntrain.choices.distill._load_teacher import TeacherModel, load_teacher
from dnntrain.choices.distill._teacher_runner import LOGITS, compute_renormalization
from dnntrain.choices.distill.attention_transfer import AttentionTransfer
from dnntrain.choices.distill.kd import Kd
from dnntrain.cli.main import main
from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.protocols import Batch
from dnntrain.utils.rng import Key


def refused(teacher: object, **changes: object) -> str:
    with pytest.raises(ConfigError) as caught:
        Kd(teacher=str(teacher)).build(of_digits(**changes))
    return str(caught.value)


def exported(run: Path, folder: Path) -> Path:
    """The two files of the exported model alone."""
    folder.mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(run / name, folder / name)
    return folder


@pytest.mark.slow
def test_run_directory_export_and_file_are_the_same_teacher(short_run: Path, tmp_path: Path) -> None:
    folder = exported(short_run, tmp_path / "export")
    digests = {
        load_teacher(str(path), of_digits(), True).digest for path in (short_run, folder, folder / "model.safetensors")
    }
    assert len(digests) == 1


def test_its_outputs_are_those_of_the_run(short_run: Path) -> None:
    from dnntrain.inference.load import load_run

    images, index = torch.rand(5, 1, 8, 8), np.arange(5)
    taught = (
        Kd(teacher=str(short_run))
        .build(of_digits())
        .batch_transforms[0]
        .apply(Batch(images, torch.zeros(5, dtype=torch.int64), index, index), Key(0))
    )
    with torch.no_grad():
        expected = load_run(short_run).model(images)
    assert torch.allclose(taught.extras[LOGITS][:, 0], expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "norm",
    [
        ("norm=weight_standardization", "norm.num_groups=4"),
        ("norm=group", "norm.num_groups=2"),
        ("norm=layer",),
        ("norm=ghost",),
        ("norm=frozen",),
    ],
    ids=lambda words: words[0],
)
def test_a_teacher_is_built_with_the_norm_of_its_own_run(norm: tuple[str, ...], tmp_path: Path) -> None:
    from dnntrain.inference.load import load_run

    words = ("model=resnet20", "model.width=4", "train.max_examples=64", "train.duration=2step", "eval.run_test=false")
    trained(tmp_path / "run", *words, "precision=fp32", *norm)
    images = torch.rand(5, 1, 8, 8)
    expected = load_run(tmp_path / "run").model(images)
    for path in (tmp_path / "run", exported(tmp_path / "run", tmp_path / "export")):
        teacher = load_teacher(str(path), of_digits(), True)
        assert torch.allclose(teacher.model(images), expected, atol=1e-6)
    # The student's own normalization is another one.
    trained(tmp_path / "student", *SMALL, "distill=kd", f"distill.teacher={tmp_path / 'run'}")


def test_half_precision_is_that_of_the_teacher_alone(short_run: Path) -> None:
    images, index = torch.rand(5, 1, 8, 8), np.arange(5)
    logits = [
        Kd(teacher=str(short_run), teacher_precision=precision)
        .build(of_digits())
        .batch_transforms[0]
        .apply(Batch(images, torch.zeros(5, dtype=torch.int64), index, index), Key(0))
        .extras[LOGITS]
        for precision in ("fp32", "bf16")
    ]
    assert logits[1].dtype == torch.float32
    assert not torch.equal(*logits)
    assert torch.allclose(*logits, atol=0.1)


def test_images_are_renormalised_for_a_teacher_with_other_statistics() -> None:
    pixels = torch.rand(2, 1, 3, 3)
    context = of_digits(mean=(0.3,), std=(0.2,))
    teacher = load_like(mean=(0.5,), std=(0.4,))
    scale, shift = compute_renormalization(context, teacher) or (torch.ones(1), torch.zeros(1))
    assert torch.allclose((pixels - 0.3) / 0.2 * scale + shift, (pixels - 0.5) / 0.4, atol=1e-6)
    assert compute_renormalization(of_digits(mean=(0.5,), std=(0.4,)), teacher) is None


def load_like(mean: tuple[float, ...], std: tuple[float, ...]) -> object:
    return TeacherModel("x", torch.nn.Identity(), class_spec(mean=mean, std=std), "")


def test_a_teacher_with_other_classes_is_refused_with_what_works(short_run: Path) -> None:
    message = refused(short_run, num_classes=3, class_names=("a", "b", "c"))
    assert "it has 10 classes, but the data have 3" in message
    assert "distill=attention_transfer" in message
    assert "class 0 is '0', but 'a' in the data" in refused(short_run, class_names=tuple("abcdefghij"))
    assert "the same classes in another order" in refused(short_run, class_names=tuple("1023456789"))


def test_a_teacher_of_other_images_is_refused(short_run: Path) -> None:
    assert "trained on images of 1x8x8, but the data have 3x32x32" in refused(short_run, input_shape=(3, 32, 32))


def test_a_place_that_holds_no_model_is_refused(short_run: Path, tmp_path: Path) -> None:
    assert "there is no such run directory" in refused(tmp_path / "none")
    (tmp_path / "config.yaml").touch()
    assert f"dnntrain resume {tmp_path}" in refused(tmp_path)


@pytest.mark.slow
def test_an_export_that_is_a_program_is_refused_with_what_teaches(short_run: Path, tmp_path: Path) -> None:
    assert main(["export", str(short_run), "--format=onnx", f"--path={tmp_path / 'onnx'}"]) == 0
    assert "its export with --format safetensors" in refused(tmp_path / "onnx")


def test_a_teacher_whose_code_would_be_run_is_refused(short_run: Path, tmp_path: Path) -> None:
    folder = exported(short_run, tmp_path / "export")
    card = json.loads((folder / "config.json").read_text())
    card["dnntrain"].update(model="custom", model_args={"name": "custom", "file": "/tmp/x.py"})
    (folder / "config.json").write_text(json.dumps(card))
    assert "cannot be loaded, because its model is custom code" in refused(folder)


def test_a_damaged_teacher_is_refused_as_a_model_file(short_run: Path, tmp_path: Path) -> None:
    folder = exported(short_run, tmp_path / "export")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError):
        Kd(teacher=str(folder)).build(of_digits())


def test_half_floats_of_gpus_are_refused_on_a_cpu(short_run: Path) -> None:
    with pytest.raises(ConfigError, match="teacher_precision=bf16"):
        Kd(teacher=str(short_run), teacher_precision="fp16").build(of_digits())


def test_names_of_libraries_are_checked() -> None:
    assert "did you mean 'resnet50'?" in refused("torchvision:resnet5", input_shape=(3, 32, 32))
    assert "did you mean 'IMAGENET1K_V1'?" in refused("torchvision:resnet18:IMAGENET1K_V3", input_shape=(3, 32, 32))
    assert "timm has no model" in refused("timm:resnot")


@pytest.mark.parametrize("source", ["torchvision:resnet18", "timm:resnet18"])
def test_classes_of_a_library_are_compared_before_weights_are_looked_for(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "it has 1000 classes, but the data have 10" in refused(source, input_shape=(3, 32, 32))


def test_a_model_of_torchvision_teaches_from_its_cached_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.url
    colours = of_digits(input_shape=(3, 32, 32), num_classes=1000, class_names=(), mean=(0.5,) * 3, std=(0.5,) * 3)
    source = "torchvision:mobilenet_v3_small"
    with pytest.raises(ConfigError, match="not on this machine"):
        load_teacher(source, colours, True)
    published = torchvision.models.mobilenet_v3_small()
    path = tmp_path / "hub/checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(published.state_dict(), path)
    loaded = load_teacher(source, colours, True)
    assert torch.equal(loaded.model.state_dict()["classifier.3.weight"], published.classifier[3].weight)
    assert loaded.spec.inputs.mean == (0.485, 0.456, 0.406)
    with pytest.raises(ConfigError, match="it has 1000 classes, but the data have 10"):
        load_teacher(source, of_digits(input_shape=(3, 32, 32)), True)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_model_for_colours_sees_gray_images_as_colours(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    if library == "torchvision":
        published = torchvision.models.mobilenet_v3_small()
        path = (
            tmp_path / "hub/checkpoints" / torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.url.rpartition("/")[2]
        )
        path.parent.mkdir(parents=True)
        torch.save(published.state_dict(), path)
        source = "torchvision:mobilenet_v3_small"
    else:
        published = timm.create_model("test_resnet")
        monkeypatch.setattr(
            "dnntrain.choices.model.timm.create_timm_model",
            lambda arch, pretrained, arguments: copy.deepcopy(published),
        )
        source = "timm:test_resnet"
    gray = of_digits(input_shape=(1, 32, 32), num_classes=1000, class_names=(), mean=(0.3,), std=(0.2,))
    pixels = torch.rand(4, 1, 32, 32)
    batch = Batch((pixels - 0.3) / 0.2, torch.zeros(4, dtype=torch.int64), np.arange(4), np.arange(4))
    taught = Kd(teacher=source).build(gray).batch_transforms[0].apply(batch, Key(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    if library == "timm":
        mean, std = (torch.tensor(published.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = published.eval()((pixels.repeat(1, 3, 1, 1) - mean) / std)
    torch.testing.assert_close(taught.extras[LOGITS][:, 0], expected, rtol=1e-4, atol=1e-4)


def test_features_of_a_model_for_colours_are_read_for_gray_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = timm.create_model("test_resnet")
    monkeypatch.setattr(
        "dnntrain.choices.model.timm.create_timm_model", lambda arch, pretrained, arguments: copy.deepcopy(published)
    )
    parts = AttentionTransfer(teacher="timm:test_resnet", layers="conv1", teacher_layers="layer1").build(of_digits())
    assert len(parts.feature_taps) == 1


def test_images_of_two_channels_have_no_library_teacher() -> None:
    message = refused("torchvision:resnet18", input_shape=(2, 32, 32))
    assert "its weights are for 3 channels, but the data have 2" in message
    assert "train a teacher on this data" in message


def test_a_run_loads_its_teacher_once(short_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = []

    def counted(source: str, *rest: Any) -> TeacherModel:
        sources.append(source)
        return load_teacher(source, *rest)

    monkeypatch.setattr("dnntrain.choices.distill._teacher_hooks.load_teacher", counted)
    trained(tmp_path / "run", *taught_by(short_run, "kd"))
    assert sources == [str(short_run)]


@pytest.mark.slow
def test_the_plan_refuses_before_a_folder_is_made(
    tmp_path: Path, short_run: Path, dnntrain: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = dnntrain("distill=kd", f"distill.teacher={short_run}", "data=synthetic", f"run_dir={tmp_path}/run")
    assert done.returncode == 2
    assert "the data have" in done.stderr
    assert not (tmp_path / "run").exists()
    missing = dnntrain("plan", "distill=kd")
    assert missing.returncode == 2
    assert "distill.teacher: needs a value" in missing.stderr


#: Numbers of model=mlp model.hidden=[16] on digits.
NUMBERS = 64 * 16 + 16 + 16 * 10 + 10


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose size is known."""
    path = tmp_path_factory.mktemp("small") / "run"
    trained(path, "model=mlp", "model.hidden=[16]", "train.duration=1step")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("bf16", 2)])
def test_the_plan_counts_the_teachers_weights_and_a_forward_pass_of_its_batch(
    precision: str, size: int, small: Path
) -> None:
    words = ("distill=kd", f"distill.teacher={small}", f"distill.teacher_precision={precision}")
    made = plan(*words, "distill.teacher_batch_size=48", "train.batch_size=32", "train.micro_batch_size=8")
    # Of one image the 64 pixels are the largest activation; of each example of a micro-batch 10 logits stay.
    assert made.memory.teacher_weights == 4 * NUMBERS
    assert made.memory.teacher_activations == int(48 * (4 * 64 + 1.7 * size * 64) + 8 * 10 * 4)
    without = asdict(plan("train.batch_size=32", "train.micro_batch_size=8").memory)
    rest = {name: value for name, value in asdict(made.memory).items() if not name.startswith("teacher")}
    assert made.memory.total == sum(rest.values()) + made.memory.teacher
    assert {**without, "process": 0, "teacher_weights": 0, "teacher_activations": 0} == {
        **asdict(made.memory),
        **{"process": 0, "teacher_weights": 0, "teacher_activations": 0},
    }
    assert next((label, text[:6]) for label, text in made.format_rows() if label == "teacher") == ("teacher", "holds ")


@pytest.mark.slow
def test_each_rank_holds_the_teacher_whole_or_its_part_and_what_is_gathered(small: Path) -> None:
    words = ("distill=kd", f"distill.teacher={small}", "parallel=fsdp", "cluster.world_size=4")
    assert plan(*words).memory.teacher_weights == 4 * NUMBERS
    # It has no blocks, so that all of it is gathered at once.
    assert plan(*words, "distill.teacher_shard=always").memory.teacher_weights == NUMBERS + 4 * NUMBERS


@pytest.mark.slow
def test_of_a_method_without_a_teacher_the_average_counts() -> None:
    words = ("model=mlp", "model.hidden=[16]", "train.batch_size=32", "train.micro_batch_size=8")
    made = plan(*words, "distill=mean_teacher").memory
    assert (made.teacher_weights, made.teacher_activations) == (4 * NUMBERS, int(8 * 1.7 * 4 * 64))
    assert plan(*words).memory.teacher == 0


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher with blocks, convolutions and batch normalisation."""
    path = tmp_path_factory.mktemp("teacher") / "run"
    trained(
        path,
        "model=wide_resnet",
        "model.depth=10",
        "model.width_factor=1",
        "train.max_examples=64",
        "train.duration=2step",
    )
    return path


@pytest.mark.slow
def test_in_parts_it_gives_what_it_gives_whole_and_lies_in_parts_between_calls(residual: Path, tmp_path: Path) -> None:
    for rank, found in enumerate(outputs_on_two_ranks(residual, "stages.1", tmp_path)):
        assert found["here"] <= 0.51 * found["whole"]
        for name in ("tapped", LOGITS):
            assert len(found["always"][name]) == SHARES[rank]
            assert torch.allclose(found["always"][name], found["never"][name], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("distill=kd",),
        ("distill=kd", "distill.cache=disk", "augment.crop.padding=0"),
        ("distill=kd", "train.micro_batch_size=8", "data.pipeline=streaming", "data.num_workers=0"),
        ("distill=fitnet", "distill.layers=[stages.1]"),
        ("distill=attention_transfer", "distill.layers=[stages.0,stages.1]"),
    ],
)
def test_a_run_with_a_teacher_in_parts_is_that_of_one_process(
    words: tuple[str, ...], residual: Path, pool: Pool, tmp_path: Path
) -> None:
    """Of 72 examples the last step of an epoch has 8, all of them on the first rank."""
    network = ("model=wide_resnet", "model.depth=10", "model.width_factor=1", "norm=group")
    line = [
        *network,
        *words,
        f"distill.teacher={residual}",
        "train.max_examples=72",
        "train.batch_size=32",
        "optim=sgd",
    ]
    line += ["train.duration=7step", "optim.lr=0.01", "precision=fp32", "log.every=1step", "eval.run_test=false"]
    line += ["log.report=false", "eval.every=7step", "eval.max_examples=40"]
    sharded = ["parallel=fsdp", "distill.teacher_shard=always"]
    for name, ranks, layout in (("one", 1, []), ("two", 2, sharded)):
        kept = [f"distill.cache_dir={tmp_path / name}-cache"] if "distill.cache=disk" in words else []
        assert not pool.train(ranks, [*line, *layout, *kept], tmp_path / name).error
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("one", "two")]
    assert len(losses[0]) >= 8
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["parallel=ddp", "launch.nproc=2"], "use distill.teacher_shard=auto, or parallel=fsdp"),
        (["distill.teacher_compile=true", "parallel=fsdp", "launch.nproc=2"], "use distill.teacher_compile=false"),
    ],
)
def test_parts_that_cannot_be_are_refused_at_plan_time(
    words: list[str], fix: str, short_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["plan", "distill=kd", f"distill.teacher={short_run}", "distill.teacher_shard=always", *words]
    assert main(given) == 2
    assert fix in capsys.readouterr().err
