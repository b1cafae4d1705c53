"""Parts of several methods: what only one may give is refused with the names of both settings."""

from __future__ import annotations

import pytest

from dnntrain.protocols import Hooks


class Kept:
    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: object) -> None:
        del state


@pytest.mark.parametrize(
    "parts",
    [
        [Hooks(label_smoothing=0.1), Hooks(), Hooks(label_smoothing=0.2)],
        [Hooks(state={"x": Kept()}), Hooks(), Hooks(state={"x": Kept()})],
        [
            Hooks(optimizer_step=lambda gradients, apply: gradients()),
            Hooks(),
            Hooks(optimizer_step=lambda gradients, apply: gradients()),
        ],
    ],
)
def test_two_owners_of_one_slot_are_named(parts: list[Hooks]) -> None:
    with pytest.raises(ValueError, match=r"reg\.a and reg\.c both"):
        Hooks.merge(parts, ["reg.a", "reg.b", "reg.c"])
