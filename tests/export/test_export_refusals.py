"""What cannot be exported is refused before anything is written, with what works in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from dnntrain.cli import main


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["format=torchscript"], 2, "use format=pt2"),
        (["format=onx"], 2, "did you mean 'onnx'"),
        (["format=onnx", "quant.batches=4"], 2, "no effect on format=onnx"),
        (["format=onnx_int8", "quant=int8_weight_only"], 2, "use format=pt2_int8"),
        (["format=onnx_int8", "quant=none"], 2, "use quant=int8_static"),
        (["format=onnx_int8", "quant.batch_size=2000"], 3, "calibration needs 2000 training images"),
        (["format=onnx", "data=synthetic"], 3, "the model"),
        (["format=onnx", "threads=0"], 2, "threads=0"),
    ],
)
def test_it_says_what_to_use_instead(
    words: list[str], code: int, reason: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), f"path={tmp_path}/out", *words]) == code
    assert reason in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    assert main(["export", str(tmp_path), "format=onnx"]) == 2
    assert main(["export"]) == 2
