"""A pipeline of three stages on the digits, and its file."""

from __future__ import annotations

from pathlib import Path

CHAIN = """
settings:
  data: digits
stages:
  - name: quantize
    from: student
    quant: int8_static
  - name: student
    from: {teacher: teacher}
    model: small_cnn
    model.hidden: 16
    distill: kd
  - name: teacher
    model: resnet20
    train: {duration: 2ep}
"""


def write_pipeline(folder: Path, text: str, name: str = "chain") -> Path:
    """Write a pipeline into a --config-dir and return the folder."""
    (folder / "pipeline").mkdir(parents=True, exist_ok=True)
    (folder / "pipeline" / f"{name}.yaml").write_text(text)
    return folder
