"""`federated=none` changes nothing."""

from __future__ import annotations

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config


def test_nothing_is_federated_by_default() -> None:
    federated = decode_config(compose([])).federated
    assert not federated.is_federated
    assert federated.rounds is None
