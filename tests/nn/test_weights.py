"""`init_from` takes good files whole, and refuses all others with a message of what is wrong; no code is run."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dnntrain.choices.model.mlp import Mlp
from dnntrain.errors import CheckpointError
from dnntrain.nn.shape import ModelShape
from dnntrain.nn.weights import load_weights


def build(num_classes: int = 10, hidden: tuple[int, ...] = (16,)) -> nn.Module:
    return Mlp(hidden).build(ModelShape(num_classes, 1, 8, 8))


@pytest.fixture
def source() -> dict[str, Tensor]:
    """The state of another model of the same kind."""
    return {name: tensor.clone() for name, tensor in build().state_dict().items()}


def equal(model: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def refused(path: Path, model: nn.Module | None = None, replace_head: bool = False) -> str:
    """The message of the refusal; the model must be as before."""
    model = model or build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, path, replace_head)
    assert equal(model, before)
    assert caught.value.exit_code == 5
    return str(caught.value)


# Files that load


def test_safetensors_are_loaded(tmp_path: Path, source: dict[str, Tensor]) -> None:
    save_file(source, tmp_path / "m.safetensors")
    model = build()
    report = load_weights(model, str(tmp_path / "m.safetensors"), replace_head=False)
    assert equal(model, source)
    assert set(report.loaded) == set(source)
    assert "4 tensors from" in str(report)


def test_a_run_directory_stands_for_its_model(tmp_path: Path, source: dict[str, Tensor]) -> None:
    save_file(source, tmp_path / "model.safetensors")
    model = build()
    load_weights(model, tmp_path, replace_head=False)
    assert equal(model, source)


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin", "m.safetensors"])
def test_pytorch_files_are_told_by_their_contents(tmp_path: Path, source: dict[str, Tensor], name: str) -> None:
    torch.save(source, tmp_path / name)
    model = build()
    load_weights(model, tmp_path / name, replace_head=False)
    assert equal(model, source)


def test_the_old_format_of_pytorch_is_loaded(tmp_path: Path, source: dict[str, Tensor]) -> None:
    torch.save(source, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    model = build()
    load_weights(model, tmp_path / "m.pt", replace_head=False)
    assert equal(model, source)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_weights_are_found_within_a_larger_checkpoint(tmp_path: Path, source: dict[str, Tensor], key: str) -> None:
    torch.save({key: source, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "m.pt")
    model = build()
    load_weights(model, tmp_path / "m.pt", replace_head=False)
    assert equal(model, source)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path, source: dict[str, Tensor], prefix: str) -> None:
    save_file({prefix + name: tensor for name, tensor in source.items()}, tmp_path / "m.safetensors")
    model = build()
    load_weights(model, tmp_path / "m.safetensors", replace_head=False)
    assert equal(model, source)


def test_a_prefix_that_is_the_models_own_is_kept(tmp_path: Path) -> None:
    own = nn.ModuleDict({"model": nn.Linear(2, 2)})
    save_file({name: torch.ones_like(tensor) for name, tensor in own.state_dict().items()}, tmp_path / "m.safetensors")
    load_weights(own, tmp_path / "m.safetensors", replace_head=False)
    assert all((tensor == 1).all() for tensor in own.state_dict().values())


def test_half_precision_becomes_the_models_own(tmp_path: Path, source: dict[str, Tensor]) -> None:
    save_file({name: tensor.bfloat16() for name, tensor in source.items()}, tmp_path / "m.safetensors")
    model = build()
    load_weights(model, tmp_path / "m.safetensors", replace_head=False)
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())
    assert equal(model, {name: tensor.bfloat16().float() for name, tensor in source.items()})


def test_shared_parameters_need_to_stand_in_the_file_once(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    state = dict(tied().state_dict())
    del state["1.weight"]
    save_file(state, tmp_path / "m.safetensors")
    model: Any = tied()
    load_weights(model, tmp_path / "m.safetensors", replace_head=False)
    assert torch.equal(model[1].weight, state["0.weight"])


def test_a_file_may_lack_the_count_of_batches(tmp_path: Path) -> None:
    norm = nn.BatchNorm2d(3)
    state = {name: tensor for name, tensor in norm.state_dict().items() if name != "num_batches_tracked"}
    save_file(state, tmp_path / "m.safetensors")
    assert len(load_weights(norm, tmp_path / "m.safetensors", replace_head=False).loaded) == 4


# Another number of classes


def test_another_number_of_classes_is_refused_with_the_way_out(tmp_path: Path, source: dict[str, Tensor]) -> None:
    save_file(source, tmp_path / "m.safetensors")
    message = refused(tmp_path / "m.safetensors", build(num_classes=3))
    assert "was trained for 10 classes, but this model has 3" in message
    assert "head.weight: 10x16 in the file, 3x16 here" in message
    assert "init_replace_head=true" in message


def test_the_head_keeps_its_new_weights_when_asked(tmp_path: Path, source: dict[str, Tensor]) -> None:
    save_file(source, tmp_path / "m.safetensors")
    model = build(num_classes=3)
    head = model.state_dict()["head.weight"].clone()
    report = load_weights(model, tmp_path / "m.safetensors", replace_head=True)
    assert torch.equal(model.state_dict()["head.weight"], head)
    assert torch.equal(model.state_dict()["layers.0.weight"], source["layers.0.weight"])
    assert report.kept_head == ("head.weight", "head.bias")


def test_a_head_that_fits_is_loaded_also_where_it_might_be_replaced(tmp_path: Path, source: dict[str, Tensor]) -> None:
    save_file(source, tmp_path / "m.safetensors")
    model = build()
    assert load_weights(model, tmp_path / "m.safetensors", replace_head=True).kept_head == ()
    assert equal(model, source)


def test_replacing_the_head_excuses_no_other_difference(tmp_path: Path) -> None:
    save_file(dict(build(num_classes=3, hidden=(8,)).state_dict()), tmp_path / "m.safetensors")
    message = refused(tmp_path / "m.safetensors", build(), replace_head=True)
    assert "layers.0.weight: 8x64 in the file, 16x64 here" in message


# Names, shapes and numbers that differ


def test_missing_and_unexpected_names_are_listed_with_the_nearest(tmp_path: Path, source: dict[str, Tensor]) -> None:
    source["layer.0.weight"] = source.pop("layers.0.weight")
    save_file(source, tmp_path / "m.safetensors")
    message = refused(tmp_path / "m.safetensors")
    assert "1 missing: layers.0.weight (nearest: layer.0.weight)" in message
    assert "1 unexpected: layer.0.weight (nearest: layers.0.weight)" in message


def test_five_names_of_each_kind_are_listed(tmp_path: Path) -> None:
    save_file({f"other.{number}": torch.zeros(1) for number in range(9)}, tmp_path / "m.safetensors")
    message = refused(tmp_path / "m.safetensors")
    assert "4 missing: " in message
    assert "9 unexpected: other.0, other.1, other.2, other.3, other.4 … and 4 more" in message


def test_names_from_a_file_cannot_write_to_the_terminal(tmp_path: Path, source: dict[str, Tensor]) -> None:
    source["\x1b[2Jgone\n" + "x" * 500] = torch.zeros(1)
    save_file(source, tmp_path / "m.safetensors")
    message = refused(tmp_path / "m.safetensors")
    assert "\x1b" not in message
    assert "x" * 100 not in message


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_other_kinds_of_numbers_are_refused(tmp_path: Path, source: dict[str, Tensor], dtype: torch.dtype) -> None:
    source["head.bias"] = torch.zeros(10, dtype=dtype)
    torch.save(source, tmp_path / "m.pt")
    assert f"head.bias: {str(dtype).removeprefix('torch.')} in the file, float32 in the model" in refused(
        tmp_path / "m.pt"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, source: dict[str, Tensor], value: float) -> None:
    source["head.bias"][3] = value
    save_file(source, tmp_path / "m.safetensors")
    assert "head.bias holds numbers that are not finite" in refused(tmp_path / "m.safetensors")


# Files that are no model file


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>", "a web page"),
        (b"\n <html lang=en>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "Git LFS pointer"),
        (b'{"a": 1}', "it is JSON"),
        (b"\x08\x0a\x12\x07pytorch\x1a\x05\x32\x2e\x31", "ONNX"),
        (b"\x00" * 64, "its format is unknown"),
    ],
)
def test_foreign_files_are_told_what_they_are(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert told in refused(tmp_path / "model.safetensors")


def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.pt")
    assert "holds no model.safetensors" in refused(tmp_path)
    assert "cannot be read" in refused(Path("null\0byte"))


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "must be a file or a folder" in refused(tmp_path / "pipe")


# Damaged safetensors


def safetensors_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TWICE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


@pytest.mark.parametrize(
    "content",
    [
        safetensors_of({"a": entry([1], 0, 4)}, b"1234", length=2**63),
        safetensors_of({"a": entry([1], 0, 4)}, b"1234", length=2**40),
        safetensors_of({"a": entry([1], 0, 4)}, b"12"),
        safetensors_of({"a": entry([1], 0, 4)}, b"1234" + pickle.dumps("trailing")),
        safetensors_of({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"1234"),
        safetensors_of({"a": entry([1], 4, 8)}, b"12345678"),
        safetensors_of({"a": entry([2], 0, 4)}, b"1234"),
        safetensors_of({"a": entry([2**62, 8], 0, 4)}, b"1234"),
        safetensors_of({"a": entry([-1], 0, 4)}, b"1234"),
        safetensors_of({"a": entry([1], 0, 4, "F33")}, b"1234"),
        safetensors_of({"a": entry([1], 8, 4)}, b"1234"),
        safetensors_of({"a": 1}),
        safetensors_of(TWICE, b"1234"),
        safetensors_of(b'{"a": [[[[' + b"[" * 100_000),
        safetensors_of(b'{"a": \xff}'),
        safetensors_of(b"{"),
    ],
    ids=[
        "header of 2^63 bytes",
        "header beyond the end",
        "truncated",
        "trailing bytes",
        "overlap",
        "gap",
        "short",
        "product overflows",
        "negative",
        "unknown type",
        "backwards",
        "no entry",
        "name twice",
        "deep",
        "not UTF-8",
        "cut header",
    ],
)
def test_damaged_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    assert "is damaged" in refused(tmp_path / "m.safetensors")


def test_a_header_of_many_megabytes_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "m.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 100 * 2**20) + b"{")
        file.truncate(101 * 2**20)
    assert "its header has 104857600 bytes; the limit is" in refused(tmp_path / "m.safetensors")


def test_any_cut_of_a_file_is_refused(tmp_path: Path, source: dict[str, Tensor]) -> None:
    save_file(source, tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    for end in range(0, len(whole), 211):
        (tmp_path / "m.safetensors").write_bytes(whole[:end])
        refused(tmp_path / "m.safetensors")


# PyTorch files


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Malicious:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return os.mkdir, (str(marker),)

    torch.save({"head.weight": Malicious()}, tmp_path / "new.pt")
    torch.save({"head.weight": Malicious()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious()))
    for name, told in (("new.pt", "names code, posix.mkdir"), ("old.pt", "names code"), ("plain.pt", "would run code")):
        assert told in refused(tmp_path / name)
        assert not marker.exists()


def test_a_pickled_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(build(), tmp_path / "m.pt")
    message = refused(tmp_path / "m.pt")
    assert "that would run code" in message
    assert "save `model.state_dict()`" in message


def test_torchscript_and_exported_programs_are_refused(tmp_path: Path) -> None:
    for name, told, inner in (("m.pt", "TorchScript", "code/m.py"), ("m.pt2", "exported program", "archive_format")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(f"m/{inner}", "pt2")
        assert told in refused(tmp_path / name)


def test_files_that_hold_other_things_than_weights_are_refused(tmp_path: Path, source: dict[str, Tensor]) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds a list, not a state_dict" in refused(tmp_path / "list.pt")
    torch.save({}, tmp_path / "empty.pt")
    assert "an empty mapping" in refused(tmp_path / "empty.pt")
    torch.save({**source, "epoch": 3}, tmp_path / "mixed.pt")
    assert "1 of its 5 entries are not dense tensors: 'epoch'" in refused(tmp_path / "mixed.pt")
    torch.save({**source, "head.bias": torch.zeros(10).to_sparse()}, tmp_path / "sparse.pt")
    assert "not dense tensors: 'head.bias'" in refused(tmp_path / "sparse.pt")


@pytest.mark.parametrize("new_format", [True, False])
def test_cut_pytorch_files_are_refused(tmp_path: Path, source: dict[str, Tensor], new_format: bool) -> None:
    torch.save(source, tmp_path / "m.pt", _use_new_zipfile_serialization=new_format)
    whole = (tmp_path / "m.pt").read_bytes()
    for end in range(1, len(whole), 503):
        (tmp_path / "m.pt").write_bytes(whole[:end])
        refused(tmp_path / "m.pt")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "new", "old"])
def test_random_damage_ends_in_a_refusal_or_in_finite_weights(
    tmp_path: Path, source: dict[str, Tensor], kind: str
) -> None:
    path = tmp_path / "m.pt"
    if kind == "safetensors":
        save_file(source, path)
    else:
        torch.save(source, path, _use_new_zipfile_serialization=kind == "new")
    whole = path.read_bytes()
    chance = random.Random(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(min(len(whole), 2000))] = chance.randrange(256)
        path.write_bytes(damaged)
        model = build()
        with contextlib.suppress(CheckpointError):
            load_weights(model, path, replace_head=False)
        assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_a_model_without_a_head_is_compared_all_the_same(tmp_path: Path) -> None:
    norm = nn.BatchNorm2d(3)
    save_file(dict(nn.BatchNorm2d(4).state_dict()), tmp_path / "m.safetensors")
    assert "mis-shaped: weight: 4 in the file, 3 here" in refused(tmp_path / "m.safetensors", norm, replace_head=True)
