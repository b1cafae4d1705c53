"""A damaged file of a run directory is a message and exit code 2, 3 or 5, or does not matter: never a traceback."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dnntrain.cli.main import main

Capture = pytest.CaptureFixture[str]

#: Seconds after which a command counts as hung; the machine may be busy.
_LIMIT_S = 120

_FILES = [
    "config.yaml",
    "overrides.txt",
    "plan.json",
    "env.json",
    "result.json",
    "evaluation.json",
    "metrics.jsonl",
    "results.csv",
    "log.txt",
    "config.json",
    "model.safetensors",
    "checkpoints/LAST",
    "checkpoints/BEST",
    "checkpoints/step-2/manifest.json",
    "checkpoints/step-2/state-0.safetensors",
]

_DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "last byte missing": lambda data: data[:-2],
    "garbage": lambda data: np.random.default_rng(0).bytes(len(data)),
    "garbage in the middle": lambda data: data[: len(data) // 2] + b"\xff\xfe\x00\x9b" + data[len(data) // 2 :],
    "zeros": lambda data: bytes(len(data)),
    "a list": lambda data: b"[1, 2]\n",
    "null": lambda data: b"null\n",
    "a number of 5000 digits": lambda data: b"9" * 5000,
    "deep nesting": lambda data: b"[" * 20000,
    "deep mappings": lambda data: b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "open quote": lambda data: data + b"\n'",
    "byte-order mark": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode("latin-1").encode("utf-16"),
    "long line": lambda data: data + b"x" * 300_000,
}

_COMMANDS: dict[str, list[str]] = {
    "eval": ["eval", "RUN"],
    "eval with a setting": ["eval", "RUN", "eval.batch_size=64"],
    "predict": ["predict", "RUN", "IMAGE"],
    "report": ["report", "RUN"],
    "export": ["export", "RUN", "--format", "safetensors"],
    "resume": ["resume", "RUN"],
    "resume for longer": ["resume", "RUN", "train.duration=3step"],
    "init_from": ["plan", "init_from=RUN", "model=mlp", "model.hidden=[4]"],
    "ls": ["ls", "RUN"],
}


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, trained once for all tests of this file."""
    folder = tmp_path_factory.mktemp("damaged") / "run"
    words = ["model=mlp", "model.hidden=[4]", "train.duration=2step", "train.max_examples=64", "eval.max_examples=32"]
    assert main([*words, "data.val_fraction=0.5", f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "image.png")
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def _fill_in(command: list[str], run: Path) -> list[str]:
    return [word.replace("RUN", str(run)).replace("IMAGE", str(run.with_name("image.png"))) for word in command]


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise AssertionError(f"the command took more than {_LIMIT_S} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def _assert_explained(command: list[str], capsys: Capture) -> int:
    """Runs a command; returns its exit code, which a person can act on."""
    capsys.readouterr()
    with _time_limit():
        code = main(command)
    text = capsys.readouterr().err
    assert code in (0, 2, 3, 5), f"{command} → {code}\n{text[-2000:]}"
    assert "this is a bug" not in text
    assert "Traceback" not in text
    assert code == 0 or text.startswith("dnntrain: ") or "\ndnntrain: " in text
    return code


@pytest.mark.slow
@pytest.mark.parametrize("file", _FILES)
@pytest.mark.parametrize("command", list(_COMMANDS))
def test_no_damage_of_a_file_ends_in_a_traceback(command: str, file: str, run_copy: Path, capsys: Capture) -> None:
    data = (run_copy / file).read_bytes()
    for damage, change in _DAMAGES.items():
        changed = change(data)
        if changed is None:
            (run_copy / file).unlink()
        else:
            (run_copy / file).write_bytes(changed)
        try:
            _assert_explained(_fill_in(_COMMANDS[command], run_copy), capsys)
        except AssertionError as error:
            raise AssertionError(f"{file}, {damage}: {error}") from error


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Returns a change of a card: it sets the value at `path` (keys joined by dots), or removes it with `...`."""

    def change(card: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            card = card[key]
        if value is ...:
            del card[last]
        else:
            card[last] = value

    return change


ODD_VALUES = [
    *(("pretrained_cfg.input_size", value) for value in (..., None, 3, "1x8x8", [], [1, 8], [1, 8, 8, 8], [1, 8, "8"])),
    *(("pretrained_cfg.input_size", value) for value in ([0, 8, 8], [-1, 8, 8], [1.5, 8, 8], [True, 8, 8], [1, 10**9, 10**9])),
    *(("pretrained_cfg.mean", value) for value in (..., None, 0.5, [], ["x"], [float("nan")], [float("inf")], [0.1, 0.2], [10**400])),
    *(("pretrained_cfg.std", value) for value in (..., [0], [-1.0], [None], [[0.3]], "0.3", [float("nan")])),
    *(("label_names", value) for value in (..., None, [], "0123456789", [0] * 10, [None] * 10, {"0": 1}, ["a"] * 9, ["a"] * 11)),
    *(("dnntrain", value) for value in (..., None, [], "x", {})),
    *(("dnntrain.targets", value) for value in (..., None, 3, "boxes", [], {})),
    *(("dnntrain.output", value) for value in (..., None, [], {}, {"name": "x"}, {"name": 3, "shape": [10]})),
    *(("dnntrain.output.shape", value) for value in (..., None, 10, [], [0], [-10], ["10"], [10**30], [9], [10, 10])),
    *(("dnntrain.sha256", value) for value in (3, None, [], "x", {})),
    *(("dnntrain.quantized_ranges", value) for value in (3, [1], "x", {"a": 1}, {"layers.0.input": [1, None]}, {"a": [10**400] * 2})),
    ("pretrained_cfg", ...),
    ("pretrained_cfg", [1]),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", ["eval", "predict", "export"])
def test_odd_values_in_config_json_name_the_file(command: str, run_copy: Path, capsys: Capture) -> None:
    card_file = run_copy / "config.json"
    card = card_file.read_text()
    for path, value in ODD_VALUES:
        odd_card = json.loads(card)
        _set(path, value)(odd_card)
        card_file.write_text(json.dumps(odd_card))
        capsys.readouterr()
        with _time_limit():
            code = main(_fill_in(_COMMANDS[command], run_copy))
        text = capsys.readouterr().err
        assert code == 5, f"{path}={value!r}: {code} {text[-1500:]}"
        assert "config.json" in text or "model.safetensors" in text, f"{path}={value!r}: {text}"
