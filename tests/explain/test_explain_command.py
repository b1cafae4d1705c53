"""`dnntrain explain RUN`, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dnntrain.cli.main import main

Capture = pytest.CaptureFixture[str]


def explain(capsys: Capture, *words: str) -> dict[str, object]:
    assert main(["explain", *words, "--json"]) == 0
    values: dict[str, object] = json.loads(capsys.readouterr().out)
    return values


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--examples", "worse"], "did you mean"),
        (["--examples", "photo.png"], "there is no such file"),
        (["--count", "0"], "--count 0"),
        (["--method", "lime"], "--method lime"),
        (["--path", "page.txt"], "must end in .html"),
    ],
)
def test_a_wrong_line_is_refused(words: list[str], reason: str, short_run: Path, capsys: Capture) -> None:
    assert main(["explain", str(short_run), *words]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_explained_in_a_page_and_in_numbers(short_run: Path, tmp_path: Path, capsys: Capture) -> None:
    page = tmp_path / "page.html"
    values = explain(capsys, str(short_run), "--count", "2", "--path", str(page))
    maps, shown = values["maps"], values["shown"]
    assert isinstance(maps, dict)
    assert isinstance(shown, list)
    assert maps["method"] == "layercam"
    assert len(maps["checks"]) == 7
    assert len(shown) == 4
    assert {row["set"] for row in shown} == {"worst", "uncertain"}
    assert all(row["trusted"] == (not row["faults"]) for row in shown)
    text = page.read_text()
    assert text.count('<figure class="map') == 4
    assert len(text) < 3_000_000
    assert text.count("map doubtful") == sum(not row["trusted"] for row in shown)
    saved = json.loads((tmp_path / "page.json").read_text())
    assert saved["maps"]["checks"] == maps["checks"]
    assert "sha256" in saved
    again = explain(capsys, str(short_run), "--count", "2", "--path", str(page))
    assert again["maps"] == maps
    assert again["shown"] == shown
