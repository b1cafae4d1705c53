"""The privacy that a federated run has spent, by the accountant of the package dp-accounting."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from dnntrain.protocols.federation import Privacy

#: The package of the accountant, as pip knows it.
PACKAGE = "dp-accounting"


@dataclass(frozen=True)
class PrivacySpent:
    """epsilon at `delta`, and the accountant that computed it."""

    epsilon: float
    delta: float
    accountant: str


def compute_privacy(privacy: Privacy, fraction: float, rounds: int, participations: int) -> PrivacySpent | None:
    """Return the privacy after `rounds` rounds; None without privacy, without noise or without the package.

    central: neighbors differ in one client, each client is drawn by itself with probability `fraction`,
    and the sum of updates of norm `clip` has noise of deviation noise * clip.
    local: neighbors differ in all examples of one client, so updates differ by 2 * clip at most, and
    the client that took part most often did so `participations` times.
    """
    if privacy.mode == "none" or privacy.noise == 0:
        return None
    try:
        import dp_accounting
        from dp_accounting import rdp
    except ImportError:
        return None
    from importlib.metadata import version

    relation = dp_accounting.NeighboringRelation
    if privacy.mode == "central":
        accountant = rdp.RdpAccountant(neighboring_relation=relation.ADD_OR_REMOVE_ONE)
        gaussian = dp_accounting.GaussianDpEvent(privacy.noise)
        event = dp_accounting.PoissonSampledDpEvent(fraction, gaussian) if fraction < 1 else gaussian
        times = rounds
    else:
        accountant = rdp.RdpAccountant(neighboring_relation=relation.REPLACE_ONE)
        event, times = dp_accounting.GaussianDpEvent(privacy.noise / 2), participations
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)  # orders that it leaves out
    try:
        epsilon = float(accountant.compose(event, times).get_epsilon(privacy.delta)) if times else 0.0
    finally:
        logger.setLevel(level)
    return PrivacySpent(epsilon, privacy.delta, f"RDP accountant of {PACKAGE} {version(PACKAGE)}")
