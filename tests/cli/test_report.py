"""`dnntrain report`: its output, and its answers to what is no run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dnntrain.cli.commands.report import run
from dnntrain.cli.parser import parse_arguments
from dnntrain.errors import ConfigError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs under ./runs, with a name and a metric each."""
    monkeypatch.chdir(tmp_path)
    for name in ("small_cnn-digits/20261124-101010", "mlp-digits/20261124-111111"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("seed: 0\n")
        (folder / "metrics.jsonl").write_text('{"step": 1, "split": "val", "loss": 1.0, "accuracy": 0.5}\n')
    return tmp_path / "runs"


@pytest.mark.slow
def test_the_path_of_the_report_is_printed(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(parse_arguments(["report", "runs/mlp-digits/20261124-111111"])) == 0
    assert capsys.readouterr().out == "runs/mlp-digits/20261124-111111/report.html\n"
    assert (runs / "mlp-digits/20261124-111111/curves.png").is_file()


def test_several_runs_make_a_comparison(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["report", "runs/mlp-digits/20261124-111111", "runs/small_cnn-digits/20261124-101010", "--json"]
    assert run(parse_arguments(words)) == 0
    page = Path(json.loads(capsys.readouterr().out)["report"])
    assert page.parent == runs
    assert page.name.startswith("comparison-mlp-digits-20261124-111111-small_cnn-digits-20261124-101010-")


def test_another_comparison_has_another_page(runs: Path) -> None:
    one, two = "runs/mlp-digits/20261124-111111", "runs/small_cnn-digits/20261124-101010"
    for words in ([one, two], [two, one], [one, two, one], [one, two]):
        assert run(parse_arguments(["report", *words])) == 0
    assert len(list(runs.glob("comparison-*.html"))) == 3


def test_a_path_names_the_page_and_nothing_else_is_written(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(runs.rglob("*"))
    for words in (["runs/mlp-digits/20261124-111111"], ["runs/mlp-digits/20261124-111111"] * 2):
        assert run(parse_arguments(["report", *words, "--path", "mine.html"])) == 0
        assert capsys.readouterr().out == "mine.html\n"
        assert run(parse_arguments(["report", *words, "--path", "mine.html", "--quiet"])) == 0  # a page is replaced
        capsys.readouterr()
        Path("mine.html").unlink()
    assert sorted(runs.rglob("*")) == before


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("runs/mlp-digits/20261124-111111/config.yaml", "must end in .html\n  as in --path "),
        ("runs", "must end in .html\n  as in --path runs.html"),
        ("folder.html", "must be a file, but is a folder"),
        ("index.html", "exists and is not a page of dnntrain"),
        ("no/where.html", "there is no folder no\n  run: mkdir -p 'no'"),
    ],
)
def test_a_path_that_is_not_a_page_fails(runs: Path, path: str, answer: str) -> None:
    Path("folder.html").mkdir()
    Path("index.html").write_text("<title>my site</title>")
    with pytest.raises(ConfigError) as caught:
        run(parse_arguments(["report", "runs/mlp-digits/20261124-111111", "--path", path]))
    assert answer in str(caught.value)


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("runs/mlp-digits/20261124-111112", "did you mean runs/mlp-digits/20261124-111111?"),
        ("runs/mlp-digits", "its newest run: runs/mlp-digits/20261124-111111"),
        ("runs/mlp-digits/20261124-111111/config.yaml", "did you mean runs/mlp-digits/20261124-111111?"),
        ("elsewhere", "newest runs: runs/"),
        ("/dev/null/x", "/dev/null/x"),
        ("a\x00b", "does not exist"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_what_is_no_run_is_refused_with_the_nearest_run(runs: Path, word: str, answer: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(parse_arguments(["report", word]))
    assert answer in str(caught.value)


def test_every_word_that_is_no_run_is_listed(runs: Path) -> None:
    with pytest.raises(ConfigError, match="2 mistakes"):
        run(parse_arguments(["report", "one", "two", "runs/mlp-digits/20261124-111111"]))


def test_no_word_and_no_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"there are no runs under \./runs"):
        run(parse_arguments(["report"]))


def test_a_setting_is_refused(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"report takes no settings: seed=1"):
        run(parse_arguments(["report", "runs/mlp-digits/20261124-111111", "seed=1"]))


@pytest.mark.slow
def test_a_report_needs_no_torch(runs: Path) -> None:
    script = (
        "import sys; from dnntrain.cli.parser import parse_arguments as parse; from dnntrain.cli.commands.report import run;"
        "run(parse(['report', 'runs/mlp-digits/20261124-111111'])); assert 'torch' not in sys.modules"
    )
    environ = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "HOME": str(runs)}
    subprocess.run([sys.executable, "-c", script], env=environ, check=True, timeout=120, capture_output=True)
