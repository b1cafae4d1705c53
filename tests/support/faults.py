"""A plug-in package whose regulariser `reg=fault` breaks one step of a run."""

from __future__ import annotations

from pathlib import Path

FAULT = '''
from dataclasses import dataclass

import torch

from dnntrain.config.fields import Literal, NonNegativeInt
from dnntrain.protocols import BatchStage, BatchTransform, BuildContext, GradientStage, GradientTransform, Hooks, RegChoice


@dataclass(frozen=True)
class Fault(RegChoice):
    """Breaks a step."""

    kind: Literal["gradient", "batch", "pixels"] = "batch"  # a gradient, or examples, that are no numbers; examples too large
    step: NonNegativeInt = 13  # number of the step, from 1; of gradients, of those that this process computes
    rank: NonNegativeInt = 0  # the rank whose gradient breaks
    lasting: bool = False  # true: every step from there on

    def build(self, context: BuildContext) -> Hooks:
        done = 0

        def broken(step: int) -> bool:
            return step >= self.step if self.lasting else step == self.step

        def spoil(gradients):
            nonlocal done
            done += 1
            if broken(done) and context.world.rank == self.rank:
                gradients[-1].view(-1)[0] = float("nan")

        def enlarge(batch, key):
            step = torch.from_numpy(batch.epoch * context.steps_per_epoch + batch.position // context.batch_size + 1)
            chosen = broken(step) & torch.from_numpy(batch.position % context.batch_size >= context.batch_size // 2) \\
                if not self.lasting else step >= self.step
            much = 1000.0 if self.kind == "batch" else float("nan")
            batch.inputs = batch.inputs * torch.where(chosen, much, 1.0)[:, None, None, None]
            return batch

        if self.kind == "gradient":
            return Hooks(gradient_transforms=(GradientTransform(GradientStage.PENALTY, spoil),))
        return Hooks(batch_transforms=(BatchTransform(BatchStage.MIX, enlarge),))
'''

YAML = """\
# @package reg.fault
# Breaks a step.
name: fault
kind: batch # a gradient, or examples, that are no numbers; examples too large
step: 13 # number of the step, from 1; of gradients, of those that this process computes
rank: 0 # the rank whose gradient breaks
lasting: false # true: every step from there on
"""


def install(folder: Path) -> None:
    """Writes the package under `folder`, from where it is found once that is on the path."""
    package = folder / "broken_steps"
    (package / "reg").mkdir(parents=True)
    (package / "conf" / "reg").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "reg" / "__init__.py").write_text("")
    (package / "reg" / "fault.py").write_text(FAULT)
    (package / "conf" / "reg" / "fault.yaml").write_text(YAML)
    metadata = folder / "broken_steps-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken_steps\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[dnntrain.plugins]\nbroken_steps = broken_steps\n")
