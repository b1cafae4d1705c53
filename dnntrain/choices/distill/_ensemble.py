"""Combine several teachers into one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import log_softmax

from dnntrain.errors import ConfigError


def combine_logits(logits: Tensor, ensemble: str, temperature: float) -> Tensor:
    """Combine the logits of all teachers: [n, teachers, classes, …] → [n, classes, …].

    "logits": the mean of the logits. "probabilities": T log of the mean of softmax(logits / T),
    whose softened softmax is that mean.
    """
    if logits.shape[1] == 1:
        return logits[:, 0]
    if ensemble == "logits":
        return logits.mean(1)
    return temperature * (log_softmax(logits / temperature, 2).logsumexp(1) - math.log(logits.shape[1]))


def check_ensemble(ensemble: str, sources: Sequence[str]) -> None:
    """Raise ConfigError if `ensemble` has no effect."""
    if ensemble != "logits" and len(sources) == 1:
        raise ConfigError(
            f"distill.ensemble={ensemble} has no effect with one teacher",
            "leave it out, or name several teachers: distill.teacher=[a,b]",
        )
