"""Encode the rows of a table as features: numbers as they are, categories as embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dnntrain.protocols import Column, ColumnKind

_MAX_DIMENSION = 32


def choose_dimension(categories: int) -> int:
    """Return the size of an embedding: half the number of categories, rounded up, at most 32."""
    return min(_MAX_DIMENSION, (categories + 1) // 2)


class TableEncoder(nn.Module):
    """Rows [n, columns] → features [n, width]: the numbers, then the embedding of each category.

    Category 0 means a missing or unknown one.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        categories = [place for place, column in enumerate(columns) if column.kind is ColumnKind.CATEGORY]
        numbers = [place for place in range(len(columns)) if place not in categories]
        self.number_places: Tensor
        self.register_buffer("number_places", torch.tensor(numbers, dtype=torch.int64), persistent=False)
        self.category_places = categories
        self.counts = [len(columns[place].categories) for place in categories]
        self.embeddings = nn.ModuleList(nn.Embedding(count + 1, choose_dimension(count)) for count in self.counts)
        self.width = len(numbers) + sum(choose_dimension(count) for count in self.counts)

    def forward(self, rows: Tensor) -> Tensor:
        features = [rows.index_select(1, self.number_places)]
        for place, count, embedding in zip(self.category_places, self.counts, self.embeddings, strict=True):
            # Rows that take the place of examples may hold any number.
            category = rows[:, place].to(torch.int64).clamp(0, count)
            features.append(embedding(category))
        return torch.cat(features, dim=1)
