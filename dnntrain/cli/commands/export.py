"""`dnntrain export RUN format=… [path=…]`: a trained model in a portable form, compared with its source."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dnntrain.choices.quant._post_training import FORMAT_OF_BACKEND, PostTraining
from dnntrain.cli.options import count, counts, own_words
from dnntrain.cli.parser import Arguments
from dnntrain.errors import ConfigError
from dnntrain.utils.hardware import detect
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.world import World

_WORDS = ("format", "path", "threads", "runtime", "batches")

#: How a program may be run.
_RUNTIMES = ("eager", "eager_bf16", "compiled", "compiled_bf16")


def run(arguments: Arguments) -> int:
    """Writes the export to `path`, by default exports/FORMAT in the run directory, and prints where it is."""
    from dnntrain.export.formats import device_of
    from dnntrain.inference.export_run import Subject, export, format_of, report
    from dnntrain.inference.load import load_trained

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
    own, others = own_words(arguments.overrides, _WORDS)
    quantising = [word for word in others if word.lstrip("+").startswith(("quant=", "quant."))]
    overrides = [word for word in others if word not in quantising]
    name = own.get("format", "safetensors")
    threads = count(own, "threads", None)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    found = format_of(name)
    for word in overrides:
        if word.lstrip("+").startswith("device="):
            device_of(found, word.partition("=")[2], chosen=True)
    trained = load_trained(run_path, overrides)
    quant = quantisation(name, quantising, trained.config.quant) if not found.exact else None
    if quantising and quant is None:
        raise ConfigError(f"{quantising[0]} has no effect on format={name}", "use format=onnx_int8 or format=pt2_int8")
    _check_words(name, own, quantising)
    runtime = own.get("runtime", "eager")
    subject = Subject.of(trained)
    target = Path(own["path"]).expanduser() if "path" in own else run_path / "exports" / name

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    for note in subject.notes(quant):
        say(f"note: {note}")
    if quant is not None and name == "auto":
        from dnntrain.bench.fastest_export import export_fastest

        batches = counts(own, "batches", quant.measured_batches)
        cores = threads or detect("cpu").cores
        card = export_fastest(subject, target, quant, batches=batches, threads=cores, quantised_only=False, say=say)
    else:
        card = export(subject, found, target, quant, say, runtime=runtime)
    print(json.dumps(report(card, target)) if arguments.json else target)
    return 0


def _check_words(name: str, own: Mapping[str, str], quantising: Sequence[str]) -> None:
    """Raises ConfigError where a word of the line would change nothing of an export to the format `name`."""
    sizes = [f"batches={own['batches']}"] if "batches" in own else []
    sizes += [word for word in quantising if word.lstrip("+").startswith("quant.auto_batches=")]
    if sizes and name != "auto":
        raise ConfigError(f"{sizes[0]} has no effect on format={name}", "use format=auto")
    if len(sizes) > 1:
        raise ConfigError(f"{' and '.join(sizes)} both name the batch sizes to measure at", f"keep {sizes[0]}")
    backend = next((word for word in quantising if word.lstrip("+").startswith("quant.backend=")), "quant.backend=auto")
    wanted = FORMAT_OF_BACKEND.get(backend.partition("=")[2], name)
    if wanted != name:
        raise ConfigError(
            f"{backend} is not what runs format={name}", f"use format={wanted}, or leave quant.backend out"
        )
    runtime = own.get("runtime", "eager")
    if runtime not in _RUNTIMES:
        raise ConfigError(f"runtime={runtime} is none of {', '.join(_RUNTIMES)}", did_you_mean(runtime, _RUNTIMES))
    if "runtime" in own and name != "pt2":
        raise ConfigError(f"runtime={runtime} has no effect on format={name}", "use format=pt2")


def quantisation(name: str, words: Sequence[str], own: object = None) -> PostTraining:
    """The quantisation that `words` choose, for a format that quantises; else the run's `own` where it learned one, or that of the format.

    Raises ConfigError where it is none of those that work on a trained model, or cannot be held by the format.
    """
    from dnntrain.config.compose import compose
    from dnntrain.config.decode import decode

    learned = isinstance(own, PostTraining) and own.learned
    if isinstance(own, PostTraining) and learned and not words and name != "pt2_cuda":
        return own
    default = "quant=float8" if name == "pt2_cuda" else "quant=qat" if learned else "quant=int8_static"
    chosen = any(word.lstrip("+").startswith("quant=") for word in words)
    config = decode(compose([*([] if chosen else [default]), *words], None))
    quant = config.quant
    choice = config.resolved["choices"]["quant"]
    if not isinstance(quant, PostTraining):
        raise ConfigError(f"quant={choice} does not quantise a trained model", "use quant=int8_static")
    quant.check()
    if name not in quant.formats and (name != "auto" or quant.formats == ("pt2_cuda",)):
        raise ConfigError(f"format={name} cannot hold quant={choice}", f"use format={quant.formats[0]}")
    return quant
