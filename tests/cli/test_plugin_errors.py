# ruff: noqa: E501
"""An exception or a wrong value of a plug-in is reported as the plug-in's, with file and line, never as a bug."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dnntrain.cli.main import main
from tests.support.plugin import write

Capture = pytest.CaptureFixture[str]

_HEAD = """\
from __future__ import annotations
import contextlib
from dataclasses import dataclass
import torch
from dnntrain.protocols import (
    AugmentChoice, AverageChoice, DataChoice, Hooks, LaunchChoice, LossTerm, ModelChoice, MonitorChoice,
    ParallelChoice, PrecisionChoice, RegChoice, SchedChoice, ScheduledParam, ScheduledValue, StepGuard, TrackChoice,
)
from dnntrain.protocols import hook_types
from dnntrain.choices.optim._base import OptimizerChoice
"""

#: The method that a module of a choice must have.
_BUILD = {
    "optim": "\ndef build(self, model, options=None):\n    return (torch.optim.SGD(model.named_parameters(), lr=0.1),)",
    "reg": "\ndef build(self, context):\n    return Hooks()",
}

_WORDS = ["model=mlp", "model.hidden=[4]", "train.duration=2step", "train.max_examples=128", "log.report=false"]


def _write_choice(folder: Path, group: str, base: str, body: str) -> Path:
    """A plug-in package `broken_N` with one choice, `GROUP=bad`; returns its module."""
    package = f"broken_{abs(hash((str(folder), body)))}"
    if "def build(" not in body:
        body += _BUILD[group]
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    code = f'{_HEAD}\n@dataclass(frozen=True)\nclass Bad({base}):\n    """Broken."""\n\n{lines}'
    is_list = group in ("reg", "augment", "monitor", "average", "track")
    lr = "lr: 0.1 # rate\n" if group == "optim" else ""
    write(
        folder,
        {
            f"{package}/__init__.py": "",
            f"{package}/{group}/__init__.py": "",
            f"{package}/conf/{group}/bad.yaml": (f"# @package {group}.bad\n" if is_list else "")
            + f"# Broken.\nname: bad\n{lr}",
            f"{package}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
            f"{package}-1.0.dist-info/entry_points.txt": f"[dnntrain.plugins]\n{package} = {package}\n",
        },
    )
    module = folder / package / group / "bad.py"
    module.write_text(code)
    return module


def _run(folder: Path, group: str) -> int:
    word = f"+{group}=[bad]" if group in ("reg", "augment", "monitor", "average", "track") else f"{group}=bad"
    words = [item for item in _WORDS if not (group == "model" and item.startswith("model"))]
    words += ["parallel=ddp"] * (group == "launch")
    return main([word, *words, f"run_dir={folder / 'run'}"])


_OPTIM = "OptimizerChoice"
_REG = "RegChoice"

RAISES = [
    ("optim", _OPTIM, "def build(self, model, options=None):\n    return 1 + 'a'"),
    ("optim", _OPTIM, "def get_parameter_options(self, model):\n    return {}['x']"),
    ("optim", _OPTIM, "def __post_init__(self):\n    None.x"),
    ("reg", _REG, "def build(self, context):\n    raise OSError(2, 'gone', '/nowhere/x')"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(bindings=(lambda handles: handles.nothing,))"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(loss_terms=(LossTerm('x', lambda o, b: o.outputs @ o.outputs),))"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(after_step_hooks=(lambda step_info: 1 / 0,))"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(export_metadata=(lambda model: 1 / 0,))"),
    ("reg", _REG, "def build(self, context):\n    return Hoks()"),
    ("reg", _REG, "def build(self, context):\n    assert False"),
    ("reg", _REG, "@property\ndef needs(self):\n    return self.nothing"),
    ("model", "ModelChoice", "def build(self, shape):\n    return torch.nn.Linear(shape.width, -3)"),
    ("model", "ModelChoice", "def build(self, shape):\n    class Net(torch.nn.Module):\n        def forward(self, x):\n            return x.nothing\n    return Net()"),
    ("data", "DataChoice", "def build(self):\n    return open('/nowhere/x')"),
    ("track", "TrackChoice", "def build(self):\n    class T:\n        def start(self, run_dir, config): 1 / 0\n        def log_row(self, row): pass\n        def close(self, result): pass\n    return T()"),
    ("monitor", "MonitorChoice", "def build(self, context):\n    return Hooks(metric_callbacks=(lambda row: row['nothing'],))"),
    ("sched", "SchedChoice", "def build(self, context):\n    return Hooks(scheduled_values=(ScheduledValue(ScheduledParam.LEARNING_RATE, lambda info: 1 / 0),))"),
]  # fmt: skip

WRONG_VALUES = [
    ("optim", _OPTIM, "def build(self, model, options=None):\n    return torch.optim.SGD(model.named_parameters(), lr=0.1)", "build() must return a tuple of optimizers"),
    ("optim", _OPTIM, "def build(self, model, options=None):\n    return None", "a tuple of optimizers, such as (torch.optim.SGD(…),), not None"),
    ("optim", _OPTIM, "def build(self, model, options=None):\n    return ()", "must return a tuple of optimizers"),
    ("optim", _OPTIM, "def build(self, model, options=None):\n    return (torch.optim.SGD(model.parameters(), lr=0.1),)", "model.named_parameters()"),
    ("optim", _OPTIM, "def build_hooks(self, context):\n    pass", "build_hooks() must return Hooks"),
    ("reg", _REG, "def build(self, context):\n    pass", "build() must return Hooks(…), not None"),
    ("reg", _REG, "def build(self, context):\n    return LossTerm('x', lambda o, b: o.outputs.sum(1))", "must return Hooks"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(loss_terms=LossTerm('x', lambda o, b: o.outputs.sum(1)))", "loss_terms must be a tuple of LossTerm"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(loss_terms=(lambda o, b: 1,))", "loss_terms must be a tuple of LossTerm"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(loss_terms=(LossTerm('x', lambda o, b: 1.0),))", "must return a tensor [n]"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(loss_terms=(LossTerm('x', lambda o, b: o.outputs.sum()),))", "must return a tensor [n]"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(bindings=3)", "bindings must be a tuple of functions"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(bindings=(3,))", "bindings must be a function"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(state={'x': 3})", "state must be a mapping"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(label_smoothing='x')", "label_smoothing must be a number"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(memory_use=(lambda ranks: 3,))", "must return MemoryUse"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(optimizer_step=lambda compute, apply: compute().total)", "must return the StepLoss"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(export_transforms=(lambda model: None,))", "must return a torch.nn.Module, not None"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(export_metadata=(lambda model: None,))", "must return a mapping"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(model_transforms=(hook_types.ModelTransform(hook_types.ModelStage.STRUCTURE, lambda m: None),))", "must return a torch.nn.Module"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(image_transforms=(lambda images, index, key: images.float(),))", "uint8"),
    ("reg", _REG, "def build(self, context):\n    return Hooks(gradient_transforms=(hook_types.GradientTransform(hook_types.GradientStage.CLIP, lambda g: 3),))", "must return a mapping"),
    ("reg", _REG, "@property\ndef needs(self):\n    return 'x'", "needs() must return a frozenset"),
    ("augment", "AugmentChoice", "def build(self, context):\n    return Hooks(batch_transforms=(hook_types.BatchTransform(hook_types.BatchStage.AUGMENT, lambda b, key: b.inputs),))", "must return a Batch"),
    ("average", "AverageChoice", "def build(self, context):\n    class W:\n        replaces = 'weights'\n        def swap_in(self, model): return None\n    return Hooks(eval_weights=(W(),))", "swap_in() must return a context"),
    ("monitor", "MonitorChoice", "def build(self, context):\n    return Hooks(metric_callbacks=(lambda row: True,))", "must return StopTraining, Adjustment or None"),
    ("monitor", "MonitorChoice", "def build(self, context):\n    class G(StepGuard):\n        action = 1\n        def judge(self, stats): return 'bad'\n    return Hooks(step_guards=(G(),))", "must return an Alarm or None"),
    ("sched", "SchedChoice", "def build(self, context):\n    return Hooks(scheduled_values=(ScheduledValue(ScheduledParam.LEARNING_RATE, lambda info: None),))", "must return a number"),
    ("model", "ModelChoice", "def build(self, shape):\n    return lambda x: x", "must return a torch.nn.Module"),
    ("model", "ModelChoice", "def build(self, shape):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7))", "outputs"),
    ("data", "DataChoice", "def build(self):\n    return [1, 2]", "must return a DataSet"),
    ("precision", "PrecisionChoice", "def build(self, hardware):\n    return 'fp32'", "must return a PrecisionPolicy"),
    ("track", "TrackChoice", "def build(self):\n    return None", "must return a Tracker"),
    ("launch", "LaunchChoice", "def build(self, accelerators):\n    return 0.5", "must return a whole number"),
    ("parallel", "ParallelChoice", "def build(self, ranks):\n    return ranks", "must return the degrees"),
]  # fmt: skip


@pytest.mark.sampled
@pytest.mark.parametrize(("group", "base", "body"), RAISES)
def test_an_exception_of_a_plugin_names_its_file_and_line(
    group: str, base: str, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    module = _write_choice(tmp_path, group, base, body)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, text = _run(tmp_path, group), capsys.readouterr().err
    assert code == 2, text
    assert "this is a bug" not in text
    assert "Traceback" not in text
    assert re.search(rf"{re.escape(str(module))}:\d+", text), text


@pytest.mark.slow
@pytest.mark.parametrize(("group", "base", "body", "problem"), WRONG_VALUES)
def test_a_wrong_value_of_a_plugin_is_named(
    group: str, base: str, body: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    _write_choice(tmp_path, group, base, body)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, text = _run(tmp_path, group), capsys.readouterr().err
    assert code == 2, text
    assert problem in text
    assert "this is a bug" not in text


def test_an_exception_of_dnntrain_itself_stays_a_bug(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("dnntrain.cli.main._find_command", lambda arguments: 1 / 0)
    assert main(["plan"]) == 1
    assert "this is a bug" in capsys.readouterr().err
