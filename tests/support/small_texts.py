"""Small texts, and the words of a short run on them."""

from __future__ import annotations

from pathlib import Path

#: 20 steps, the last batch of an epoch has 5 of 12 windows.
RUN = (
    "task=language_model",
    "task.sample_tokens=0",
    "data=text",
    "data.context=16",
    "data.val_fraction=0.1",
    "data.test_fraction=0.1",
    "model=gpt",
    "model.embed_dim=16",
    "model.depth=2",
    "model.num_heads=2",
    "train.max_examples=65",
    "train.batch_size=12",
    "train.duration=20step",
    "log.every=1step",
    "log.report=false",
    "eval.every=10step",
    "eval.max_examples=24",
    "eval.batch_size=8",
    "checkpoint.every=5step",
    "checkpoint.keep_last=9",
    "precision=fp32",
)


def make_document(number: int, lines: int = 6) -> str:
    """Return a text of short sentences that differ from number to number."""
    names, verbs, things = ("Ada", "Max", "Zoë", "Ian"), ("reads", "writes", "draws"), ("a map", "the tale", "one line")
    return "".join(
        f"{names[(number + line) % 4]} {verbs[(number * 7 + line) % 3]} {things[(number + 2 * line) % 3]} {number}.\n"
        for line in range(lines)
    )


def write_texts(folder: Path, count: int = 24) -> Path:
    """Write a folder of `count` documents, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number:02}.txt").write_text(make_document(number), encoding="utf-8")
    return folder
