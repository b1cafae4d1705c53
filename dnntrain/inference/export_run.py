"""Write an export of a run.

It is written beside its target, read back, compared with its source, and then moved to the target.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dnntrain.choices.quant._fake_quant import list_fake_modules as prepared_modules
from dnntrain.choices.quant._fake_quant import remove_fake_quantization
from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.errors import CheckpointError, ConfigError, DataError
from dnntrain.export.calibration_batches import CalibrationBatches, estimate_calibration_s
from dnntrain.export.formats import (
    ExportFormat,
    ExportRequest,
    check_installed,
    detect_hardware,
    get_format,
    resolve_device,
)
from dnntrain.export.manifest import Manifest, check_target, read_manifest, write_manifest
from dnntrain.export.open_export import open_export
from dnntrain.export.options import NO_OPTIONS, ExportOptions, HalfModel, repeat_examples
from dnntrain.export.output_dir import atomic_output_dir
from dnntrain.export.parity import MIN_AGREEMENT, Parity, measure_parity
from dnntrain.export.rescale import rescale_outputs
from dnntrain.inference.evaluate_run import DataSplit, load_data_splits
from dnntrain.inference.load import LoadedModel, select_export_config
from dnntrain.protocols import Batch, QuantChoice
from dnntrain.utils.rng import Key
from dnntrain.utils.units import format_seconds

#: The most examples on which an export is compared with its source.
MAX_SAMPLES = 2000

_BATCH_SIZE = 64


@dataclass(frozen=True)
class ExportSource:
    """A float model on the CPU, with the data that calibrates and compares its exports."""

    loaded_model: LoadedModel
    splits: dict[str, DataSplit]

    @classmethod
    def from_model(cls, loaded_model: LoadedModel) -> ExportSource:
        """Read the data of `loaded_model`, which every export must be compared on.

        Raises DataError if the data cannot be read, ConfigError if the model is an export that
        cannot be exported again.
        """
        if loaded_model.format not in ("run", "safetensors"):
            raise ConfigError(
                f"--format {loaded_model.format} cannot be exported again", "name the run directory that it came from"
            )
        cpu_model = replace(loaded_model, model=loaded_model.model.cpu().float().eval(), device="cpu", autocast=None)
        return cls(cpu_model, load_data_splits(cpu_model))

    def select_source(self, quant: QuantChoice | None) -> LoadedModel:
        """Return the model to export and to compare with.

        It is the network with its trained rounding if `quant` is quantization-aware, else the float
        network. Raises ConfigError if the run was not trained with that rounding.
        """
        if not prepared_modules(self.loaded_model.model):
            if quant is not None and quant.is_quantization_aware:
                raise ConfigError("the run was not trained with quant=qat", "use quant=int8_static")
            return self.loaded_model
        if quant is not None and quant.is_quantization_aware:
            return self.loaded_model
        return replace(self.loaded_model, model=remove_fake_quantization(copy.deepcopy(self.loaded_model.model)))

    @property
    def parity_split(self) -> DataSplit:
        """Return the validation split, or the test split if there is no validation split."""
        split = self.splits["val"] if len(self.splits["val"].index) else self.splits["test"]
        if not len(split.index):
            raise DataError("there is no example to compare the export with its source on", "set data.val_fraction=0.1")
        return split

    def iter_samples(self) -> Iterator[Batch]:
        """Yield batches of up to 2,000 examples of `parity_split`."""
        for batch in self.parity_split.make_batches(self.loaded_model, _BATCH_SIZE, MAX_SAMPLES):
            yield replace(batch, inputs=batch.inputs.clone())

    def make_calibration_batches(self, batches: int, batch_size: int) -> list[Tensor]:
        """Return batches of training examples, chosen by the run's seed.

        Raises DataError if the training split is too small.
        """
        split = self.splits["train"]
        num_examples = batches * batch_size
        if len(split.index) < batch_size:
            raise DataError(
                f"calibration needs {batch_size} training examples, but there are {len(split.index)}",
                f"use quant.calibration_batch_size={max(len(split.index), 1)}, or the data that the run was trained on",
            )
        indices = Key(self.loaded_model.config.seed, "calibration").permutation(split.index)[:num_examples]
        example_batches = split.select(indices).make_batches(self.loaded_model, batch_size)
        return [batch.inputs.clone() for batch in example_batches if len(batch) == batch_size]

    def notes(self, quant: QuantChoice | None) -> tuple[str, ...]:
        """Return notes for the user if `quant` gets fewer batches than it asks for."""
        return () if quant is None else quant.note_missing_batches(len(self.splits["train"].index))

    def make_card(self) -> Manifest:
        """Return the description of the model, without a format yet."""
        loaded_model = self.loaded_model
        config = select_export_config(loaded_model.config.resolved)
        return Manifest("", loaded_model.spec, config, trained_data=loaded_model.trained_data)


_CALIBRATION_ADVICE = "try quant.observer=percentile, more quant.calibration_batches, or "


def write_export(
    subject: ExportSource,
    export_format: ExportFormat,
    target: Path,
    quant: QuantChoice | None,
    say: Callable[[str], None],
    *,
    runtime: str = "eager",
    max_drop: float = 0.01,
    options: ExportOptions = NO_OPTIONS,
) -> Manifest:
    """Write the export to the folder `target` and return its manifest.

    `max_drop` is the largest drop of the metric of a format that rounds without quantizing. Raises ConfigError if the
    model or the machine does not support the format. Raises CheckpointError if the export differs
    too much from its source or computes too little in integers. After an error `target` is
    unchanged.
    """
    check_installed(export_format, for_writing=True)
    device = (
        "cpu" if "cpu" in export_format.devices else resolve_device(export_format, subject.loaded_model.config.device)
    )
    if quant is not None and (refusal := quant.find_hardware_refusal(detect_hardware(device))):
        raise ConfigError(f"--format {export_format.name} {refusal.reason}", refusal.hint)
    check_target(target)
    calibration_batches = _choose_calibration_batches(subject, quant, say)
    source_model = subject.select_source(quant)
    spec = source_model.spec
    model = HalfModel(copy.deepcopy(source_model.model)) if options.half else source_model.model
    # The units of the target may be beyond the range or the precision of float16, so they stay float32.
    model = model if export_format.builds_model else rescale_outputs(model, spec.output)
    source = ExportRequest(
        model,
        replace(subject.make_card(), format=export_format.name, details=options.as_json()),
        repeat_examples(next(subject.iter_samples()).inputs, options.batch or 2),
        calibration_batches,
        quant,
        runtime,
        options,
    )
    with atomic_output_dir(target) as folder:
        details = {**options.as_json(), **export_format.write(source, folder)}
        files = [file.name for file in folder.iterdir()]
        card = write_manifest(folder, replace(source.manifest, details=details), files)
        run = open_export(folder).load(device, trust=True)
        parity = measure_parity(
            source_model.config.task,
            spec,
            subject.parity_split.name,
            subject.iter_samples(),
            source_model.compute_outputs,
            run,
        )
        say(f"{export_format.name}{'' if runtime == 'eager' else f' ({runtime})'}: {parity}")
        rounding = "--half" if options.half else f"--runtime {runtime}" if runtime.endswith("bf16") else ""
        if rounding and quant is None:
            check_rounded_parity(parity, rounding, max_drop)
        else:
            advice = _CALIBRATION_ADVICE if quant is not None and quant.needs_calibration else ""
            check_parity(export_format, parity, None if quant is None else quant.max_metric_drop, advice)
        card = replace(card, details={**details, "parity": parity.as_json()})
        write_manifest(folder, card, files)
    return read_manifest(target)


def _choose_calibration_batches(
    subject: ExportSource, quant: QuantChoice | None, say: Callable[[str], None]
) -> Iterable[Tensor]:
    """Return the batches that `quant` calibrates on, if it does, and say how long that takes."""
    if quant is None or not quant.needs_calibration:
        return ()
    batches = subject.make_calibration_batches(quant.calibration_batches, quant.calibration_batch_size)
    estimate = format_seconds(estimate_calibration_s(subject.loaded_model.model, batches))
    say(f"calibrating on {len(batches)} batches of training examples: about {estimate}")
    return CalibrationBatches(batches, say)


def check_parity(export_format: ExportFormat, parity: Parity, max_drop: float | None, advice: str = "") -> None:
    """Compare an export with the tolerance of its kind: `max_drop` of the metric; None: it must be exact.

    Raises CheckpointError if it differs more from its source.
    """
    if max_drop is None and parity.agreement < MIN_AGREEMENT:
        raise CheckpointError(
            f"--format {export_format.name} gives the {parity.agreement_kind} as its source for "
            f"{100 * parity.agreement:.2f} % of examples only, less than {100 * MIN_AGREEMENT} %",
            "use --format safetensors; please report it with `dnntrain doctor`",
        )
    if max_drop is not None and parity.drop > max_drop:
        raise CheckpointError(
            f"--format {export_format.name} loses {100 * parity.drop:.2f} % of {parity.metric} on the "
            f"{parity.part} split, more than quant.max_metric_drop={max_drop}",
            f"{advice}allow it with quant.max_metric_drop",
        )


def check_rounded_parity(parity: Parity, option: str, max_drop: float) -> None:
    """Raise CheckpointError if the precision of `option` loses more than `max_drop` of the task's metric."""
    if parity.drop > max_drop:
        raise CheckpointError(
            f"{option} loses {100 * parity.drop:.2f} % of {parity.metric} on the {parity.part} split, "
            f"more than {100 * max_drop:g} %",
            f"leave {option} out: the model needs the range or the precision of float32",
        )


def summarize_export(card: Manifest, target: Path) -> dict[str, Any]:
    """Return the place and size of an export, and its measured details."""
    size = sum((target / name).stat().st_size for name in card.files)
    return {"format": card.format, "path": str(target), "size_bytes": size, **card.details}


def get_installed_format(name: str) -> ExportFormat:
    """Return the format called `name` after a check of the packages that it needs."""
    export_format = get_format(name)
    check_installed(export_format, for_writing=True)
    return export_format


def choose_quantization(name: str, quant_overrides: Sequence[str], run_quant: QuantChoice | None = None) -> QuantChoice:
    """Return the quantization that `quant_overrides` choose for the format `name`.

    Without overrides it is `run_quant` if the run was trained with it, else the default of the
    format. Raises ConfigError if it does not work on a trained model, or if the format cannot hold
    it.
    """
    is_learned = run_quant is not None and run_quant.is_quantization_aware
    if run_quant is not None and is_learned and not quant_overrides and name != "pt2_cuda":
        return run_quant
    default = "quant=float8" if name == "pt2_cuda" else "quant=qat" if is_learned else "quant=int8_static"
    has_choice = any(word.lstrip("+").startswith("quant=") for word in quant_overrides)
    config = decode_config(compose([*([] if has_choice else [default]), *quant_overrides], None))
    quant = config.quant
    choice = config.resolved["choices"]["quant"]
    if not quant.formats:
        raise ConfigError(f"quant={choice} does not quantize a trained model", "use quant=int8_static")
    quant.check_options()
    if name not in quant.formats and (name != "auto" or quant.formats == ("pt2_cuda",)):
        raise ConfigError(f"--format {name} cannot hold quant={choice}", f"use --format {quant.formats[0]}")
    return quant
