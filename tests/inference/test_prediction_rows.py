"""The rows of predictions: of texts, and of targets that have the names of other columns."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from small_texts import RUN, write_texts

import dnntrain
from dnntrain.choices.task.multilabel import Multilabel
from dnntrain.cli.main import main
from dnntrain.errors import DataError
from dnntrain.inference.predict import check_reads_pictures, make_row
from dnntrain.inference.write_predictions import _list_cells
from dnntrain.input.document_source import encode_text
from dnntrain.protocols import InputKind, InputSpec, ModelSpec, OutputSpec, TargetKind, TargetSpec, Vocabulary


def make_text_spec(kind: TargetKind) -> ModelSpec:
    inputs = InputSpec((8,), (), (), vocabulary=Vocabulary(separates=True))
    return ModelSpec(inputs, TargetSpec((), kind), OutputSpec((), (8, 256), "logits", axis=1))


def test_a_next_token_follows_the_end_of_a_long_text_and_a_class_has_its_beginning() -> None:
    text = b"the beginning and the end"
    assert bytes(encode_text(text, make_text_spec(TargetKind.TOKENS), "x")[0].tolist()) == b" the end"
    assert bytes(encode_text(text, make_text_spec(TargetKind.CLASS), "x")[0].tolist()) == b"\xffthe beg"
    short = encode_text(b"ab", make_text_spec(TargetKind.TOKENS), "x")
    assert short.dtype == np.int64
    assert bytes(short[0].tolist()) == b"\xff" * 6 + b"ab"


@pytest.mark.slow
def test_a_language_model_predicts_after_the_end_of_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, context = tmp_path / "run", 16
    assert main([*RUN, f"data.path={write_texts(tmp_path / 'texts')}", f"run_dir={run}", "--quiet"]) == 0
    long, end = tmp_path / "long.txt", tmp_path / "end.txt"
    long.write_text("Ada reads a map. Ian draws the tale again and again")
    end.write_text(long.read_text()[-context:])
    rows = dnntrain.predict(run, [long, end], top=3)
    assert rows[0]["next"] == rows[1]["next"]
    capsys.readouterr()
    assert main(["predict", str(run), str(long), "--top", "2"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert list(row) == ["path", "next", "probability", "next_2", "probability_2"]
    assert row["next"] == rows[0]["next"][0][0]
    with pytest.raises(DataError, match="the model reads texts, not pictures"):
        dnntrain.load(run).predict(str(long))


@pytest.mark.parametrize("channels", [2, 4])
def test_a_model_of_other_channels_reads_no_files(channels: int) -> None:
    inputs = InputSpec((channels, 8, 8), (0.5,) * channels, (0.5,) * channels)
    assert inputs.kind is InputKind.IMAGES
    with pytest.raises(DataError, match=f"images of {channels} channels, and a file is read as 1 or 3"):
        check_reads_pictures(inputs)


def test_a_target_with_the_name_of_a_column_keeps_its_value() -> None:
    row = make_row({"path": "a.csv", "row": 1}, {"path": 2.0, "predicted_path": 3.0, "row": 4.0, "price": 5.0})
    assert row["path"] == "a.csv"
    assert row["row"] == 1
    assert row["predicted_path"] == 3.0
    assert row["predicted_predicted_path"] == 2.0
    assert row["predicted_row"] == 4.0
    assert row["price"] == 5.0
    assert _list_cells({"path": "a.csv", "top": 1.5}) == {"path": "a.csv", "top": 1.5}


def test_a_label_called_labels_keeps_its_probability() -> None:
    names = ("labels", "top")
    spec = ModelSpec(
        InputSpec((1, 8, 8), (0.5,), (0.5,)),
        TargetSpec(names, TargetKind.LABELS),
        OutputSpec(names, (2,), "logits"),
    )
    (row,) = Multilabel().format_predictions(torch.tensor([[5.0, -5.0]]), spec, 1)
    assert row == {"labels": "labels", "labels_probability": 0.993307, "top": 0.006693}
