"""Options of choices with image files of any size, and how they become inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from dnntrain.config.fields import Annotated, Literal, Range
from dnntrain.input.options import ImageData
from dnntrain.protocols import InputSpec
from dnntrain.protocols.image_reading import ImageReading
from dnntrain.protocols.speed import SpeedFacts, SpeedGrade, SpeedSetting

#: Channel means and deviations of ImageNet's training images; for gray, of their luminance.
_IMAGE_MEAN = {3: (0.485, 0.456, 0.406), 1: (0.449,)}
_IMAGE_STD = {3: (0.229, 0.224, 0.225), 1: (0.226,)}


@dataclass(frozen=True)
class ImageFiles(ImageData):
    """Images in files. A choice adds where they are, and `build() -> DataSet`."""

    image_size: Annotated[int, Range(at_least=1, at_most=4096)] = (
        64  # side of the network's input, pixels; its height if image_width is set
    )
    image_width: Annotated[int, Range(at_least=1, at_most=4096)] | None = (
        None  # width of the network's input, pixels; null: square
    )
    resize: Literal["crop", "letterbox", "stretch"] = (
        "crop"  # an image of another aspect is cropped at the center, fitted with gray borders, or stretched
    )
    channels: Literal[1, 3] = 3  # 3: color; 1: gray
    max_value: Annotated[float, Range(above=0)] | None = (
        None  # value of white in 16-bit and float images; null: 65535, and 1 for floats
    )
    decode: Literal["full", "fast", "scaled"] = (
        "full"  # fast: torch resizes, from a box of whole pixels; scaled: also decodes JPEG files at a fraction
    )
    test_fraction: Annotated[float, Range(above=0, below=1)] = (
        0.2  # fraction of the images held out for the test if there is no test split
    )

    reading_options: ClassVar[frozenset[str]] = ImageData.reading_options | {"decode", "max_value", "resize"}

    @property
    def reading(self) -> ImageReading:
        return ImageReading(self.resize, self.max_value, self.decode)

    def list_speed_settings(self, facts: SpeedFacts) -> Iterable[SpeedSetting]:
        yield from super().list_speed_settings(facts)
        if not facts.is_resident and self.decode == "full":
            yield SpeedSetting("data.decode", SpeedGrade.STATISTICAL, ("fast", "scaled"))

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.image_size, self.image_width or self.image_size

    @property
    def input_spec(self) -> InputSpec:
        """The form of the input, normalized as ImageNet is."""
        return InputSpec((self.channels, *self.input_size), _IMAGE_MEAN[self.channels], _IMAGE_STD[self.channels])
