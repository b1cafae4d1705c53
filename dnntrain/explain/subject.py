"""Hold the model that is explained, and the numbers that explanations refer to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dnntrain.errors import ConfigError
from dnntrain.explain.insertion import Answer
from dnntrain.explain.method import Aim
from dnntrain.export.formats import get_format
from dnntrain.inference.evaluate_run import DataSplit
from dnntrain.inference.load import LoadedModel
from dnntrain.protocols import Batch, InputKind, TargetKind
from dnntrain.utils.rng import Index, Key

#: Examples of a split that are looked at, chosen by a key.
MAX_EXAMPLES = 5000


@dataclass(frozen=True)
class Subject:
    """A loaded model."""

    loaded: LoadedModel

    @property
    def model(self) -> nn.Module:
        return self.loaded.model

    @property
    def has_gradients(self) -> bool:
        """Whether the network itself is at hand: a run, or an export of weights."""
        return self.loaded.format == "run" or get_format(self.loaded.format).builds_model

    @property
    def target_kind(self) -> TargetKind:
        return self.loaded.spec.targets.kind

    @property
    def is_table(self) -> bool:
        return self.loaded.spec.inputs.kind is InputKind.TABLE

    def check_support(self) -> None:
        """Raise ConfigError if the outputs or the inputs are of a kind that is not supported yet."""
        spec = self.loaded.spec
        if len(spec.output.shape) != 1 or spec.inputs.kind not in (InputKind.IMAGES, InputKind.TABLE):
            raise ConfigError(
                "explain does not support this task: it needs one class, labels or numbers for an image or a row, "
                f"and the model gives an output of {'×'.join(map(str, spec.output.shape))} for "
                f"{spec.inputs.kind.value}",
                "evaluate it with: dnntrain eval RUN",
            )

    def compute_probabilities(self, outputs: Tensor) -> Tensor | None:
        """Return probabilities of classes or labels [n, k]; None for numbers."""
        return self.loaded.config.task.compute_probabilities(outputs)

    def choose_aim(self, outputs: Tensor, inputs: Tensor) -> Aim:
        """Return the most probable class or label of each example, or the number farthest from its mean.

        A number below the output for the mean color, or for the mean row, is explained with sign -1.
        """
        if self.target_kind is not TargetKind.NUMBERS:
            return Aim(outputs.argmax(1), torch.ones(len(outputs), device=outputs.device))
        chosen = outputs.abs().argmax(1)
        base = self.loaded.compute_outputs(torch.zeros_like(inputs[:1]))[0, chosen]
        values = outputs.gather(1, chosen[:, None])[:, 0]
        return Aim(chosen, torch.where(values < base, -1.0, 1.0))

    def make_answer(self, aim: Aim, inputs: Tensor) -> Answer:
        """Return the function that measures how much of the model's answer is left in changed inputs.

        It is the probability of the explained class or label. For a number it is the share of the way
        from the output of the empty image to the output of the whole one, from 0 to 1.
        """
        empty = aim.compute_scores(self.loaded.compute_outputs(torch.zeros_like(inputs)))
        whole = aim.compute_scores(self.loaded.compute_outputs(inputs))

        def answer(images: Tensor, rows: Tensor) -> Tensor:
            outputs = self.loaded.compute_outputs(images)
            part = aim.select(rows)
            probabilities = self.compute_probabilities(outputs)
            if probabilities is not None:
                return probabilities.gather(1, part.outputs[:, None])[:, 0]
            way = (whole - empty)[rows]
            share = (part.compute_scores(outputs) - empty[rows]) / way.abs().clamp_min(1e-12)
            return (share * way.sign()).clamp(0, 1)

        return answer


@dataclass(frozen=True)
class SplitOutputs:
    """The outputs of the model for examples of a split, on the host.

    split          the examples, in the order of the rows
    outputs        [n, k]
    probabilities  [n, k]; None for numbers
    targets        [n] or [n, k]
    losses         [n]
    threshold      probability from which a label is predicted
    """

    split: DataSplit
    outputs: Tensor
    probabilities: Tensor | None
    targets: Tensor
    losses: Tensor
    threshold: float = 0.5

    def __len__(self) -> int:
        return len(self.outputs)

    @property
    def index(self) -> Index:
        """The number of each example in its source."""
        return self.split.index


def limit_split(split: DataSplit, key: Key, limit: int = MAX_EXAMPLES) -> DataSplit:
    """Return at most `limit` examples of a split of one source, chosen by `key`, in order."""
    index = split.index
    return split if len(index) <= limit else split.select(np.sort(key.permutation(index)[:limit]))


@torch.no_grad()
def compute_split_outputs(subject: Subject, split: DataSplit) -> SplitOutputs:
    """Return the outputs for every example of a split of one source."""
    loaded, task = subject.loaded, subject.loaded.config.task
    outputs, targets, losses = [], [], []
    for batch in split.make_batches(loaded, loaded.config.eval.batch_size):
        values = loaded.compute_batch_outputs(batch).float()
        losses.append(task.compute_losses(values, batch).cpu())
        outputs.append(values.cpu())
        targets.append(batch.targets.cpu())
    joined = torch.cat(outputs)
    probabilities, threshold = subject.compute_probabilities(joined), task.get_threshold(loaded.spec)
    return SplitOutputs(split, joined, probabilities, torch.cat(targets), torch.cat(losses).float(), threshold)


def read_inputs(subject: Subject, split: DataSplit, numbers: Index) -> Batch:
    """Return a batch of the examples `numbers` of the split's source, in this order."""
    loaded = subject.loaded
    order = np.argsort(numbers, kind="stable")
    batches = list(split.select(numbers[order]).make_batches(loaded, max(1, len(numbers))))
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    batch = batches[0]
    rows = torch.from_numpy(back)
    return Batch(
        batch.inputs[rows.to(batch.inputs.device)].contiguous(),
        batch.targets[rows.to(batch.targets.device)],
        batch.index[back],
        batch.position[back],
    )
