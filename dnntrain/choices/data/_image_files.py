"""How the options of a choice with image files of any size become inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dnntrain.protocols.image_reading import ImageReading


class ImageFiles:
    """The input size and the reading of a choice with these options."""

    if TYPE_CHECKING:  # fields of the choice, in its own order
        image_size: int
        image_width: int | None
        resize: Literal["crop", "letterbox", "stretch"]
        max_value: float | None

    @property
    def reading(self) -> ImageReading:
        return ImageReading(self.resize, self.max_value)

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.image_size, self.image_width or self.image_size
