"""Hold the parts of an explanation; each is None if it does not apply to the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnntrain.explain.blame import Blame
from dnntrain.explain.calibration import Calibration
from dnntrain.explain.comparison import Comparison, OtherMaps
from dnntrain.explain.directions import LossDirections
from dnntrain.explain.embedding import Embedding
from dnntrain.explain.label_errors import LabelErrors
from dnntrain.explain.layers import LayerFacts, find_layer_faults
from dnntrain.explain.maps import CheckedMaps
from dnntrain.explain.permutation import Importance
from dnntrain.explain.pointing import PointingGame
from dnntrain.explain.subject import SplitOutputs, Subject, show_piece
from dnntrain.explain.token_gradients import TokenGradients
from dnntrain.inference.evaluate_run import DataSplit
from dnntrain.protocols import TargetKind
from dnntrain.report.format import format_percent, format_short
from dnntrain.utils.units import pluralize


@dataclass
class Explanation:
    """Everything that a page and explain.json show.

    path   the run or the export
    facts  a description of the model
    notes  parts that were left out, with the reason
    """

    path: Path
    name: str
    subject: Subject
    split: str
    facts: list[str]
    notes: list[str] = field(default_factory=list)
    outputs: SplitOutputs = field(init=False)
    maps: CheckedMaps | None = None
    others: OtherMaps | None = None
    pointing: PointingGame | None = None
    importance: list[Importance] = field(default_factory=list)
    calibration: Calibration | None = None
    labels: LabelErrors | None = None
    layers: list[LayerFacts] = field(default_factory=list)
    blame_together: Blame | None = None
    blame: list[Blame] = field(default_factory=list)
    integer_similarity: dict[str, float] = field(default_factory=dict)
    comparison: Comparison | None = None
    directions: LossDirections | None = None
    embedding: Embedding | None = None
    training: DataSplit | None = None
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the content of explain.json."""
        parts = {
            "maps": self.maps,
            "other_maps": self.others,
            "pointing_game": self.pointing,
            "calibration": self.calibration,
            "labels": self.labels,
            "blame_of_all": self.blame_together,
            "comparison": self.comparison,
            "directions": self.directions,
            "embedding": self.embedding,
        }
        faults = find_layer_faults(self.layers)
        return {
            "path": str(self.path),
            "split": self.split,
            "examples": len(self.outputs),
            "notes": self.notes,
            **{name: None if part is None else part.as_json() for name, part in parts.items()},
            "importance": [item.as_json() for item in self.importance],
            "layers": [{**vars(layer), "faults": faults[layer.name]} for layer in self.layers],
            "blame": [item.as_json() for item in self.blame],
            "integer_cka": self.integer_similarity,
            "shown": self.list_shown(),
        }

    def list_shown(self) -> list[dict[str, Any]]:
        """Return each shown example: its answer, and the measurements of its map."""
        if self.maps is None:
            return []
        rows = []
        for row, example in enumerate(self.maps.examples):
            faults = self.maps.find_faults(row)
            rows.append(
                {
                    "name": example.name,
                    "set": example.group,
                    **self.describe_answer(row),
                    "trusted": not faults,
                    "faults": faults,
                    **self.maps.shown.measured.describe_row(row),
                    **({"tokens": self.list_tokens(row)} if self.subject.is_text else {}),
                }
            )
        return rows

    def list_tokens(self, row: int) -> list[tuple[str, float]]:
        """Return the tokens that the answer for a shown text sees, with the share of each."""
        vocabulary = self.subject.loaded.spec.inputs.vocabulary
        assert self.maps is not None
        assert vocabulary is not None
        assert isinstance(self.maps.method, TokenGradients)
        shown, pieces = self.maps.shown, vocabulary.list_pieces()
        visible = self.maps.method.find_visible(shown.inputs[row : row + 1])[0]
        tokens, shares = shown.inputs[row][visible].tolist(), shown.maps[row, 0][visible].tolist()
        return [(show_piece(pieces[token]), round(share, 6)) for token, share in zip(tokens, shares, strict=True)]

    def describe_answer(self, row: int) -> dict[str, Any]:
        """Return the label and the answer for a shown example, as plain values."""
        assert self.maps is not None
        shown, spec, target = self.maps.shown, self.subject.loaded.spec, self.maps.examples[row].target
        place = int(shown.aim.outputs[row])
        names = self.subject.names
        answer: dict[str, Any] = {"explained": names[place]}
        probabilities = self.subject.compute_probabilities(shown.outputs[row : row + 1].cpu())
        if probabilities is not None:
            answer["probability"] = round(float(probabilities[0, place]), 6)
        else:
            scale = spec.targets
            answer["value"] = float(shown.outputs[row, place]) * scale.std[place] + scale.mean[place]
        if target is None:
            return answer
        if self.subject.target_kind is TargetKind.CLASS:
            answer["label"] = names[int(target)]
        elif spec.targets.kind is TargetKind.LABELS:
            answer["label"] = [names[number] for number in (target > 0.5).nonzero()[:, 0].tolist()]
        else:
            answer["label"] = float(target[place]) * spec.targets.std[place] + spec.targets.mean[place]
        return answer

    def list_cards(self) -> list[tuple[str, str, str]]:
        """Return the main figures: (label, value, note)."""
        cards = []
        outputs, kind = self.outputs, self.subject.target_kind
        if kind is TargetKind.CLASS:
            accuracy = float((outputs.outputs.argmax(1) == outputs.targets).double().mean())
            note = f"{outputs.split.name}, {pluralize(len(outputs), 'example')}"
            cards.append(("Accuracy", format_percent(accuracy), note))
        else:
            cards.append(("Loss", format_short(float(outputs.losses.mean())), outputs.split.name))
        if self.maps is not None:
            trusted = sum(not self.maps.find_faults(row) for row in range(len(self.maps.examples)))
            cards.append(("Maps", self.maps.method.name, f"{trusted} of {len(self.maps.examples)} pass their checks"))
        if self.calibration is not None:
            after = self.calibration.after
            note = (
                ""
                if after is None
                else f"{format_percent(after.ece)} at temperature {self.calibration.temperature:.3g}"
            )
            cards.append(("ECE", format_percent(self.calibration.before.ece), note))
        return cards
