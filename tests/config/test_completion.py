from __future__ import annotations

import shutil
import subprocess

import pytest

from dnntrain.cli.shell_completion import collect_words, render_bash, render_fish, render_zsh
from dnntrain.config.registry import load_registry

WORDS = collect_words(load_registry())


def complete(line: str) -> list[str]:
    """What bash offers behind `line`."""
    script = f"""
{render_bash(WORDS)}
COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}
_dnntrain
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    result = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dnntrain pl", ["plan"]),
        ("dnntrain opti", ["optim.", "optim="]),
        ("dnntrain precision=", ["auto", "bf16", "fp16", "fp32"]),
        ("dnntrain plan optim=sg", ["sgd"]),
        ("dnntrain optim.mom", ["optim.momentum="]),
        ("dnntrain train.comp", ["train.compile="]),
        ("dnntrain train.compile=o", ["off", "on"]),
        ("dnntrain eval.run_test=", ["false", "true"]),
        ("dnntrain average.em", ["average.ema."]),
        ("dnntrain +average=[em", ["[ema]"]),
        ("dnntrain completion ", ["bash", "zsh", "fish"]),
        ("dnntrain --qu", ["--quiet"]),
        ("dnntrain eval --tr", ["--trust"]),
        ("dnntrain eval runs/a --spl", ["--split="]),
        ("dnntrain eval --split=v", ["val"]),
        ("dnntrain export --format=onnx_", ["onnx_int8"]),
        ("dnntrain --jobs", []),
    ],
)
def test_bash_offers_what_can_follow(line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_bash_offers_verbs_and_keys_for_an_empty_word() -> None:
    offered = complete("dnntrain ")
    assert {"train", "doctor", "optim=", "seed="} <= set(offered)
    assert len(offered) == len(set(offered))


def test_bash_offers_no_verb_after_the_verb() -> None:
    assert "doctor" not in complete("dnntrain train ")


def test_bash_offers_files_where_no_word_fits(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "first").touch()
    assert complete(f"dnntrain report {folder}/fi") == [f"{folder}/first"]


@pytest.mark.parametrize(("shell", "script"), [("zsh", render_zsh(WORDS)), ("fish", render_fish(WORDS))])
def test_another_shell_reads_its_script(shell: str, script: str) -> None:
    assert "optim=sgd" in script
    assert "average.ema.decay=" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0


def test_no_word_needs_quoting_in_a_shell() -> None:
    assert not [word for word in WORDS if set(word) & set(" '\"$`\\;&|<>()*?!#~")]
