"""task=segmentation: losses of pixels, metrics as sums over pixels, and pixels that do not count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from dnntrain.choices.task.segmentation import Segmentation
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import ConfigError
from dnntrain.planning.checks.combinations import check_inputs, find_refusals
from dnntrain.protocols import Batch, InputSpec, ModelSpec, Predictions, TargetKind, TargetSpec
from dnntrain.utils.hardware import Hardware

INPUTS = InputSpec((1, 4, 6), (0.5,), (0.5,))
TARGETS = TargetSpec(("sky", "tree", "road"), TargetKind.MASK)
SPEC: ModelSpec = Segmentation().make_spec(INPUTS, TARGETS)


def make_batch(count: int = 5, ignored: bool = True) -> tuple[torch.Tensor, Batch]:
    """Random logits [n, 3, 4, 6] and a batch of masks, some of whose pixels do not count."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 3, (count, 4, 6), generator=generator)
    if ignored:
        targets[torch.rand(targets.shape, generator=generator) < 0.2] = 255
        targets[0] = 255
    logits = torch.randn(count, 3, 4, 6, generator=generator) + 2 * functional.one_hot(targets % 3, 3).permute(
        0, 3, 1, 2
    )
    index = np.arange(count)
    return logits, Batch(torch.zeros(count, 1, 4, 6), targets, index, index)


def test_the_output_is_a_map_of_the_classes() -> None:
    assert SPEC.output.shape == (3, 4, 6)
    with pytest.raises(ConfigError, match="task=segmentation needs one class for each pixel"):
        Segmentation().make_spec(INPUTS, TargetSpec(("a", "b")))
    with pytest.raises(ConfigError, match="0 to 2"):
        Segmentation(ignore_index=3).make_spec(INPUTS, TARGETS)


def test_the_cross_entropy_is_the_mean_over_pixels_that_count() -> None:
    logits, batch = make_batch()
    task = Segmentation()
    mean = task.loss_sum(logits, batch) / task.count_targets(batch, SPEC)
    assert float(mean) == pytest.approx(
        float(functional.cross_entropy(logits, batch.targets, ignore_index=255)), rel=1e-6
    )
    assert int(task.count_targets(batch, SPEC)) == int((batch.targets < 255).sum())


def test_a_class_that_is_ignored_counts_as_255() -> None:
    logits, batch = make_batch()
    masked = Batch(batch.inputs, batch.targets.masked_fill(batch.targets == 1, 255), batch.index, batch.position)
    task, plain = Segmentation(ignore_index=1), Segmentation()
    assert torch.equal(task.compute_losses(logits, batch), plain.compute_losses(logits, masked))
    assert (
        task.list_metrics(SPEC)[0].sums(logits, batch).tolist()
        == plain.list_metrics(SPEC)[0].sums(logits, masked).tolist()
    )


def test_the_dice_loss_is_its_formula() -> None:
    logits, batch = make_batch(ignored=False)
    truth, share = functional.one_hot(batch.targets, 3).permute(0, 3, 1, 2).double(), logits.double().softmax(1)
    dice = (2 * (truth * share).sum((2, 3)) + 1) / (truth.sum((2, 3)) + share.sum((2, 3)) + 1)
    losses = Segmentation(loss="dice").compute_losses(logits, batch)
    assert losses.tolist() == pytest.approx((24 * (1 - dice.mean(1))).tolist(), rel=1e-5)
    both = Segmentation(loss="cross_entropy_dice").compute_losses(logits, batch)
    assert torch.allclose(both, losses + Segmentation().compute_losses(logits, batch))


def test_perfect_logits_have_no_dice_loss_where_nothing_counts() -> None:
    logits, batch = make_batch()
    assert float(Segmentation(loss="dice").compute_losses(logits, batch)[0]) == 0
    exact = 40 * functional.one_hot(batch.targets % 3, 3).permute(0, 3, 1, 2).float()
    _, plain = make_batch(ignored=False)
    exact = 40 * functional.one_hot(plain.targets, 3).permute(0, 3, 1, 2).float()
    assert Segmentation(loss="dice").compute_losses(exact, plain).abs().max() < 1e-3


def test_metrics_are_those_of_scikit_learn_from_sums_of_parts() -> None:
    from sklearn.metrics import accuracy_score, jaccard_score

    logits, batch = make_batch(12)
    metrics = {metric.name: metric for metric in Segmentation().list_metrics(SPEC)}
    parts = [
        metrics["miou"].sums(
            logits[rows], Batch(batch.inputs[rows], batch.targets[rows], batch.index[rows], batch.index[rows])
        )
        for rows in (slice(0, 5), slice(5, 12))
    ]
    total = (parts[0] + parts[1]).tolist()
    is_valid = batch.targets < 255
    truth, found = batch.targets[is_valid].numpy(), logits.argmax(1)[is_valid].numpy()
    assert metrics["miou"].value(total) == pytest.approx(jaccard_score(truth, found, average="macro"))
    assert metrics["pixel_accuracy"].value(total) == pytest.approx(accuracy_score(truth, found))


def test_a_class_that_neither_masks_nor_predictions_have_is_left_out_of_the_mean() -> None:
    targets = torch.zeros(1, 4, 6, dtype=torch.int64)
    batch = Batch(torch.zeros(1, 1, 4, 6), targets, np.arange(1), np.arange(1))
    logits = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 6)
    miou, accuracy = Segmentation().list_metrics(SPEC)
    assert miou.value(miou.sums(logits, batch).tolist()) == 1.0
    assert math.isnan(miou.value([0.0] * 9))
    assert math.isnan(accuracy.value([0.0] * 9))


def test_the_summary_has_the_figures_and_the_worst_examples() -> None:
    logits, batch = make_batch()
    task = Segmentation()
    values = task.predict_batch(logits, batch)
    summary = task.summarize(Predictions(values, batch.targets, torch.arange(5)), SPEC, 2, lambda n: {"name": str(n)})
    metrics = {metric.name: metric.value(metric.sums(logits, batch).tolist()) for metric in task.list_metrics(SPEC)}
    assert {name: summary[name] for name in metrics} == metrics
    mean = float(task.loss_sum(logits, batch) / task.count_targets(batch, SPEC))
    assert summary["loss"] == pytest.approx(mean, rel=1e-6)
    assert len(summary["overlays"]) == 2
    assert set(summary["overlays"][0]) == {"name", "pixel_accuracy", "truth", "predicted"}
    assert summary["pixels_by_class"]["iou"][0] == pytest.approx(summary["miou"], abs=0.5)


def test_predictions_are_shares_of_pixels() -> None:
    logits, _ = make_batch()
    rows = list(Segmentation().format_predictions(logits, SPEC, 1))
    assert list(rows[0]) == ["sky", "tree", "road"]
    assert sum(rows[0].values()) == pytest.approx(1, abs=1e-5)


def test_outputs_agree_if_nearly_all_pixels_have_the_same_class() -> None:
    logits, _ = make_batch()
    other = logits.clone()
    other[1, :, 0, 0] = -other[1, :, 0, 0]
    assert Segmentation().agrees(other, logits).tolist() == [True, False, True, True, True]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["task=segmentation", "model=small_cnn"], "task=segmentation needs outputs for each pixel"),
        (["task=classification", "model=unet"], "task=classification needs one row of outputs for each example"),
    ],
)
def test_a_model_with_outputs_of_another_form_is_refused(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_inputs(decode_config(compose([*words, "data=scenes", "data.pictures=digits"])))


def test_mixup_is_refused_and_cutmix_is_not() -> None:
    words = ["task=segmentation", "model=unet", "data=scenes", "data.pictures=digits"]
    reasons = [
        [
            refusal.reason
            for refusal in find_refusals(decode_config(compose([*words, f"augment=[{name}]"])), Hardware(), 1)
        ]
        for name in ("mixup", "cutmix")
    ]
    assert any("targets that can be mixed" in reason for reason in reasons[0])
    assert reasons[1] == []
