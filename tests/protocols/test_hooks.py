"""Parts of several methods: what only one may give is refused with the names of both settings."""

from __future__ import annotations

import pytest

from dnntrain.protocols import Parts


class Kept:
    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: object) -> None:
        del state


@pytest.mark.parametrize(
    "parts",
    [
        [Parts(label_smoothing=0.1), Parts(), Parts(label_smoothing=0.2)],
        [Parts(state={"x": Kept()}), Parts(), Parts(state={"x": Kept()})],
        [
            Parts(update=lambda gradients, apply: gradients()),
            Parts(),
            Parts(update=lambda gradients, apply: gradients()),
        ],
    ],
)
def test_two_owners_of_one_slot_are_named(parts: list[Parts]) -> None:
    with pytest.raises(ValueError, match=r"reg\.a and reg\.c both"):
        Parts.joined(parts, ["reg.a", "reg.b", "reg.c"])
