"""The command line as a user meets it: exit codes, streams, and what is not imported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from dnntrain.cli import commands
from dnntrain.cli.command_table import COMMANDS, iterate_options
from dnntrain.cli.main import main
from dnntrain.cli.parser import parse_arguments
from dnntrain.config.groups import GROUPS
from dnntrain.config.key_table import get_root_fields
from dnntrain.config.run_config import SECTIONS
from dnntrain.errors import CheckpointError, ConfigError, DataError, Interrupted, Preempted
from dnntrain.utils.error_boundary import ErrorBoundary


def run(
    *words: str | bytes, env: dict[str, str] | None = None, python: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """`python -m dnntrain` with `words`, as a process."""
    command: list[str | bytes] = [sys.executable, *python, "-m", "dnntrain", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False)


def imported(*words: str) -> tuple[int, set[str]]:
    """The exit code of a command line, and the modules that it imported."""
    script = "import sys; from dnntrain.cli.main import main; print(main(sys.argv[1:]), *sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    code, *modules = result.stderr.strip().splitlines()[-1].split()
    return int(code), set(modules)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["-h"],
        ["plan", "--help"],
        ["--version"],
        ["ls"],
        ["ls", "optim"],
        ["ls", "optim", "sgd"],
        ["schema"],
        ["completion", "bash"],
    ],
)
def test_what_needs_no_configuration_imports_neither_torch_nor_hydra(words: list[str]) -> None:
    code, modules = imported(*words)
    assert code == 0
    assert not {"torch", "hydra", "omegaconf"} & modules


@pytest.mark.sampled
@pytest.mark.parametrize(
    "words", [["+paralel=ddp"], ["train.batch_size=0"], ["optim=sdg"], ["config", "optim=sgd"], ["plna"]]
)
def test_a_refusal_comes_before_torch_is_imported(words: list[str]) -> None:
    code, modules = imported(*words)
    assert code == (0 if words[0] == "config" else 2)
    assert "torch" not in modules


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plna"], "there is no command 'plna'; did you mean 'plan'?"),
        (["trian"], "did you mean 'train'?"),
        (
            ["train.duration=10", "epochs"],
            "if it belongs to the word before it, use quotes: 'train.duration=10 epochs'",
        ),
        (["train", "epochs"], "takes settings only"),
        (["--hlep"], "there is no option --hlep\n  did you mean '--help'?"),
        (["--cfg", "hydra"], "--cfg job"),
        (["--cfg"], "--cfg needs a value"),
        (["--info"], "dnntrain config"),
        (["-cn", "x"], "experiment=NAME"),
        (["--config-dir", "/nowhere/at/all", "config"], "is not a folder"),
        (["tune"], "takes one of lr, batch"),
        (["tune", "bacth"], "did you mean 'batch'?"),
        (["tune", "lr", "--steps=5"], "--steps 5: 5 is not a whole number at least 10"),
        (["tune", "lr", "--lowest=1", "--highest=0.1"], "the lower bound 1 must be less than the upper bound 0.1"),
        (["-m", "optim.lr=interval(0,1)"], "an interval has infinitely many values"),
        (["--dry-run"], "it is an option of dnntrain submit and dnntrain sweep"),
        (["-m", "--jobs", "0"], "--jobs 0: 0 is not a whole number at least 1"),
        (["-m", "--jobs", "two"], "--jobs two: 'two' is not a whole number at least 1"),
        (["eval", "runs/a", "split=val"], "split=val: split is an option, not a setting\n  --split val"),
        (["export", "runs/a", "format=onnx"], "format=onnx: format is an option, not a setting\n  --format onnx"),
        (["bench", "runs/a", "accuracy=false"], "accuracy is an option, not a setting\n  --no-accuracy"),
        (["eval", "runs/a", "splt=val"], "splt=val: there is no setting 'splt'\n  did you mean --split val?"),
        (["eval", "runs/a", "--splt", "val"], "there is no option --splt\n  did you mean '--split'?"),
        (["tune", "batch", "--large", "8"], "did you mean '--largest'?"),
        (["eval", "runs/a", "--qqqqqq"], "dnntrain eval --help lists the options"),
        (["eval", "runs/a", "--split", "tset"], "'tset' is not one of train, val, test, all; did you mean 'test'?"),
        (["eval", "runs/a", "--format", "onnx"], "it is an option of dnntrain predict and dnntrain export"),
        (["eval", "runs/a", "--trust=true"], "--trust takes no value\n  use --trust alone"),
        (["eval", "runs/a", "--split"], "--split needs a value\n  as in --split SPLIT"),
        (["eval"], "dnntrain eval takes RUN…, but the line has 0"),
        (
            ["tune", "batch", "--lowest", "1"],
            "dnntrain tune batch has no option --lowest\n  it is an option of dnntrain tune lr",
        ),
        (
            ["export", "runs/a", "--batches", "1"],
            "--batches has no effect with --format safetensors\n  use --format auto",
        ),
        (["predict", "runs/a", "b.png", "--json", "--format", "csv"], "--json contradicts --format csv"),
        (["predict", "runs/a", "b.png", "optim.lr=1"], "it takes device= only"),
        (["ls", "optm"], "did you mean 'optim'?"),
        (["ls", "optim", "sdg"], "did you mean 'sgd'?"),
        (["completion", "basch"], "did you mean 'bash'?"),
        (["completion"], "one of bash, zsh, fish"),
        (["ls", "optim=sgd"], "takes no settings"),
    ],
)
def test_a_wrong_line_is_refused_with_a_hint(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_sweep_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["-m", "optim.lr=1,2"]) == 2
    assert "-m cannot run under torchrun" in capsys.readouterr().err


def test_a_line_becomes_a_command_its_operands_options_and_settings() -> None:
    arguments = parse_arguments(
        ["-q", "predict", "--workers", "4", "runs/a", "device=cpu", "./a=b.png", "--json", "--top=2", "--", "-x.png"]
    )
    assert arguments.command == "predict"
    assert arguments.positional == ("runs/a", "./a=b.png", "-x.png")
    assert arguments.overrides == ("device=cpu",)
    assert arguments.options["top"] == 2
    assert arguments.options["workers"] == 4
    assert arguments.options["batch_size"] == 64
    assert (arguments.quiet, arguments.json, arguments.display) == (True, True, "quiet")


@pytest.mark.parametrize("line", [("tune", "speed"), ("why",)])
def test_a_time_to_measure_is_in_seconds_with_the_unit_or_without(line: tuple[str, ...]) -> None:
    for text, seconds in (("120s", 120), ("120", 120), ("0.5s", 0.5), ("0.5", 0.5), (".5", 0.5)):
        assert parse_arguments([*line, "--budget", text]).options["budget"].value == seconds
    for text in ("0", "0s", "-1", "5ep", "10step", "5%", "2 minutes", "nan", "1e999s", "", "s"):
        with pytest.raises(ConfigError, match=r"as in --budget 120s"):
            parse_arguments([*line, "--budget", text])


def test_no_command_means_train() -> None:
    assert (
        parse_arguments([]).command
        == parse_arguments(["optim=sgd"]).command
        == parse_arguments(["train"]).command
        == "train"
    )


def test_every_command_explains_itself_and_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in COMMANDS:
        assert main([verb, "--help"]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"dnntrain {verb}")
        assert all(option.usage in text for option in COMMANDS[verb].options)


def test_every_command_is_one_thin_file() -> None:
    files = {path.stem: path for path in Path(commands.__path__[0]).glob("*.py") if path.stem != "__init__"}
    assert files.keys() == COMMANDS.keys()
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 60 for path in files.values())


def test_options_of_one_name_are_all_switches_or_all_take_a_value() -> None:
    options = list(iterate_options())
    by_flag = {flag: option.is_switch for option in options for flag in option.flags}
    assert all(by_flag[flag] == option.is_switch for option in options for flag in option.flags)


def test_every_default_is_a_value_that_the_option_may_have() -> None:
    for option in iterate_options():
        if option.default_text:
            assert option.convert(option.default_text) == option.default


def test_no_option_is_called_like_a_key_of_the_configuration() -> None:
    keys = {*GROUPS, *SECTIONS, *get_root_fields()}
    for command in COMMANDS.values():
        settings = keys if command.settings is None else keys.intersection(command.settings)
        assert not settings & {option.key for option in command.options}


def test_all_mistakes_of_a_line_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--jsn", "--split", "val", "optim=sdg", "train.batch_size=0"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("dnntrain: 4 mistakes:\n  1. there is no option --jsn\n     did you mean '--json'?\n")
    assert "it is an option of dnntrain eval" in text
    assert "did you mean 'sgd'?" in text
    assert "train.batch_size" in text


def test_a_switch_that_is_on_can_be_turned_off() -> None:
    assert parse_arguments(["bench", "runs/a"]).options["accuracy"] is True
    assert parse_arguments(["bench", "runs/a", "--no-accuracy"]).options["accuracy"] is False
    assert parse_arguments(["bench", "runs/a", "--accuracy"]).options["accuracy"] is True


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("verb", ["", *COMMANDS])
def test_help_fits_the_terminal(
    verb: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    main([*([verb] if verb else []), "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= width


@pytest.mark.parametrize("verb", COMMANDS)
def test_an_example_in_several_lines_is_one_command_to_the_shell(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    main([verb, "--help"])
    joined = re.sub(r" \\\n +", " ", capsys.readouterr().out)
    assert all(f"\n  {example}\n" in f"{joined}\n" for example in COMMANDS[verb].examples)


@pytest.mark.slow
def test_config_and_cfg_job_print_the_same_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for words in (
        ["config", "optim=sgd"],
        ["optim=sgd", "--cfg", "job"],
        ["train", "optim=sgd", "--cfg=job", "--resolve"],
    ):
        assert main(words) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == printed[2]
    assert yaml.safe_load(printed[0])["optim"]["name"] == "sgd"


@pytest.mark.slow
def test_json_is_printed_where_output_is_data(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["ls"], ["ls", "reg"], ["ls", "average", "ema"], ["ls", "debug", "fast"], ["config"], ["schema"]):
        assert main([*words, "--json"]) == 0
        json.loads(capsys.readouterr().out)


def test_ls_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    assert main(["ls", "optim", "muon"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 50


def test_version_names_torch_and_python() -> None:
    result = run("--version")
    assert result.returncode == 0
    assert {"dnntrain", "torch", "python"} <= set(result.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("word", [b"name=\xff\xfe", b"\xff", b"--\xff", b"+reg=[\xff]"])
def test_bytes_that_are_not_utf8_are_refused(word: bytes) -> None:
    result = run(word)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m dnntrain schema | head -c 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("{", "")


def test_a_closed_stdout_is_no_traceback() -> None:
    result = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m dnntrain ls >&-"], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in result.stderr


def test_an_ascii_terminal_gets_escapes() -> None:
    result = run("--version", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"})
    assert result.returncode == 0


def test_debug_shows_where_a_refusal_was_raised(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["-v", "config", "typo=1"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("DNNTRAIN_DEBUG", "1")
    assert main(["config", "typo=1"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DataError("x"), 3),
        (CheckpointError("x"), 5),
        (Preempted("x"), 75),
        (Interrupted("x"), 130),
        (KeyboardInterrupt(), 130),
        (RuntimeError("x"), 1),
    ],
)
def test_each_error_has_its_exit_code(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with ErrorBoundary() as boundary:
        raise error

    assert boundary.exit_code == code
    assert ("Traceback" in capsys.readouterr().err) == (code == 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_said_and_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    def fill_disk(verbose: bool) -> int:
        with ErrorBoundary(verbose) as boundary, Path("/dev/full").open("wb", buffering=0) as file:
            file.write(b"x")
        return boundary.exit_code

    assert fill_disk(verbose=False) == 5
    assert (
        capsys.readouterr().err
        == "dnntrain: No space left on device\n  free some disk space, then run the same command again\n"
    )
    assert fill_disk(verbose=True) == 5
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert "this is a bug" not in told


@pytest.mark.slow
def test_a_users_folder_is_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "narrow.yaml").write_text(
        "# Narrow.\ndefaults: [small_cnn, _self_]\nhidden: 8 # few\n", encoding="utf-8"
    )
    assert main(["-cd", str(tmp_path), "config", "model=narrow"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["hidden"] == 8
    assert main([f"--config-dir={tmp_path}", "ls", "model"]) == 0
    assert "Narrow." in capsys.readouterr().out
