"""Writes an export of a run: makes it beside its place, reads it back, compares it with its source, then puts it there."""

from __future__ import annotations

import copy
import glob
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnntrain.choices.quant._fake_quant import prepared as prepared_modules
from dnntrain.choices.quant._fake_quant import restored
from dnntrain.choices.quant._post_training import PostTraining
from dnntrain.choices.quant.int8_static import Int8Static
from dnntrain.errors import CheckpointError, ConfigError, DataError
from dnntrain.export.formats import Format, Source, check_installed, device_of, find, hardware_of
from dnntrain.export.manifest import MANIFEST, Card, read_manifest, write_manifest
from dnntrain.export.open_export import open_export
from dnntrain.export.parity import LEAST_AGREEMENT, Parity, compare
from dnntrain.inference.load import Part, Trained, exported_config, parts_of
from dnntrain.utils.files import fsync
from dnntrain.utils.rng import Key

#: Most images that an export is compared with its source on.
SAMPLES = 2000

_BATCH = 64


@dataclass(frozen=True)
class Subject:
    """A float model on the CPU, with the data that exports of it are calibrated and compared on."""

    trained: Trained
    parts: dict[str, Part]

    @classmethod
    def of(cls, trained: Trained) -> Subject:
        """Raises DataError where the run's data cannot be read: an export that was not compared is none."""
        if trained.format not in ("run", "safetensors"):
            raise ConfigError(
                f"format={trained.format} cannot be exported again", "name the run directory that it came from"
            )
        alone = replace(trained, model=trained.model.cpu().float().eval(), device="cpu", autocast=None)
        return cls(alone, parts_of(alone))

    def source(self, quant: PostTraining | None) -> Trained:
        """What is exported and compared with: the network that rounds as it was trained to, where `quant` is that; else the float one.

        Raises ConfigError where the run was not trained so.
        """
        if not prepared_modules(self.trained.model):
            if quant is not None and quant.learned:
                raise ConfigError("the run was not trained with quant=qat", "use quant=int8_static")
            return self.trained
        if quant is not None and quant.learned:
            return self.trained
        return replace(self.trained, model=restored(copy.deepcopy(self.trained.model)))

    @property
    def compared_on(self) -> Part:
        """The validation part, or where there is none the test part."""
        part = self.parts["val"] if len(self.parts["val"].index) else self.parts["test"]
        if not len(part.index):
            raise DataError("there is no image to compare the export with its source on", "set data.val_fraction=0.1")
        return part

    def samples(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Up to 2,000 images of that part, with their labels."""
        for batch in self.compared_on.batches(self.trained, _BATCH, SAMPLES):
            yield batch.images.clone(), batch.targets

    def calibration(self, batches: int, batch_size: int) -> list[Tensor]:
        """Batches of training images, chosen by the run's seed. Raises DataError where the training part is too small."""
        part = self.parts["train"]
        wanted = batches * batch_size
        if len(part.index) < batch_size:
            raise DataError(
                f"calibration needs {batch_size} training images, there are {len(part.index)}",
                f"use quant.batch_size={max(len(part.index), 1)}, or the data that the run was trained on",
            )
        chosen = Key(self.trained.config.seed, "calibration").permutation(part.index)[:wanted]
        found = replace(part, index=chosen).batches(self.trained, batch_size)
        return [batch.images.clone() for batch in found if len(batch) == batch_size]

    def notes(self, quant: PostTraining | None) -> tuple[str, ...]:
        """What will not be as `quant` asks for it, for a person to read."""
        return quant.cut(len(self.parts["train"].index)) if isinstance(quant, Int8Static) else ()

    def card(self) -> Card:
        """The description of the model, as yet without format."""
        trained = self.trained
        config = exported_config(trained.config.resolved)
        return Card("", trained.class_names, trained.input_shape, trained.mean, trained.std, config)


def export(
    subject: Subject,
    found: Format,
    target: Path,
    quant: PostTraining | None,
    say: Callable[[str], None],
    *,
    runtime: str = "eager",
    max_drop: float = 0.01,
) -> Card:
    """Writes the export to the folder `target` and returns its card. `max_drop` is that of what is rounded but not quantised.

    Raises ConfigError where the model or the machine cannot do it, CheckpointError where the export differs too much from its source
    or computes too little in integers; then `target` is as it was.
    """
    check_installed(found)
    device = "cpu" if "cpu" in found.devices else device_of(found, subject.trained.config.device)
    if quant is not None and (refused := quant.refusal(hardware_of(device))):
        raise ConfigError(f"format={found.name} {refused[0]}", refused[1])
    check_target(target)
    calibration: Sequence[Tensor] = ()
    if quant is not None and quant.calibrates:
        calibration = subject.calibration(quant.batches, quant.batch_size)  # type: ignore[attr-defined]
        say(f"calibrating on {len(calibration)} batches of training images")
    images = next(subject.samples())[0]
    if len(images) < 2:
        images = torch.cat([images, images])
    trained = subject.source(quant)
    source = Source(trained.model, replace(subject.card(), format=found.name), images[:2], calibration, quant, runtime)
    with prepared(target) as folder:
        details = found.write(source, folder)
        files = [file.name for file in folder.iterdir()]
        card = write_manifest(folder, replace(source.card, details=details), files)
        run = open_export(folder).load(device)
        parity = compare(subject.compared_on.name, subject.samples(), trained.logits, run)
        say(f"{found.name}{'' if runtime == 'eager' else f' ({runtime})'}: {parity}")
        exact = found.exact and not runtime.endswith("bf16")
        advice = (
            "try quant.observer=percentile, more quant.batches, or " if quant is not None and quant.calibrates else ""
        )
        check_parity(found, parity, quant.max_drop if quant else max_drop, exact, advice)
        card = replace(card, details={**details, "parity": parity.as_json()})
        write_manifest(folder, card, files)
    return read_manifest(target)


def check_parity(found: Format, parity: Parity, max_drop: float, exact: bool, advice: str = "") -> None:
    """Raises CheckpointError where an export differs more from its source than its kind may."""
    if exact and parity.agreement < LEAST_AGREEMENT:
        raise CheckpointError(
            f"format={found.name} gives the class of its source for {100 * parity.agreement:.2f} % of images only, "
            f"less than {100 * LEAST_AGREEMENT} %",
            "use format=safetensors; please report it with `dnntrain doctor`",
        )
    if not exact and parity.drop > max_drop:
        raise CheckpointError(
            f"format={found.name} loses {100 * parity.drop:.2f} points of accuracy on the {parity.part} part, "
            f"more than quant.max_drop={max_drop}",
            f"{advice}allow it with quant.max_drop",
        )


def check_target(target: Path) -> None:
    """Raises ConfigError where something other than an export stands at `target`."""
    if target.exists() and not (target / MANIFEST).is_file() and not (target.is_dir() and not any(target.iterdir())):
        raise ConfigError(f"path={target} exists and is no export", "name a folder of its own")


def _runs(pid: str) -> bool:
    """Whether a process of this number runs here."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ValueError, OSError):
        return False
    return True


@contextmanager
def prepared(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, which takes its place if the body succeeds, and is removed if not.

    What exports of the same target that were killed have left is removed, too.
    """
    host = f".{target.name}.tmp-{socket.gethostname()}"
    temporary = target.with_name(f"{host}-{os.getpid()}")
    for left in target.parent.glob(f"{glob.escape(host)}-*"):
        # One of this process's number is of an earlier one: in a container all begin with the same.
        if left == temporary or not _runs(left.name.rpartition("-")[2]):
            shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"path={target} cannot be made: {error}", "name a folder that can be written") from None
    try:
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        temporary.replace(target)
        fsync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def report(card: Card, target: Path) -> dict[str, Any]:
    """What the verb prints: the export's place, size, and what was measured."""
    size = sum((target / name).stat().st_size for name in card.files)
    return {"format": card.format, "path": str(target), "size_bytes": size, **card.details}


def format_of(name: str) -> Format:
    """The format called `name`, with what it needs installed."""
    found = find(name)
    check_installed(found)
    return found
