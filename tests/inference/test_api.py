"""The Python functions: a model that takes paths and pictures, metrics as columns, settings as keywords."""

from __future__ import annotations

import pydoc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from short_runs import rows

import dnntrain
from dnntrain.config.python_settings import format_settings
from dnntrain.errors import ConfigError, DataError


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_predict_takes_one_path(short_run: Path, photo: Path) -> None:
    (row,) = dnntrain.predict(short_run, str(photo))
    assert row["path"] == str(photo)
    assert dnntrain.predict(short_run, photo) == dnntrain.predict(short_run, [photo]) == [row]


def test_a_loaded_model_predicts_for_paths_pictures_and_lists(short_run: Path, photo: Path) -> None:
    model = dnntrain.load(short_run)
    (expected,) = dnntrain.predict(short_run, photo, top=3)
    assert model.predict(photo, top=3) == expected
    picture = Image.open(photo)
    without_path = {key: value for key, value in expected.items() if key != "path"}
    assert model.predict(picture, top=3) == without_path
    assert model.predict([str(photo), picture], top=3) == [expected, without_path]
    assert model.predict([]) == []
    with pytest.raises(DataError, match="a picture must be a path or a Pillow image, not ndarray"):
        model.predict(np.zeros((3, 3)))


def test_preprocess_gives_the_inputs_of_the_model(short_run: Path, photo: Path) -> None:
    model = dnntrain.load(short_run)
    inputs = model.preprocess(photo)
    assert inputs.shape == (1, *model.spec.inputs.shape)
    with torch.no_grad():
        logits = model.model(inputs)
    assert float(logits.softmax(1).max()) == pytest.approx(model.predict(photo)["probability"], abs=1e-2)


def test_metrics_are_columns_of_the_rows_of_the_run(short_run: Path) -> None:
    columns = dnntrain.load(short_run).metrics()
    written = rows(short_run)
    assert {len(column) for column in columns.values()} == {len(written)}
    assert columns["step"] == [row["step"] for row in written]
    assert columns["accuracy"] == [row.get("accuracy") for row in written]


def test_help_shows_the_public_functions() -> None:
    text = pydoc.render_doc(dnntrain, renderer=pydoc.plaintext)
    for name in dnntrain.__all__:
        assert f"{name}(" in text


def test_settings_of_python_are_words_of_the_command_line() -> None:
    settings: dict[str, Any] = {
        "data": "digits",
        "optim": {"lr": 0.1, "param_groups": ["head.* lr_scale=10"]},
        "train": {"freeze": ["*", "!head.*"], "max_examples": None},
        "data.download": True,
    }
    assert format_settings(settings) == [
        "data=digits",
        "optim.lr=0.1",
        'optim.param_groups=["head.* lr_scale=10"]',
        'train.freeze=["*","!head.*"]',
        "train.max_examples=null",
        "data.download=true",
    ]


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"model": object()}, "give a torch.nn.Module, or its class"),
        ({"data": object()}, "each a pair of arrays"),
        ({"optim": {"lr": object()}}, "write it as on the command line: optim.lr=…"),
        ({"model": type("Net", (torch.nn.Linear,), {"__module__": "__main__"})}, "from net import Net"),
    ],
)
def test_objects_that_a_run_directory_cannot_describe_are_errors(settings: dict[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        format_settings(settings)
    assert hint in str(caught.value)


@pytest.mark.slow
def test_a_class_in_a_file_is_trained_and_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny_net.py").write_text(
        "from torch import nn\n\n\nclass TinyNet(nn.Sequential):\n    def __init__(self, num_classes, width=4):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, num_classes))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    from tiny_net import TinyNet  # type: ignore[import-not-found]

    words = ("debug=fast", "model.args.width=6", "log.report=false")
    dnntrain.train(*words, model=TinyNet, run_dir=tmp_path / "run", display="quiet")
    model = dnntrain.load(tmp_path / "run", trust=True)
    assert model.model[1].out_features == 6


@pytest.mark.slow
def test_train_takes_keywords_and_calls_back_with_every_row(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    dnntrain.train(
        "debug=fast",
        run_dir=tmp_path / "run",
        model="mlp",
        train={"freeze": ["*", "!head.*"]},
        log={"report": False},
        display="quiet",
        callbacks=[lambda row: seen.append(dict(row))],
    )
    assert [row["split"] for row in seen] == [row["split"] for row in rows(tmp_path / "run")]
