"""The JSON that commands print is read by every program: it has no NaN and no infinity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dnntrain
from dnntrain.cli.main import main
from dnntrain.inference import evaluate_run
from dnntrain.utils.json_files import format_json

ROOT = Path(dnntrain.__file__).parent


def read_strictly(text: str) -> object:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("path", sorted((ROOT / "cli" / "commands").glob("*.py")), ids=lambda path: path.stem)
def test_a_command_prints_strict_json_only(path: Path) -> None:
    assert "json.dumps" not in path.read_text(), "use format_json"


def test_numbers_that_are_not_finite_become_texts() -> None:
    value = {"a": float("nan"), "b": [float("inf"), -float("inf")], "c": Path("x")}
    assert read_strictly(format_json(value)) == {"a": "nan", "b": ["inf", "-inf"], "c": "x"}


def test_the_json_of_eval_is_strict(
    short_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_run, "evaluate", lambda *arguments: {"loss": float("nan"), "examples": 3})
    assert main(["eval", str(short_run), "--json"]) == 0
    value = read_strictly(capsys.readouterr().out)
    assert value == {"run": str(short_run), "split": "test", "loss": "nan", "examples": 3}
