"""Your own sounds: one folder of WAV files for each class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dnntrain.choices.data._class_folders import ClassFolders, note_missing_classes, warn_of_shared_images
from dnntrain.choices.data._folder_layout import FileKind, find_layout, get_class_number, list_folders
from dnntrain.choices.data._roots import find_data_root
from dnntrain.config.fields import Annotated, Positive, PositiveInt, Range
from dnntrain.errors import DataError
from dnntrain.input.audio import SOUND_SUFFIXES, RandomSpectrogramSource, SpectrogramSource
from dnntrain.input.decode import check_regular_file
from dnntrain.input.options import ImageData
from dnntrain.input.source import DataSet
from dnntrain.protocols import InputSpec, TargetSpec
from dnntrain.protocols.audio_reading import AudioReading
from dnntrain.utils.rng import Key

#: A usual spectrogram, as bytes / 255: the loudest value is 1, and most are 30 to 80 dB below it.
_MEAN, _STD = 0.45, 0.25

_SOUNDS = FileKind("sounds", SOUND_SUFFIXES)


@dataclass(frozen=True)
class AudioFolder(ImageData):
    """WAV files in ROOT/train/CLASS/, ROOT/val/CLASS/ and ROOT/test/CLASS/, or in ROOT/CLASS/.

    The input is the log-mel spectrogram of `seconds`, 1 x n_mels x frames bytes: 255 is the loudest
    value, 0 is 80 dB below it. Without a test folder, a part of the files is kept for the test; the
    name of a file decides whether it belongs to it.
    """

    label_key: ClassVar[str] = "root"
    place_options: ClassVar[tuple[str, ...]] = ("root",)

    root: str | None = None  # folder with train/ and test/, or with the class folders; null: $DNNTRAIN_DATA
    sample_rate: Annotated[int, Range(at_least=1000, at_most=192000)] = (
        16000  # samples per second; files of another rate are resampled
    )
    seconds: Positive = 1.0  # length of a sound: longer ones are cut, shorter ones padded with silence
    window: Annotated[int, Range(at_least=16, at_most=16384)] = 400  # samples of a window of the spectrogram
    hop: PositiveInt = 160  # samples from a window to the next
    n_mels: Annotated[int, Range(at_least=4, at_most=512)] = 64  # bands of the mel scale: rows of the input
    random_part: bool = False  # true: train on a random part of each sound, drawn again in each epoch; always streamed
    test_fraction: Annotated[float, Range(above=0, below=1)] = (
        0.2  # fraction of the files held out for the test if there is no test split
    )

    def __post_init__(self) -> None:
        if self.hop > self.window:
            raise ValueError(f"hop={self.hop} must be at most window={self.window}, so that no sample is left out")
        if self.n_mels > self.window // 4:
            raise ValueError(f"n_mels={self.n_mels} must be at most window / 4 = {self.window // 4}")
        if self.random_part and self.pipeline == "resident":
            raise ValueError("random_part=true reads sounds in every epoch; pipeline=resident does not support it")

    @property
    def reading(self) -> AudioReading:
        return AudioReading(self.sample_rate, self.seconds, self.window, self.hop, self.n_mels)

    @property
    def varies_images(self) -> bool:
        return self.random_part

    def check_files(self) -> None:
        layout = find_layout(find_data_root(self.root, "audio_folder"), _SOUNDS)
        for folder in filter(None, (layout.train, layout.val, layout.test)):
            _find_classes(folder, 1)

    def build(self) -> DataSet:
        return self._build(min_classes=2)

    def build_for_evaluation(self) -> DataSet:
        return self._build(min_classes=1)

    def _build(self, min_classes: int) -> DataSet:
        root, strict = find_data_root(self.root, "audio_folder"), self.on_error == "raise"
        layout = find_layout(root, _SOUNDS)
        train = _scan(layout.train, strict, min_classes)
        val, test = (
            None if folder is None else _scan(folder, strict, 1, train.class_names)
            for folder in (layout.val, layout.test)
        )
        if test is not None:
            warn_of_shared_images(train, test, "sounds")
        else:
            train, test = train.hold_out_test(self.test_fraction, Key(2012, "audio folder test"))
        train, val_index = train.join_validation(val)
        size = (self.n_mels, self.reading.frames)
        return DataSet(
            train=self._build_source(train, training=True),
            test=self._build_source(test, training=False),
            inputs=InputSpec((1, *size), (_MEAN,), (_STD,)),
            targets=TargetSpec(train.class_names),
            digest=ClassFolders.compute_splits_digest([train, test], root),
            val_index=val_index,
            has_test_part=layout.test is not None,
            notes=(*layout.notes, *note_missing_classes("test", test, "sound")),
        )

    def _build_source(self, split: ClassFolders, training: bool) -> SpectrogramSource:
        is_random = training and self.random_part
        size_bytes = len(split.paths) * self.n_mels * self.reading.frames
        source_class = RandomSpectrogramSource if is_random else SpectrogramSource
        return source_class(
            split.paths,
            split.labels,
            self.reading,
            self.keeps_decoded(size_bytes) and not is_random,
            self.on_error == "skip",
            split.keys,
        )


def _find_classes(folder: Path, min_classes: int) -> list[Path]:
    classes = list_folders(folder)
    if len(classes) < min_classes:
        raise DataError(
            f"{folder}: holds {len(classes)} class folders; at least {min_classes} are needed", _SOUNDS.layout_hint
        )
    return classes


def _scan(folder: Path, strict: bool, min_classes: int, class_names: tuple[str, ...] = ()) -> ClassFolders:
    """Return the files of a split, class by class. Raises DataError for a class without files, or a new one."""
    classes = _find_classes(folder, min_classes)
    names = class_names or tuple(path.name for path in classes)
    paths: list[Path] = []
    labels: list[int] = []
    for path in classes:
        number = get_class_number(path, names, _SOUNDS)
        files = sorted(_SOUNDS.find(path))
        if not files:
            raise DataError(f"{path}: class {path.name} has no WAV file", _SOUNDS.layout_hint)
        paths += files
        labels += [number] * len(files)
    for file in paths if strict else ():
        check_regular_file(file)
    return ClassFolders.list_files(folder, names, paths, labels)
