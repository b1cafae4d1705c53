"""Labels in doubt: a mislabeled tenth is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dnntrain.cli.main import main
from dnntrain.explain.label_errors import find_candidates, find_folds
from tests.support.short_runs import result


def test_a_sure_disagreement_is_a_candidate_and_an_unsure_one_is_not() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.05, 0.95], [0.1, 0.9], [0.45, 0.55], [0.99, 0.01]])
    labels = torch.tensor([0, 0, 1, 1, 0, 1])
    found = find_candidates(probabilities, labels)
    assert [(item.place, item.label, item.likely) for item in found] == [(5, 1, 0)]
    assert found[0].margin == pytest.approx(0.98)


def test_a_class_without_examples_is_never_likely() -> None:
    probabilities = torch.tensor([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1]])
    assert find_candidates(probabilities, torch.tensor([1, 0])) == []


def test_a_mislabeled_tenth_of_separable_classes_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 5, (1000,), generator=generator)
    logits = 4 * torch.nn.functional.one_hot(truth, 5) + torch.randn(1000, 5, generator=generator)
    labels = truth.clone()
    labels[:100] = (truth[:100] + 1) % 5
    found = {item.place for item in find_candidates(logits.softmax(1), labels)}
    assert len(found & set(range(100))) >= 90
    assert len(found - set(range(100))) <= 20


def test_a_run_that_is_not_a_fold_has_no_folds(tmp_path: Path) -> None:
    assert find_folds(tmp_path / "run") == []
    (tmp_path / "folds.json").write_text('{"folds": 3}')
    assert find_folds(tmp_path / "fold-0") == []


@pytest.mark.slow
def test_a_mislabeled_tenth_of_the_digits_is_found_by_the_folds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    from dnntrain.choices.data.digits import Digits

    source = Digits().build().train
    wrong = set()
    for number in range(540):
        label = int(source.labels[number])
        part = "train" if number < 500 else "test"
        if number % 10 == 0 and part == "train":
            label = (label + 1 + number // 10 % 9) % 10
            wrong.add(f"{number:03}")
        folder = tmp_path / "data" / part / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(source.read(number)[0])).save(folder / f"{number:03}.png")
    words = (
        "data=image_folder",
        f"data.root={tmp_path / 'data'}",
        "data.image_size=8",
        "folds=3",
        "train.duration=12ep",
    )
    run = tmp_path / "folds"
    assert main([*words, "optim.lr=4e-3", "log.report=false", f"run_dir={run}", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["eval", str(run / "fold-0"), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["accuracy"] == pytest.approx(result(run / "fold-0")["test_accuracy"])
    assert main(["explain", str(run / "fold-0"), "--count", "1", "--json"]) == 0
    labels = json.loads(capsys.readouterr().out)["labels"]
    assert labels["examples"] == 500
    assert "3 folds" in labels["source"]
    found = {Path(item["name"]).stem for item in labels["candidates"]}
    assert len(found & wrong) >= 40
    assert len(found - wrong) <= 25
