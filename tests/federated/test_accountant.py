"""Epsilon is the accountant's own figure; without noise or the package there is none."""

from __future__ import annotations

import sys

import pytest

from dnntrain.federated.accountant import compute_privacy
from dnntrain.protocols.federation import Privacy


def test_without_noise_or_the_package_there_is_no_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compute_privacy(Privacy(), 0.1, 100, 10) is None
    assert compute_privacy(Privacy("central", noise=0.0), 0.1, 100, 10) is None
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    assert compute_privacy(Privacy("central"), 0.1, 100, 10) is None


def test_epsilon_is_that_of_the_accountant() -> None:
    dp_accounting = pytest.importorskip("dp_accounting")
    from dp_accounting import rdp

    own = rdp.RdpAccountant()
    own.compose(dp_accounting.PoissonSampledDpEvent(0.5, dp_accounting.GaussianDpEvent(2.0)), 50)
    spent = compute_privacy(Privacy("central", noise=2.0, delta=1e-4), 0.5, 50, 25)
    assert spent is not None
    assert spent.epsilon == own.get_epsilon(1e-4)
    local = rdp.RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    local.compose(dp_accounting.GaussianDpEvent(4.0), 25)
    spent = compute_privacy(Privacy("local", noise=8.0, delta=1e-4), 0.5, 50, 25)
    assert spent is not None
    assert spent.epsilon == local.get_epsilon(1e-4)
