"""Which channels belong together, found from one traced pass; and that no cut differs from the masked network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dnntrain.nn.table_encoder import TableEncoder
from dnntrain.protocols import Column, ColumnKind
from dnntrain.pruning.cut import make_cut
from dnntrain.pruning.labels import factor_reshape
from dnntrain.pruning.trace import Group, find_groups
from dnntrain.pruning.verify import find_safe_groups, make_random_copy, measure_difference
from dnntrain.pruning.widths import Widths
from tests.pruning.random_networks import make_random_network

IMAGE = torch.zeros(1, 3, 8, 8)


def layers(group: Group) -> set[str]:
    """The weights whose outputs a group removes."""
    return {name for name, axis in group.axes if axis == 0 and name.endswith("weight")}


def check_exact(model: nn.Module, groups: tuple[Group, ...], image: Tensor = IMAGE) -> None:
    removed = {number: list(range(0, len(group) - 1, 2)) for number, group in enumerate(groups)}
    cut = make_cut(model, removed, groups, Widths())
    images = torch.randn(2, *image.shape[1:], generator=torch.Generator().manual_seed(1))
    assert measure_difference(make_random_copy(model), cut, images) < 1e-5


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, 1, 1), nn.Conv2d(12, 8, 3, 1, 1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images).relu()
        features = features + self.norm(self.two(self.one(features).relu()))
        return self.head(features.mean((2, 3)))


def test_a_residual_sum_couples_the_layers_that_it_joins() -> None:
    model = Residual()
    groups = find_groups(model, IMAGE).groups
    assert [layers(group) for group in groups] == [{"stem.weight", "two.weight", "norm.weight"}, {"one.weight"}]
    assert [len(group) for group in groups] == [8, 12]
    check_exact(model, groups)


def test_outputs_of_the_network_stay() -> None:
    assert find_groups(Residual(), IMAGE).frozen == {"head": "they are the outputs of the network"}


@pytest.mark.parametrize("kinds", [2, 9])  # embeddings of width 1, and of width 5
def test_the_hidden_layers_of_a_table_are_cut_and_its_embeddings_stay(kinds: int) -> None:
    columns = [Column("size", ColumnKind.NUMBER), Column("kind", ColumnKind.CATEGORY, tuple(map(str, range(kinds))))]
    model = nn.Sequential(TableEncoder(columns), nn.Linear(TableEncoder(columns).width, 8), nn.ReLU(), nn.Linear(8, 1))
    groups = find_groups(model, torch.zeros(1, 2)).groups
    assert [layers(group) for group in groups if len(group) == 8] == [{"1.weight"}]
    check_exact(model, groups, torch.zeros(1, 2))


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.next(self.conv(images).cumsum(1)).mean((2, 3)))


def test_an_unknown_operator_freezes_its_channels_with_a_reason() -> None:
    coupling = find_groups(Unknown(), IMAGE)
    assert [layers(group) for group in coupling.groups] == [{"next.weight"}]
    assert coupling.frozen["conv"] == "the operator cumsum is not known to pruning"
    assert coupling.unknown == {"cumsum": 1}


class FixedSizes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        features = features.reshape(len(images), 8, 36).reshape(len(images), 8, 6, 6)
        return self.head(self.next(features).mean((2, 3)))


def test_a_forward_method_with_sizes_of_its_own_is_found_by_trying() -> None:
    coupling = find_safe_groups(FixedSizes(), IMAGE)
    assert [layers(group) for group in coupling.groups] == [{"next.weight"}]
    assert "does not follow" in coupling.frozen["conv"] or "do not follow" in coupling.frozen["conv"]


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, 4)
        self.norm, self.attention = nn.LayerNorm(12), nn.MultiheadAttention(12, 3, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.embed(images).flatten(2).transpose(1, 2))
        return self.head((tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0])[:, 0])


def test_heads_of_attention_are_removed_whole() -> None:
    model = Heads()
    (group,) = find_groups(model, IMAGE).groups
    assert len(group) == 3
    assert dict(zip(group.axes, map(len, group.units[0]), strict=True))["attention.in_proj_weight", 0] == 12
    check_exact(model, (group,))


def test_depthwise_and_grouped_convolutions_keep_their_groups() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 12, 1, groups=2),
        nn.Conv2d(12, 4, 1),
        nn.Flatten(),
        nn.Linear(64, 2),
    )
    groups = find_groups(model, IMAGE).groups
    assert [len(group) for group in groups] == [4, 6, 4]
    check_exact(model, groups)


def test_a_norm_over_the_channels_keeps_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.Conv2d(8, 4, 3), nn.GroupNorm(1, 4), nn.Flatten())
    coupling = find_groups(model, IMAGE)
    assert [len(group) for group in coupling.groups] == [4]
    check_exact(model, coupling.groups)


@pytest.mark.parametrize(
    ("old", "new", "runs"),
    [
        ((2, 12), (2, 3, 4), [([0], [0]), ([1], [1, 2])]),
        ((2, 3, 4), (6, 4), [([0, 1], [0]), ([2], [1])]),
        ((2, 8, 1, 1), (2, 8), [([0], [0]), ([1], [1]), ([2], []), ([3], [])]),
    ],
)
def test_a_reshape_is_factored_into_runs_of_axes(
    old: tuple[int, ...], new: tuple[int, ...], runs: list[tuple[list[int], list[int]]]
) -> None:
    assert factor_reshape(old, new) == runs


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_random_network_is_never_cut_wrongly(seed: int) -> None:
    check_random_network(seed)


@pytest.mark.slow
@pytest.mark.long
def test_two_hundred_random_networks_are_never_cut_wrongly() -> None:
    for seed in range(8, 208):
        check_random_network(seed)


def check_random_network(seed: int) -> None:
    model = make_random_network(seed)
    # Without the trial of each cut: the rules alone must be right.
    groups = find_groups(model, IMAGE).groups
    check_exact(model, groups)
