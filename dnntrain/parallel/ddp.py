"""Data parallelism: each rank computes its share of the batch, gradients are averaged (torch's DistributedDataParallel)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dnntrain.config.fields import Positive
from dnntrain.parallel.layout import Layout
from dnntrain.protocols import Need


@dataclass(frozen=True)
class Ddp:
    """The model is on every rank; buckets of gradients are reduced while the backward pass still runs (Li et al., VLDB 2020)."""

    bucket_mb: Positive = 25.0  # size of a gradient bucket, MiB

    processes: ClassVar[str] = "many"

    def build(self) -> Layout:
        def wrap(model: nn.Module) -> nn.Module:
            return nn.parallel.DistributedDataParallel(
                model, bucket_cap_mb=self.bucket_mb, gradient_as_bucket_view=True
            )

        return Layout("ddp", frozenset(Need), wrap)
