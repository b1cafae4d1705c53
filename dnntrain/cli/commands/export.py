"""`dnntrain export RUN format=… [path=…]`: a trained model in a portable form, compared with its source."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dnntrain.choices.quant._post_training import FORMAT_OF_BACKEND, PostTraining
from dnntrain.cli.options import get_int, get_int_list, split_command_options
from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError
from dnntrain.utils.hardware import probe_hardware
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.world import World

_OPTIONS = ("format", "path", "threads", "runtime", "batches")

#: How a program may be run.
_RUNTIMES = ("eager", "eager_bf16", "compiled", "compiled_bf16")


def run(arguments: Arguments) -> int:
    """Writes the export to `path`, by default exports/FORMAT in the run directory, and prints where it is."""
    from dnntrain.export.formats import resolve_device
    from dnntrain.inference.export_run import ExportSource, get_installed_format, summarize_export, write_export
    from dnntrain.inference.load import load_model

    if len(arguments.positional) != 1:
        raise ConfigError(
            f"export needs one run directory, {len(arguments.positional)} were given",
            "as in: dnntrain export runs/NAME/ID format=onnx",
        )
    run_path = Path(arguments.positional[0]).expanduser()
    if (world := World.from_environ()).size > 1:
        raise ConfigError(
            f"export works in one process, and this is one of {world.size} (WORLD_SIZE): ranges are read from the same images "
            "whatever layout trained the run, and each process would write the same files",
            f"start it without torchrun, as in: dnntrain export {run_path}",
        )
    options, settings = split_command_options(arguments.overrides, _OPTIONS)
    quant_overrides = [word for word in settings if word.lstrip("+").startswith(("quant=", "quant."))]
    overrides = [word for word in settings if word not in quant_overrides]
    name = options.get("format", "safetensors")
    threads = get_int(options, "threads", None)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    export_format = get_installed_format(name)
    for word in overrides:
        if word.lstrip("+").startswith("device="):
            resolve_device(export_format, word.partition("=")[2], is_explicit=True)
    loaded_model = load_model(run_path, overrides)
    quant = (
        choose_quantization(name, quant_overrides, loaded_model.config.quant) if not export_format.is_exact else None
    )
    if quant_overrides and quant is None:
        raise ConfigError(
            f"{quant_overrides[0]} has no effect on format={name}", "use format=onnx_int8 or format=pt2_int8"
        )
    _check_options(name, options, quant_overrides)
    runtime = options.get("runtime", "eager")
    subject = ExportSource.from_model(loaded_model)
    target = Path(options["path"]).expanduser() if "path" in options else run_path / "exports" / name

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    for note in subject.notes(quant):
        say(f"note: {note}")
    if quant is not None and name == "auto":
        from dnntrain.bench.fastest_export import export_fastest

        batches = get_int_list(options, "batches", quant.timing_batch_sizes)
        cores = threads or probe_hardware("cpu").cores
        card = export_fastest(subject, target, quant, batches=batches, threads=cores, quantized_only=False, say=say)
    else:
        card = write_export(subject, export_format, target, quant, say, runtime=runtime)
    print(json.dumps(summarize_export(card, target)) if arguments.json else target)
    return 0


def _check_options(name: str, options: Mapping[str, str], quant_overrides: Sequence[str]) -> None:
    """Raises ConfigError where a word of the line would change nothing of an export to the format `name`."""
    size_overrides = [f"batches={options['batches']}"] if "batches" in options else []
    size_overrides += [word for word in quant_overrides if word.lstrip("+").startswith("quant.auto_batches=")]
    if size_overrides and name != "auto":
        raise ConfigError(f"{size_overrides[0]} has no effect on format={name}", "use format=auto")
    if len(size_overrides) > 1:
        raise ConfigError(
            f"{' and '.join(size_overrides)} both name the batch sizes to measure at", f"keep {size_overrides[0]}"
        )
    backend = next(
        (word for word in quant_overrides if word.lstrip("+").startswith("quant.backend=")), "quant.backend=auto"
    )
    backend_format = FORMAT_OF_BACKEND.get(backend.partition("=")[2], name)
    if backend_format != name:
        raise ConfigError(
            f"{backend} is not what runs format={name}", f"use format={backend_format}, or leave quant.backend out"
        )
    runtime = options.get("runtime", "eager")
    if runtime not in _RUNTIMES:
        raise ConfigError(f"runtime={runtime} is none of {', '.join(_RUNTIMES)}", did_you_mean(runtime, _RUNTIMES))
    if "runtime" in options and name != "pt2":
        raise ConfigError(f"runtime={runtime} has no effect on format={name}", "use format=pt2")


def choose_quantization(name: str, quant_overrides: Sequence[str], run_quant: object = None) -> PostTraining:
    """The quantisation that `words` choose, for a format that quantises; else the run's `own` where it learned one, or that of the format.

    Raises ConfigError where it is none of those that work on a trained model, or cannot be held by the format.
    """
    from dnntrain.config.compose import compose
    from dnntrain.config.decode import decode_config

    is_learned = isinstance(run_quant, PostTraining) and run_quant.is_quantization_aware
    if isinstance(run_quant, PostTraining) and is_learned and not quant_overrides and name != "pt2_cuda":
        return run_quant
    default = "quant=float8" if name == "pt2_cuda" else "quant=qat" if is_learned else "quant=int8_static"
    has_choice = any(word.lstrip("+").startswith("quant=") for word in quant_overrides)
    config = decode_config(compose([*([] if has_choice else [default]), *quant_overrides], None))
    quant = config.quant
    choice = config.resolved["choices"]["quant"]
    if not isinstance(quant, PostTraining):
        raise ConfigError(f"quant={choice} does not quantise a trained model", "use quant=int8_static")
    quant.check_options()
    if name not in quant.formats and (name != "auto" or quant.formats == ("pt2_cuda",)):
        raise ConfigError(f"format={name} cannot hold quant={choice}", f"use format={quant.formats[0]}")
    return quant
