"""Export a finished run to a portable format, or to the fastest one on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dnntrain.bench.fastest_export import export_fastest
from dnntrain.choices.quant._backends import get_backend_format
from dnntrain.errors import ConfigError
from dnntrain.export.formats import resolve_device
from dnntrain.export.manifest import Manifest
from dnntrain.export.options import ExportOptions
from dnntrain.inference.export_run import ExportSource, choose_quantization, get_installed_format, write_export
from dnntrain.inference.load import load_model
from dnntrain.run.unfinished import write_unfinished_model
from dnntrain.utils.hardware import probe_hardware
from dnntrain.utils.world import World


def export_trained(
    run: Path,
    overrides: Sequence[str],
    target: Path,
    *,
    format_name: str,
    runtime: str = "eager",
    batches: Sequence[int] | None = None,
    threads: int | None = None,
    options: ExportOptions,
    trust: bool = False,
    say: Callable[[str], None],
) -> Manifest:
    """Write the export of `run` to the folder `target`, compared with its source.

    runtime   how a program computes
    batches   the batch sizes that --format auto measures at; None: those of the quantization
    threads   None: as many as torch uses, and all cores for measurements
    options   opset, half precision and fixed batch of the model

    Returns its manifest. Raises ConfigError, and writes nothing, if the model or the machine does
    not support the format or if an override has no effect.
    """
    _check_single_process(run)
    if options.half and runtime.endswith("bf16"):
        raise ConfigError(f"--half and --runtime {runtime} name two precisions", "keep one of them")
    quant_overrides = [word for word in overrides if word.lstrip("+").startswith(("quant=", "quant."))]
    model_overrides = [word for word in overrides if word not in quant_overrides]
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    export_format = get_installed_format(format_name)
    for word in model_overrides:
        if word.lstrip("+").startswith("device="):
            resolve_device(export_format, word.partition("=")[2], is_explicit=True)
    write_unfinished_model(run, model_overrides, trust)
    loaded_model = load_model(run, model_overrides, trust)
    if export_format.is_exact and quant_overrides:
        raise ConfigError(
            f"{quant_overrides[0]} has no effect with --format {format_name}",
            "use --format onnx_int8, pt2_int8 or openvino_int8",
        )
    quant = (
        None if export_format.is_exact else choose_quantization(format_name, quant_overrides, loaded_model.config.quant)
    )
    _check_quant_overrides(format_name, quant_overrides, batches)
    source = ExportSource.from_model(loaded_model)
    for note in source.notes(quant):
        say(f"note: {note}")
    if quant is None or format_name != "auto":
        return write_export(source, export_format, target, quant, say, runtime=runtime, options=options)
    cores = threads or probe_hardware("cpu").cores
    batches = quant.timing_batch_sizes if batches is None else batches
    return export_fastest(source, target, quant, batches=batches, threads=cores, quantized_only=False, say=say)


def _check_single_process(run: Path) -> None:
    world = World.from_environ()
    if world.size > 1:
        raise ConfigError(
            f"export must run in one process, and this is one of {world.size} (WORLD_SIZE): the result does not depend "
            "on the layout of the run, and each process would write the same files",
            f"start it without torchrun, as in: dnntrain export {run}",
        )


def _check_quant_overrides(name: str, quant_overrides: Sequence[str], batches: Sequence[int] | None) -> None:
    """Raise ConfigError if an override changes nothing in an export to the format `name`."""
    sizes = next((word for word in quant_overrides if word.lstrip("+").startswith("quant.bench_batch_sizes=")), None)
    if sizes and name != "auto":
        raise ConfigError(f"{sizes} has no effect with --format {name}", "use --format auto")
    if sizes and batches is not None:
        option = f"--batches {','.join(map(str, batches))}"
        raise ConfigError(f"{option} and {sizes} both name the batch sizes to measure at", f"keep {option}")
    backend = next(
        (word for word in quant_overrides if word.lstrip("+").startswith("quant.backend=")), "quant.backend=auto"
    )
    backend_format = get_backend_format(backend.partition("=")[2], name)
    if backend_format != name:
        raise ConfigError(
            f"{backend} does not run --format {name}", f"use --format {backend_format}, or leave quant.backend out"
        )
