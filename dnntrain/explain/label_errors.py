"""Find labels that are probably wrong: the model disagrees with them, and is sure.

Confident learning (Northcutt, Jiang & Chuang, JAIR 2021): the threshold of class j is the mean probability
of j over the examples with the label j. An example is confidently of a class that is above its threshold
and the most probable of such classes. These counts, by label and class and scaled to the number of labels,
say how many labels i should be j: as many examples with the largest difference of the probabilities of j
and i are in doubt. The probabilities must come from a network that did not learn the labels: the folds of
a cross-validation give them for every example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dnntrain.explain.subject import SplitOutputs, Subject, compute_split_outputs
from dnntrain.inference.evaluate_run import load_data_splits
from dnntrain.inference.load import load_run
from dnntrain.utils.files import FOLDS_FILE
from dnntrain.utils.json_files import read_json

#: Candidates that are listed.
MAX_LISTED = 200


class Candidate(NamedTuple):
    """An example whose label is in doubt: numbers of the classes, and the difference of their probabilities."""

    place: int
    label: int
    likely: int
    margin: float


@dataclass(frozen=True)
class LabelErrors:
    """The candidates, the surest first.

    source      where the probabilities come from
    examples    how many labels were judged
    candidates  (name, label, likely class, margin, number of the example)
    """

    source: str
    examples: int
    candidates: list[tuple[str, str, str, float, int]]
    rows: list[int]
    outputs: SplitOutputs

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        keys = ("name", "label", "likely", "margin", "index")
        return {
            "source": self.source,
            "examples": self.examples,
            "count": len(self.candidates),
            "candidates": [dict(zip(keys, item, strict=True)) for item in self.candidates[:MAX_LISTED]],
        }


def find_candidates(probabilities: Tensor, labels: Tensor) -> list[Candidate]:
    """Return the examples whose label is in doubt, by falling margin; probabilities [n, classes], labels [n]."""
    classes, probabilities = probabilities.shape[1], probabilities.double()
    counts = count_confident_joint(probabilities, labels)
    sizes = torch.bincount(labels, minlength=classes)
    expected = counts / counts.sum(1, keepdim=True).clamp_min(1) * sizes[:, None]
    candidates: dict[int, Candidate] = {}
    for label in range(classes):
        rows = (labels == label).nonzero()[:, 0]
        for likely in range(classes):
            number = 0 if likely == label else round(float(expected[label, likely]))
            margins = probabilities[rows, likely] - probabilities[rows, label]
            for place in margins.argsort(descending=True, stable=True)[:number].tolist():
                candidate = Candidate(int(rows[place]), label, likely, float(margins[place]))
                if candidate.margin > 0 and candidate.margin > candidates.get(candidate.place, _NONE).margin:
                    candidates[candidate.place] = candidate
    return sorted(candidates.values(), key=lambda item: (-item.margin, item.place))


_NONE = Candidate(-1, -1, -1, 0.0)


def count_confident_joint(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return how many examples with the label of a row are confidently of the class of a column."""
    classes = probabilities.shape[1]
    thresholds = torch.full((classes,), 2.0, dtype=torch.float64)
    for number in range(classes):
        chosen = labels == number
        if chosen.any():
            thresholds[number] = probabilities[chosen, number].mean()
    confident = torch.where(probabilities >= thresholds, probabilities, torch.zeros_like(probabilities))
    best, likely = confident.max(1)
    pairs = (labels * classes + likely)[best > 0]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes).double()


def judge_labels(outputs: SplitOutputs, names: Sequence[str], source: str) -> LabelErrors:
    """Return the labels in doubt among the examples of one source."""
    assert outputs.probabilities is not None
    candidates = find_candidates(outputs.probabilities, outputs.targets)
    data = outputs.split.parts[0][0]
    listed = [
        (data.describe(number), names[item.label], names[item.likely], round(item.margin, 6), number)
        for item in candidates
        for number in [int(outputs.index[item.place])]
    ]
    return LabelErrors(source, len(outputs), listed, [item.place for item in candidates], outputs)


def find_folds(path: Path) -> list[Path]:
    """Return the runs of the cross-validation that the run `path` is a part of; empty without."""
    folder = path.absolute().parent
    count = read_json(folder / FOLDS_FILE).get("folds") if (folder / FOLDS_FILE).is_file() else None
    if not isinstance(count, int) or not 2 <= count <= 1000:
        return []
    runs = [folder / f"fold-{number}" for number in range(count)]
    return runs if all((run / "config.json").is_file() for run in runs) else []


def cross_fit(runs: Sequence[Path], overrides: Sequence[str], trust: bool, say: Callable[[str], None]) -> SplitOutputs:
    """Return the outputs for every training example, each from the run that held it out."""
    parts = []
    for number, run in enumerate(runs, 1):
        say(f"labels: fold {number} of {len(runs)}")
        subject = Subject(load_run(run, overrides, trust))
        parts.append(compute_split_outputs(subject, load_data_splits(subject.loaded)["test"]))
    index = torch.cat([torch.from_numpy(part.index) for part in parts])
    order = index.argsort()
    joined = [
        torch.cat([values for part in parts if (values := vars(part)[name]) is not None])[order]
        for name in ("outputs", "probabilities", "targets", "losses")
    ]
    split = replace(parts[0].split, name="train").select(index[order].numpy())
    outputs, probabilities, targets, losses = joined
    return SplitOutputs(split, outputs, probabilities, targets, losses)
