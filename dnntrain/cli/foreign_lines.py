"""Translate flags, bare words and commands of other trainers: `--epochs 3`, `seed 3`, `fit`, `resnet50`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dnntrain.cli.command_table import COMMANDS
from dnntrain.config.conf_folder import has_choice

if TYPE_CHECKING:
    from dnntrain.config.translate import Translator

#: Commands of other trainers.
_COMMANDS = {
    **dict.fromkeys(
        ("fit", "run", "start", "launch", "finetune", "fine-tune", "pretrain", "trainer"), "dnntrain train"
    ),
    **dict.fromkeys(("classify", "yolo", "go", "main", "train.py", "main.py"), "dnntrain train"),
    **dict.fromkeys(("test", "val", "validate", "evaluate", "validation"), "dnntrain eval RUN"),
    **dict.fromkeys(("infer", "inference", "detect", "predictions"), "dnntrain predict RUN PATH"),
    **dict.fromkeys(("sample", "chat", "complete"), "dnntrain generate RUN --prompt TEXT"),
    **dict.fromkeys(("convert", "onnx", "to_onnx", "quantize", "compile"), "dnntrain export RUN --format onnx"),
    **dict.fromkeys(("benchmark", "profile", "speed"), "dnntrain bench RUN"),
    **dict.fromkeys(("list", "models", "choices", "options", "info", "show"), "dnntrain ls"),
    **dict.fromkeys(("lr_find", "lr-find", "find_lr", "find-lr", "range_test"), "dnntrain tune lr"),
    **dict.fromkeys(("scale_batch_size", "autobatch", "find_batch_size"), "dnntrain tune batch"),
    **dict.fromkeys(("continue", "restart"), "dnntrain resume RUN"),
    **dict.fromkeys(("checks", "check", "env", "environment", "settings"), "dnntrain doctor"),
    **dict.fromkeys(("multirun", "grid", "search", "hpo"), "dnntrain sweep optim.lr=0.1,0.01"),
    "version": "dnntrain --version",
    "help": "dnntrain --help",
    "cfg": "dnntrain config",
}

#: Short flags of image classification scripts.
_SHORT_FLAGS = {"-b": "batch_size", "-j": "workers", "-a": "arch", "-lr": "lr", "-e": "epochs", "-bs": "batch_size"}


def is_value(word: str) -> bool:
    """Return whether a word behind an unknown flag can be its value."""
    return "=" not in word and not word.startswith(("+", "~", "--")) and word not in COMMANDS


def translate_flag(spelling: str, value: str | None, argv: Sequence[str]) -> str | None:
    """Return the settings that a flag means, or None. Commands with operands keep their own options."""
    name = next((word for word in argv if word in COMMANDS), "train")
    word = _SHORT_FLAGS.get(spelling, spelling.lstrip("-"))
    if not COMMANDS[name].composes or not word or (spelling[:2] != "--" and spelling not in _SHORT_FLAGS):
        return None
    return _load_translator().translate_words(word.replace("-", "_"), value)


def translate_command(command: str, rest: Sequence[str]) -> str | None:
    """Return the line that an unknown command means: another command, or settings without `=`."""
    if command.lower() in _COMMANDS:
        return _COMMANDS[command.lower()]
    if not rest and not (has_choice(command) or Path(command).is_dir() or re.search(r"\d|\.py$", command)):
        return None
    if line := translate_operands((command, *rest[:1])):
        return f"dnntrain {line}"
    return None


def translate_operands(words: Sequence[str]) -> str | None:
    """Return the settings that bare words mean: `seed 3`, `resnet50`; None if they mean none."""
    word, *rest = words
    value = rest[0] if rest and is_value(rest[0]) else None
    translator = _load_translator()
    line = translator.translate_words(word, value) if value is not None else None
    return line or translator.translate_bare_word(word)


def _load_translator() -> Translator:
    from dnntrain.config.registry import load_registry
    from dnntrain.config.validate import make_translator

    return make_translator(load_registry())
