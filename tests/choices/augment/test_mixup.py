"""Mixup and CutMix: the papers' formulas, partners that no layout changes, and one of them for each example where both are chosen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from stand_ins import class_spec

from dnntrain.choices.augment._mixing import join_mixers
from dnntrain.choices.augment._pairs import draw_symmetric_beta, find_partners
from dnntrain.choices.augment.cutmix import Cutmix, draw_mixing_boxes
from dnntrain.choices.augment.mixup import Mixup
from dnntrain.input.sampler import BatchSchedule
from dnntrain.protocols import Batch, BatchStage, BatchTransform, BuildContext
from dnntrain.utils.rng import Index, Key
from dnntrain.utils.world import World

KEY = Key(3, "", 2)


def context_of(batch_size: int = 24, block: int = 8) -> BuildContext:
    return BuildContext(0, class_spec(5, (3, 6, 4)), 10, 100, batch_size, 0.1, pair_block=block)


def batch_at(position: Index) -> Batch:
    """Examples whose pixels and label follow from their position."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(200, 3, 6, 4, generator=generator)[position]
    return Batch(images, torch.from_numpy(position % 5), position + 1000, position, 2)


def transform(*methods: Mixup | Cutmix, context: BuildContext | None = None) -> BatchTransform:
    parts = [method.build(context or context_of()).batch_transforms[0] for method in methods]
    (joined,) = join_mixers(parts)
    return joined


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    share = draw_symmetric_beta(alpha, Key(0, "beta"), np.arange(20000))
    torch.manual_seed(0)
    reference = torch.distributions.Beta(alpha, alpha).sample((20000,)).sort().values.numpy()
    assert np.abs(np.sort(share) - reference).max() < 0.03
    assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)


def test_partners_are_another_example_of_the_same_block() -> None:
    position = np.arange(48, 48 + 24 + 13)  # a whole step of 24 and a last one of 13: blocks of 8, 8, 8 and 8, 5
    partner = find_partners(position, 24, 8, KEY)
    assert sorted(partner) == list(range(len(position)))
    assert (partner != np.arange(len(position))).all()
    block = (position - 48) // 24 * 10 + (position - 48) % 24 // 8
    assert (block[partner] == block).all()


def test_an_example_alone_in_its_block_keeps_to_itself_and_none_is_no_error() -> None:
    assert find_partners(np.array([24]), 24, 8, KEY).tolist() == [0]
    assert find_partners(np.array([], np.int64), 24, 8, KEY).tolist() == []


def test_mixup_is_the_papers_convex_combination_of_images_and_of_onehot_targets() -> None:
    position = np.arange(24)
    before, after = batch_at(position), transform(Mixup(alpha=1.0)).apply(batch_at(position), KEY)
    partner = find_partners(position, 24, 8, KEY.with_stream("pairs"))
    onehot = torch.eye(5)[before.targets]
    for row in position:
        # The share is read off one pixel; every other pixel and the target must have the same one.
        own, other = before.inputs[row], before.inputs[partner[row]]
        share = ((after.inputs[row] - other) / (own - other)).flatten()[0]
        assert 0 <= share <= 1
        torch.testing.assert_close(after.inputs[row], share * own + (1 - share) * other, atol=1e-5, rtol=0)
        expected = share * onehot[row] + (1 - share) * onehot[partner[row]]
        torch.testing.assert_close(after.targets[row], expected, atol=1e-5, rtol=0)


def test_probability_is_the_share_of_the_examples_that_are_mixed() -> None:
    position = np.arange(24)
    for method in (Mixup(probability=0.0), Cutmix(probability=0.0)):
        after = transform(method).apply(batch_at(position), KEY)
        assert torch.equal(after.inputs, batch_at(position).inputs)
        assert torch.equal(after.targets, torch.eye(5)[batch_at(position).targets])


def test_cutmix_boxes_are_those_of_the_authors_code() -> None:
    position, height, width = np.arange(3000), 32, 24
    key = Key(1, "boxes")
    boxes = draw_mixing_boxes(position, key, 1.0, 1.0, height, width)
    share = draw_symmetric_beta(1.0, key, position)
    centre_x, centre_y = key.integers(position, width, 4), key.integers(position, height, 3)
    for row in range(50):
        # rand_bbox of github.com/clovaai/CutMix-PyTorch, train.py
        ratio = np.sqrt(1.0 - share[row])
        cut_w, cut_h = int(width * ratio), int(height * ratio)
        x1, y1 = np.clip(centre_x[row] - cut_w // 2, 0, width), np.clip(centre_y[row] - cut_h // 2, 0, height)
        x2, y2 = np.clip(centre_x[row] + cut_w // 2, 0, width), np.clip(centre_y[row] + cut_h // 2, 0, height)
        assert boxes[row].tolist() == [y1, x1, y2 - y1, x2 - x1]


def test_cutmix_targets_are_the_areas_that_are_seen() -> None:
    position = np.arange(24)
    before, after = batch_at(position), transform(Cutmix(probability=1.0)).apply(batch_at(position), KEY)
    partner = find_partners(position, 24, 8, KEY.with_stream("pairs"))
    onehot = torch.eye(5)[before.targets]
    for row in position:
        own = (after.inputs[row] == before.inputs[row]).all(0)
        pasted = (after.inputs[row] == before.inputs[partner[row]]).all(0)
        assert (own | pasted).all()
        share = own.float().mean()
        torch.testing.assert_close(after.targets[row], share * onehot[row] + (1 - share) * onehot[partner[row]])


@pytest.mark.parametrize("methods", [(Mixup(),), (Cutmix(),), (Mixup(), Cutmix())])
@pytest.mark.parametrize(
    ("batch_size", "micro", "ranks"), [(24, 8, 1), (24, 24, 2), (24, 11, 3), (20, 20, 2), (20, 9, 1)]
)
def test_any_cut_of_a_step_into_ranks_and_micro_batches_mixes_the_same(
    methods: tuple[Mixup | Cutmix, ...], batch_size: int, micro: int, ranks: int
) -> None:
    mix = transform(*methods, context=context_of(batch_size))
    examples = 2 * batch_size + 4  # a short last step, which some rank has no part of

    def cuts(micro: int, ranks: int) -> list[Batch]:
        parts = [
            BatchSchedule(np.arange(examples), 0, batch_size, micro, World(rank, ranks), 8) for rank in range(ranks)
        ]
        ranges = [piece for step in range(3) for part in parts for piece in part.get_step_ranges(step)]
        return [mix.apply(batch_at(np.arange(*piece)), KEY) for piece in ranges]

    whole, parts = cuts(batch_size, 1), cuts(micro, ranks)
    torch.testing.assert_close(torch.cat([b.inputs for b in parts]), torch.cat([b.inputs for b in whole]))
    torch.testing.assert_close(torch.cat([b.targets for b in parts]), torch.cat([b.targets for b in whole]))


def test_of_two_mixers_each_example_gets_one_about_as_often_as_the_other() -> None:
    position = np.arange(192)
    context = context_of(192)
    mixup, cutmix = Mixup(alpha=1.0), Cutmix(probability=1.0)
    both = transform(mixup, cutmix, context=context).apply(batch_at(position), KEY)
    one, other = (transform(method, context=context).apply(batch_at(position), KEY) for method in (mixup, cutmix))
    by_mixup = (both.inputs == one.inputs).flatten(1).all(1)
    by_cutmix = (both.inputs == other.inputs).flatten(1).all(1)
    assert (by_mixup | by_cutmix).all()
    assert 60 < int(by_mixup.sum()) < 132
    assert torch.equal(both.targets[by_cutmix], other.targets[by_cutmix])


def test_other_stages_keep_their_order_around_the_joined_mixers() -> None:
    def nothing(batch: Batch, key: Key) -> Batch:
        return batch

    items = [BatchTransform(BatchStage.AUGMENT, nothing), *Mixup().build(context_of()).batch_transforms]
    items += [*Cutmix().build(context_of()).batch_transforms, BatchTransform(BatchStage.TARGET, nothing)]
    assert [item.stage for item in join_mixers(items)] == [BatchStage.AUGMENT, BatchStage.MIX, BatchStage.TARGET]


@pytest.mark.parametrize("method", [Mixup(), Cutmix()])
def test_soft_targets_are_taken_and_memory_format_and_given_tensors_stay(method: Mixup | Cutmix) -> None:
    batch = batch_at(np.arange(24))
    batch.inputs = batch.inputs.to(memory_format=torch.channels_last)
    given = replace(batch, targets=torch.eye(5)[batch.targets])
    kept = given.inputs.clone(), given.targets.clone()
    after = transform(method).apply(replace(given), KEY)
    assert after.inputs.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(after.targets, transform(method).apply(batch, KEY).targets)
    assert torch.equal(given.inputs, kept[0])
    assert torch.equal(given.targets, kept[1])
