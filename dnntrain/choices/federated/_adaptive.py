"""Options of the adaptive servers."""

from __future__ import annotations

from dataclasses import dataclass

from dnntrain.choices.federated._options import FederatedOptions
from dnntrain.config.fields import Fraction, Positive


@dataclass(frozen=True)
class AdaptiveOptions(FederatedOptions):
    """The server takes the mean update of the clients for a gradient (Reddi et al., 2021)."""

    server_lr: Positive = 0.01  # step size of the server
    beta1: Fraction = 0.9  # decay of the mean of updates
    beta2: Fraction = 0.99  # decay of the mean of squared updates
    tau: Positive = 1e-3  # added to the root of the second moment
