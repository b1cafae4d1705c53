"""Hold the model that is explained, and the numbers that explanations refer to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dnntrain.errors import ConfigError
from dnntrain.explain.insertion import Answer
from dnntrain.explain.method import Aim, select_answers
from dnntrain.export.formats import get_format
from dnntrain.inference.evaluate_run import DataSplit
from dnntrain.inference.load import LoadedModel
from dnntrain.protocols import Batch, InputKind, TargetKind, TargetSpec
from dnntrain.utils.rng import Index, Key

#: Examples of a split that are looked at, chosen by a key, and the most numbers of their outputs.
MAX_EXAMPLES = 5000
_MAX_OUTPUTS = 2**26


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
        """The kind of the answer: the token after a text is a class."""
        kind = self.loaded.spec.targets.kind
        return TargetKind.CLASS if kind is TargetKind.TOKENS else kind

    @property
    def is_text(self) -> bool:
        return self.loaded.spec.inputs.kind is InputKind.TOKENS

    @property
    def predicts_tokens(self) -> bool:
        """Whether the answer is the token after the text."""
        return self.loaded.spec.targets.kind is TargetKind.TOKENS

    @property
    def names(self) -> Sequence[str]:
        """The name of each output."""
        vocabulary = self.loaded.spec.inputs.vocabulary
        if not self.predicts_tokens or vocabulary is None:
            return self.loaded.spec.output.names
        return [f'"{show_piece(piece)}"'.replace("\n", "↵") for piece in vocabulary.list_pieces()]

    @property
    def max_examples(self) -> int:
        """The examples of a split that are looked at: fewer if the outputs are many."""
        return max(100, min(MAX_EXAMPLES, _MAX_OUTPUTS // self.loaded.spec.output.size))

    @property
    def is_table(self) -> bool:
        return self.loaded.spec.inputs.kind is InputKind.TABLE

    def check_support(self) -> None:
        """Raise ConfigError if the outputs or the inputs are of a kind that is not supported yet."""
        spec = self.loaded.spec
        if self.is_text and self.target_kind is not TargetKind.NUMBERS:
            if not self.has_gradients:
                raise ConfigError(
                    f"explain needs gradients for a text, and the export {self.loaded.format} gives outputs only",
                    "explain the run, or an export of weights: dnntrain export RUN --format safetensors",
                )
            return
        if len(spec.output.shape) != 1 or spec.inputs.kind not in (InputKind.IMAGES, InputKind.TABLE):
            raise ConfigError(
                "explain does not support this task: it needs one class, labels or numbers for an image or a row, "
                "or the next token or the class of a text, "
                f"and the model gives an output of {'×'.join(map(str, spec.output.shape))} for "
                f"{spec.inputs.kind.value}",
                "evaluate it with: dnntrain eval RUN",
            )

    def compute_probabilities(self, outputs: Tensor) -> Tensor | None:
        """Return probabilities of classes or labels [n, k]; None for numbers."""
        if self.predicts_tokens:
            return outputs.float().softmax(1)
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


def show_piece(piece: bytes) -> str:
    """Return a token as text: a part of a letter as its byte, and a token that begins a text as ⟨start⟩."""
    if not piece:
        return "⟨start⟩"
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return f"⟨{piece.hex(' ')}⟩"


def limit_split(split: DataSplit, key: Key, limit: int = MAX_EXAMPLES) -> DataSplit:
    """Return at most `limit` examples of a split of one source, chosen by `key`, in order."""
    index = split.index
    return split if len(index) <= limit else split.select(np.sort(key.permutation(index)[:limit]))


@torch.no_grad()
def compute_split_outputs(subject: Subject, split: DataSplit, explained: Subject | None = None) -> SplitOutputs:
    """Return the outputs for every example of a split of one source.

    With `explained`, whose data the split has, `subject` is the model that it is compared with: numbers
    are then standardized, and judged by a loss, as those of `explained`.
    """
    loaded, task = subject.loaded, subject.loaded.config.task
    is_compared = explained is not None and subject.target_kind is TargetKind.NUMBERS
    if explained is not None and is_compared:
        task = explained.loaded.config.task
    outputs, targets, losses = [], [], []
    for batch in split.make_batches(loaded, loaded.config.eval.batch_size):
        values, labels = loaded.compute_batch_outputs(batch).float(), batch.targets
        if explained is not None and is_compared:
            values = _standardize_again(values, loaded.spec.targets, explained.loaded.spec.targets)
        if subject.predicts_tokens:
            values, labels = select_answers(values), labels[:, -1]
            losses.append(nn.functional.cross_entropy(values, labels, reduction="none").cpu())
        else:
            losses.append(task.compute_losses(values, batch).cpu())
        outputs.append(values.cpu())
        targets.append(labels.cpu())
    joined = torch.cat(outputs)
    probabilities, threshold = subject.compute_probabilities(joined), task.get_threshold(loaded.spec)
    return SplitOutputs(split, joined, probabilities, torch.cat(targets), torch.cat(losses).float(), threshold)


def _standardize_again(values: Tensor, source: TargetSpec, target: TargetSpec) -> Tensor:
    """Return numbers [n, targets] that are standardized as `source` in the standardization of `target`."""
    means, stds = (
        [torch.tensor(numbers, device=values.device, dtype=torch.float64) for numbers in pair]
        for pair in ((source.mean, target.mean), (source.std, target.std))
    )
    return ((values.double() * stds[0] + means[0] - means[1]) / stds[1]).float()


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
