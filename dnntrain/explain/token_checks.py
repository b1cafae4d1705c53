"""Check the shares of tokens, as maps of images are checked.

Insertion uncovers the tokens of a text of mean embeddings, the one with the largest share first;
deletion covers them in this order. The orders to beat are random ones. An order from the end of the
text, which is hard to beat if the next token is predicted, is shown beside them.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dnntrain.explain.insertion import RANDOM_MAPS, STEPS, CurveSet, compute_area, make_random_maps
from dnntrain.explain.map_checks import MapMeasurements
from dnntrain.explain.method import Aim, select_answers
from dnntrain.explain.randomization import Randomization, randomize_in_stages
from dnntrain.explain.stability import DRAWS, NOISE, draw_noise
from dnntrain.explain.statistics import compute_entropy, correlate_ranks
from dnntrain.explain.subject import Subject
from dnntrain.explain.token_gradients import TokenGradients, replace_output
from dnntrain.utils.rng import Key

_BATCH = 32


def measure_tokens(
    subject: Subject, method: TokenGradients, inputs: Tensor, maps: Tensor, aim: Aim, key: Key, first: int
) -> MapMeasurements:
    """Measure the maps [n, 1, length] of texts int64 [n, length], which are numbered from `first` on."""
    shares = maps[:, 0]
    return MapMeasurements(
        measure_token_curves(subject, method, inputs, shares, aim, key.with_stream("explain.random"), first),
        _measure_stability(method, subject.model, inputs, shares, aim, key.with_stream("explain.noise"), first),
        _measure_randomization(method, subject.model, inputs, shares, aim, key.with_stream("explain.weights")),
    )


def measure_token_curves(
    subject: Subject, method: TokenGradients, inputs: Tensor, shares: Tensor, aim: Aim, key: Key, first: int = 0
) -> CurveSet:
    """Return the curves of shares [n, length] over the tokens that the answer sees."""
    n, length = inputs.shape
    orders = {"map": [shares], "end": [torch.arange(length, device=shares.device).float().expand(n, -1)]}
    orders["random"] = [
        make_random_maps(n, method.grid, 1, length, key.with_epoch(number), first)[:, 0].to(shares)
        for number in range(RANDOM_MAPS)
    ]
    curves: dict[str, dict[str, Tensor]] = {"insertion": {}, "deletion": {}}
    areas: dict[str, Tensor] = {}
    for kind, is_deletion in (("insertion", False), ("deletion", True)):
        for order, choices in orders.items():
            measured = torch.stack(
                [_measure_order(subject, method, inputs, choice, aim, is_deletion) for choice in choices]
            )
            curves[kind][order] = measured.mean(0)
            if order == "random":
                areas[kind] = torch.stack([compute_area(curve) for curve in measured], 1)
    return CurveSet(curves["insertion"], curves["deletion"], areas)


@torch.no_grad()
def _measure_order(
    subject: Subject, method: TokenGradients, inputs: Tensor, values: Tensor, aim: Aim, is_deletion: bool
) -> Tensor:
    """Return the curves [n, steps + 1] of one order: the probability of the explained answer."""
    visible = method.find_visible(inputs)
    place = values.masked_fill(~visible, -torch.inf).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    counts = visible.sum(1, keepdim=True)
    kept = torch.stack(
        [(place < (counts * step / STEPS).round()) != is_deletion for step in range(STEPS + 1)], 1
    ).flatten(0, 1)
    rows = torch.arange(len(inputs), device=inputs.device).repeat_interleave(STEPS + 1)
    shares = []
    for part, number in zip(torch.split(kept, _BATCH), torch.split(rows, _BATCH), strict=True):
        tokens = inputs[number]
        with replace_output(subject.model, method.layer, method.cover(subject.model, tokens, part)):
            outputs = select_answers(subject.loaded.compute_outputs(tokens))
        probabilities = subject.compute_probabilities(outputs)
        assert probabilities is not None
        shares.append(probabilities.gather(1, aim.outputs[number][:, None])[:, 0])
    return torch.cat(shares).view(len(inputs), STEPS + 1).double().cpu()


def _measure_stability(
    method: TokenGradients, model: nn.Module, inputs: Tensor, shares: Tensor, aim: Aim, key: Key, first: int
) -> Tensor:
    """Return the mean rank correlation [n] with the shares if the embeddings are noisy."""
    visible = method.find_visible(inputs)
    shape = method.embed(model, inputs)[1].shape
    correlations = []
    for draw in range(DRAWS):
        noise = NOISE * draw_noise(shape, key.with_epoch(draw), first)
        correlations.append(correlate_visible(shares, method.compute_shares(model, inputs, aim, noise)[:, 0], visible))
    return torch.stack(correlations).mean(0).cpu()


def _measure_randomization(
    method: TokenGradients, model: nn.Module, inputs: Tensor, shares: Tensor, aim: Aim, key: Key
) -> Randomization:
    """Return how the shares change while the layers of a copy are randomized, from the last one on."""
    visible = method.find_visible(inputs)
    correlations, entropies, layers = [], [_compute_entropies(shares, visible)], []
    network = copy.deepcopy(model).eval()
    for layer in randomize_in_stages(network, key):
        random_shares = torch.nan_to_num(method.compute_maps(network, inputs, aim))[:, 0]
        correlations.append(correlate_visible(shares, random_shares, visible))
        entropies.append(_compute_entropies(random_shares, visible))
        layers.append(layer)
    return Randomization(tuple(layers), torch.stack(correlations).cpu(), torch.stack(entropies).cpu())


def correlate_visible(a: Tensor, b: Tensor, visible: Tensor) -> Tensor:
    """Return the rank correlation [n] of each pair of rows [n, length] over the tokens that are visible."""
    rows = zip(a, b, visible, strict=True)
    return torch.cat([correlate_ranks(mine[seen][None], other[seen][None]) for mine, other, seen in rows])


def _compute_entropies(shares: Tensor, visible: Tensor) -> Tensor:
    return torch.cat([compute_entropy(row[seen][None]) for row, seen in zip(shares, visible, strict=True)])
