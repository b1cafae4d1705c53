"""The script of the deployment page, with onnxruntime and Pillow alone, predicts as dnntrain does."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dnntrain
from dnntrain.cli.main import main

pytest.importorskip("onnxruntime")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"


def write_odd_pictures(folder: Path) -> list[str]:
    """Pictures of every kind that a plain resize reads wrongly, made of a real one if there is one."""
    folder.mkdir()
    try:
        from sklearn.datasets import load_sample_image

        photo = Image.fromarray(load_sample_image("china.jpg"))
    except ImportError:
        photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (427, 640, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.save(folder / "turned.jpg", exif=turned)
    photo.crop((0, 0, 61, 333)).save(folder / "tall.png")
    photo.resize((7, 5)).save(folder / "tiny.bmp")
    see_through = photo.resize((90, 47)).convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
    see_through.save(folder / "transparent.png")
    palette = photo.resize((64, 64)).quantize(17)
    palette.save(folder / "palette.png", transparency=3)
    photo.convert("L").save(folder / "gray.png")
    photo.resize((50, 81)).convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("1").save(folder / "bits.png")
    return sorted(str(path) for path in folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("channels", [3, 1])
def test_the_script_of_the_page_predicts_as_dnntrain(
    channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    for level, name in enumerate(("cats", "dogs")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(40):
            pixels = random.integers(0, 128, (12, 16, 3), dtype=np.uint8) + np.uint8(100 * level)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    data = ["data=image_folder", f"data.root={tmp_path}/photos", "data.image_size=28", "data.image_width=36"]
    line = [*data, f"data.channels={channels}", "train.batch_size=16", "debug=fast", "log.report=false"]
    run = tmp_path / "run"
    assert main([*line, f"run_dir={run}", "-q"]) == 0
    assert main(["export", str(run), "--format", "onnx", "-q"]) == 0
    files = write_odd_pictures(tmp_path / "odd")
    (script,) = re.findall(r"^```python file=deploy.py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    (tmp_path / "deploy.py").write_text(script)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["deploy.py", str(run / "exports" / "onnx"), *files])
    runpy.run_path(str(tmp_path / "deploy.py"))
    printed = [line.rsplit(" ", 2) for line in capsys.readouterr().out.splitlines()]
    expected = dnntrain.predict(run / "exports" / "onnx", files)
    assert [row[0] for row in printed] == files
    for (_, name, probability), row in zip(printed, expected, strict=True):
        assert name == row["class"]
        assert float(probability) == pytest.approx(row["probability"], abs=1e-5)


def test_the_script_is_short_and_needs_neither_torch_nor_dnntrain() -> None:
    (script,) = re.findall(r"^```python file=deploy.py\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    assert len(script.splitlines()) <= 21
    assert not re.search(r"import.*(torch|dnntrain)", script)
