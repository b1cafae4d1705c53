"""The selected choices of all groups, and the values of overlays that are in force."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dnntrain.config.groups import GROUPS
from dnntrain.config.registry import Choice
from dnntrain.config.yaml_io import YamlFile

if TYPE_CHECKING:
    pass


Pick = str | list[str] | None


@dataclass
class Overlay:
    """The file of an overlay, and the picks after the overlay.

    Its values are meant for the choices in these picks.
    """

    file: YamlFile
    picks: dict[str, Pick]


@dataclass
class Selection:
    """The picks of all groups, their choices, and the overlays in order.

    `choice_by_key` holds the choices by the key of their options: "optim", "augment.mixup".
    """

    picks: dict[str, Pick]
    overlays: list[Overlay] = field(default_factory=list)
    choice_by_key: dict[str, Choice] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def is_in_force(self, overlay: Overlay, group: str, name: str | None) -> bool:
        """Return whether the values of `overlay` for `group` are still in force.

        They are in force while the choice that they are meant for is selected. In a list group,
        `name` is the member of the list.
        """
        pick_at_overlay, final_pick = overlay.picks[group], self.picks[group]
        if GROUPS[group].single:
            return pick_at_overlay == final_pick
        choice = self.choice_by_key.get(f"{group}.{name}")
        return choice is not None and choice.name in (pick_at_overlay or ())
