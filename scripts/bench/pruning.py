"""Measure the latency of networks that are cut to a share of their FLOPs: batch 1, weights at random.

python scripts/bench/pruning.py --model resnet18 --size 224 --ratio 0.5 --round-to 16 --threads 2
"""

from __future__ import annotations

import argparse
import random
import statistics

import torch
import torchvision

from dnntrain.choices.prune._find_cut import CutOptions, describe_cost, find_groups_to_cut, make_measure
from dnntrain.nn.shape import ModelShape
from dnntrain.pruning.criteria import ScoreInputs, score_units
from dnntrain.pruning.cut import cut_model, make_cut
from dnntrain.pruning.latency import measure_latency_ratios
from dnntrain.pruning.selection import Rules, find_removed, name_kinds
from dnntrain.pruning.widths import Widths
from dnntrain.utils.rng import Key


def main() -> None:
    """Print the cost before and after the cut, and the ratio of latencies with a 95 % interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--round-to", type=int, default=16)
    parser.add_argument("--scope", default="local")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = torchvision.models.get_model(arguments.model).eval()
    shape = ModelShape(1000, 3, arguments.size, arguments.size)
    rules = Rules(arguments.scope, 0.1, arguments.round_to)
    options = CutOptions("magnitude", rules, "flops", (), 0, 0, shape)
    groups = find_groups_to_cut(model, options).groups
    scores = score_units("magnitude", groups, ScoreInputs(model, tuple, Key(0, "bench")))
    measure = make_measure(model, groups, options, Widths())
    limit = (1 - arguments.ratio) * measure({})
    removed, _ = find_removed(groups, scores, name_kinds(model, groups), rules, limit, measure)
    smaller = cut_model(model, make_cut(model, removed, groups, Widths()))
    print(describe_cost(model, shape), "->", describe_cost(smaller, shape))
    ratios = measure_latency_ratios(smaller, model, shape, arguments.pairs)
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    print(f"latency x {statistics.median(ratios):.3f} ({medians[50]:.3f}-{medians[1949]:.3f}), {len(ratios)} pairs")


if __name__ == "__main__":
    main()
