"""Writes plug-in packages and user folders for the tests of this folder."""

from __future__ import annotations

import textwrap
from pathlib import Path


def write(folder: Path, files: dict[str, str]) -> Path:
    """Writes `files` (path → text, dedented) under `folder` and returns it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return folder


def write_plugin(folder: Path, package: str = "mine") -> Path:
    """A package with one regulariser, `reg=noise`, and one preset of it, `reg=loud_noise`, found by its entry point."""
    return write(
        folder,
        {
            f"{package}/__init__.py": "",
            f"{package}/reg/__init__.py": "",
            f"{package}/reg/noise.py": '''
                from dataclasses import dataclass

                from dnntrain.config.fields import Positive
                from dnntrain.protocols import BuildContext, Hooks, RegChoice


                @dataclass(frozen=True)
                class Noise(RegChoice):
                    """Adds noise."""

                    scale: Positive = 0.5  # standard deviation

                    def __post_init__(self) -> None:
                        if self.scale > 100:
                            raise ValueError(f"scale={self.scale} drowns the targets")

                    def build(self, context: BuildContext) -> Hooks:
                        return Hooks()
                ''',
            f"{package}/conf/reg/noise.yaml": """\
                # @package reg.noise
                # Noise on the targets.
                name: noise
                scale: 0.5 # standard deviation
                """,
            f"{package}/optim/__init__.py": "",
            f"{package}/optim/halved_sgd.py": '''
                from dataclasses import dataclass

                from dnntrain.choices.optim._base import OptimizerChoice


                @dataclass(frozen=True)
                class HalvedSgd(OptimizerChoice):
                    """Plain SGD at half the rate."""

                    momentum: float = 0.25  # of the steps before

                    def build(self, model, options=None):
                        import torch

                        return (torch.optim.SGD(self.make_param_groups(model, options), lr=self.lr / 2),)
                ''',
            f"{package}/conf/optim/halved_sgd.yaml": """\
                # Plain SGD at half the rate. What is left out has the defaults of the dataclass and its bases.
                name: halved_sgd
                lr: 0.5 # base learning rate
                """,
            f"{package}/conf/reg/loud_noise.yaml": """\
                # @package reg.noise
                # Much noise.
                defaults:
                  - noise@_here_
                  - _self_
                scale: 9
                """,
            f"{package}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
            f"{package}-1.0.dist-info/entry_points.txt": f"[dnntrain.plugins]\n{package} = {package}\n",
        },
    )
