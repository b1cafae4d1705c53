"""The commands that use trained models: purpose, operands, options and examples of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from dnntrain.cli.command import JSON, TRUST, Command
from dnntrain.cli.options import Option
from dnntrain.config.fields import NonNegative, NonNegativeInt, PositiveInt, Range, RefusedWords
from dnntrain.explain.option_values import MAX_COUNT, MapName
from dnntrain.export.format_names import FORMAT_NAMES
from dnntrain.inference.option_values import (
    DATA_PLACES,
    BenchRuntime,
    Criterion,
    ExportRuntime,
    PredictionFormat,
    Split,
)

#: mypy cannot list the files of a folder.
_Format: Any = Annotated[
    Literal.__getitem__(FORMAT_NAMES),
    RefusedWords(
        ("torchscript", "jit", "pt"),
        "is deprecated in torch, and its files are code; use --format pt2, which torch.export writes and reads",
    ),
]

MODEL_COMMANDS: dict[str, Command] = {
    "eval": Command(
        "evaluate the model of a run or an export",
        "RUN…",
        ("dnntrain eval runs/NAME/ID", "dnntrain eval runs/NAME/ID --split val --json"),
        "RUN is a run directory or an export. Settings such as data=fashion_mnist choose other data.",
        options=(
            Option("split", "the split of the data; otherwise test, or all of data without a test split", Split),
            Option("map", "names of the data's classes that the model has by other names", str, placeholder="A=B,…"),
            TRUST,
            JSON,
        ),
    ),
    "predict": Command(
        "predict for images or rows of tables with a trained model",
        "RUN PATH…",
        (
            "dnntrain predict runs/NAME/ID photo.png folder/",
            "dnntrain predict runs/NAME/ID folder/ --format csv --top 3",
            "dnntrain predict runs/NAME/ID table.csv",
        ),
        "RUN is a run directory or an export, PATH an image, a folder of images, or a table. device= is the only "
        "setting.",
        options=(
            Option("format", "a table, or one JSON object per line; with --json jsonl", PredictionFormat, "csv"),
            Option("top", "the most probable classes of each example; 1 in csv and 5 in jsonl", PositiveInt, None, "N"),
            Option(
                "workers",
                "processes that decode images; by default one for each core if there are many files",
                NonNegativeInt,
                None,
                "N",
            ),
            Option("batch-size", "examples in one batch", PositiveInt, 64, "N"),
            Option("masks", "folder to write a PNG of each predicted mask into", str, None, "DIR"),
            TRUST,
            JSON,
        ),
        settings=("device",),
    ),
    "generate": Command(
        "continue a text with a trained language model",
        "RUN",
        (
            "dnntrain generate runs/NAME/ID --prompt 'def main' --tokens 200",
            "dnntrain generate runs/NAME/ID --temperature 0.8 --top-k 40 --samples 3 --json",
        ),
        "RUN is a run directory or an export of task=language_model. The text ends if the model begins another "
        "document. device= is the only setting.",
        options=(
            Option("prompt", "the text to continue; empty: the beginning of a document", str, "", "TEXT"),
            Option("tokens", "largest number of tokens of a text", PositiveInt, 200, "N"),
            Option("temperature", "divisor of the logits; 0: the most probable token", NonNegative, 1.0, "T"),
            Option("top-k", "draw among the K most probable tokens; by default among all", PositiveInt, None, "K"),
            Option("seed", "seed of the draws", NonNegativeInt, 0, "N"),
            Option("samples", "number of texts, generated together", PositiveInt, 1, "N"),
            Option(
                "cache", "keep keys and values of the tokens; without, the text is read again each time", default=True
            ),
            TRUST,
            JSON,
        ),
        settings=("device",),
    ),
    "report": Command(
        "write one self-contained HTML page for runs",
        "RUN…",
        ("dnntrain report runs/NAME/ID", "dnntrain report runs/a/1 runs/b/1", "dnntrain report runs/NAME/sweep-ID"),
        "One run: its curves, errors and settings. Several, or the folder of a sweep: side by side. "
        "The folder of a pipeline: its models, and which one to take.",
        options=(
            Option(
                "max-latency", "of a pipeline: name the best model within this time, such as 2ms", str, placeholder="T"
            ),
            Option("batch", "batch size of --max-latency", PositiveInt, 1, "N"),
            Option(
                "path",
                "the page to write; otherwise report.html of the run, comparison.html of the sweep, "
                "or comparison-NAMES.html beside the runs",
                Path,
                placeholder="FILE.html",
            ),
            JSON,
        ),
        settings=(),
    ),
    "explain": Command(
        "show how a model comes to its answers: maps with checks, calibration, labels in doubt, layers",
        "RUN",
        (
            "dnntrain explain runs/NAME/ID",
            "dnntrain explain runs/NAME/ID --examples worst photo.png --method occlusion",
            "dnntrain explain runs/NAME/ID/exports/onnx --json",
            "dnntrain explain runs/NAME/ID --against runs/NAME/ID/exports/onnx_int8",
        ),
        "Writes explain.html and explain.json beside the model. A map that fails a check is gray, with the reason.",
        options=(
            Option(
                "examples",
                "the examples with maps: worst, uncertain, random, or files of images or texts",
                tuple[Path, ...],
                placeholder="SET|FILE…",
            ),
            Option("count", "examples of each set", Annotated[int, Range(at_least=1, at_most=MAX_COUNT)], 8, "N"),
            Option("method", "how maps are made; auto: the method that fits the network", MapName, "auto"),
            Option("layer", "the layer of an activation map; otherwise the last one of 4x4 places", str),
            Option("split", "the split of the data", Split, "test"),
            Option("against", "another run, or an export, to compare with", Path, placeholder="RUN"),
            Option("directions", "the loss along the way of the run's checkpoints, and a random way", default=False),
            Option("path", "the page to write; otherwise explain.html beside the model", Path, placeholder="FILE.html"),
            TRUST,
            JSON,
        ),
    ),
    "diff": Command(
        "show what differs between two runs, and the step where they part",
        "RUN RUN",
        ("dnntrain diff runs/a/1 runs/b/1", "dnntrain diff runs/a/1 runs/b/1 --no-replay --json"),
        "Compares settings, versions, data and metrics, then trains both again in one process, from their last "
        "common checkpoint, until a tensor differs.",
        options=(
            Option("replay", "compare the files only, and train nothing", default=True),
            Option("steps", "the most steps to train again", PositiveInt, 1000, "N"),
            TRUST,
            JSON,
        ),
        settings=(),
    ),
    "export": Command(
        "export a model to a portable format, checked against its source",
        "RUN",
        (
            "dnntrain export runs/NAME/ID --format onnx",
            "dnntrain export runs/NAME/ID --format onnx_int8 --path small quant.calibration_batches=16",
        ),
        options=(
            Option("format", "the format; auto: the fastest on this machine", _Format, "safetensors"),
            Option("path", "the folder to write; otherwise exports/FORMAT of the run", Path, placeholder="DIR"),
            Option("threads", "CPU threads; otherwise as many as there are cores", PositiveInt, None, "N"),
            Option(
                "runtime", "how the program computes", ExportRuntime, "eager", needs=("format", ("pt2", "openvino"))
            ),
            Option(
                "batches",
                "batch sizes to measure at; otherwise those of the quantization",
                tuple[PositiveInt, ...],
                placeholder="N,N",
                needs=("format", ("auto",)),
            ),
            Option(
                "opset",
                "the version of ONNX's operators; otherwise the exporter's own",
                Annotated[int, Range(at_least=9)],
                placeholder="N",
                needs=("format", ("onnx", "onnx_int8")),
            ),
            Option("half", "weights and activations in float16", default=False, needs=("format", ("onnx", "pt2"))),
            Option(
                "batch",
                "a fixed number of images in a call; otherwise any number",
                PositiveInt,
                placeholder="N",
                needs=("format", ("onnx", "onnx_int8", "pt2", "aoti", "openvino", "openvino_int8")),
            ),
            TRUST,
            JSON,
        ),
    ),
    "bench": Command(
        "measure latency, throughput and size on this machine",
        "RUN…",
        (
            "dnntrain bench runs/NAME/ID --batches 1,64 --threads 2",
            "dnntrain bench runs/NAME/ID/exports/onnx runs/NAME/ID/exports/onnx_int8 "
            "--picture bench.png --csv bench.csv",
        ),
        "A run is measured eager and compiled, in float32 and bfloat16, and with its exports. "
        "An export is measured alone.",
        options=(
            Option("batches", "batch sizes", tuple[PositiveInt, ...], (1, 64), "N,N"),
            Option("threads", "CPU threads; otherwise as many as there are cores", PositiveInt, None, "N"),
            Option("rounds", "timed blocks of calls for each model", PositiveInt, 9, "N"),
            Option("seconds", "length of a block, in seconds", Annotated[float, Range(above=0, at_most=60)], 0.2, "S"),
            Option("runtimes", "how the model of a run computes; otherwise all four", tuple[BenchRuntime, ...]),
            Option("exports", "skip the exports of a run", default=True),
            Option("accuracy", "skip the accuracy on the test data", default=True),
            Option("csv", "write the figures to FILE", Path, placeholder="FILE"),
            Option("picture", "draw accuracy and latency to a .png, .svg or .pdf file", Path, placeholder="FILE"),
            TRUST,
            JSON,
        ),
    ),
    "prune": Command(
        "measure which channels of a trained network matter",
        "RUN",
        ("dnntrain prune runs/NAME/ID --sensitivity", "dnntrain prune runs/NAME/ID --sensitivity --json"),
        "Cuts a quarter, half and three quarters of each group of channels, and evaluates without training. "
        "To remove channels, train with prune=structured.",
        options=(
            Option("sensitivity", "the metric against the share that is removed, for each group", default=False),
            Option("criterion", "the score by which channels stay", Criterion, "magnitude"),
            TRUST,
            JSON,
        ),
    ),
    "verify": Command(
        "check the certificate of a pipeline's final model again",
        "FILE",
        (
            "dnntrain verify runs/s/quantize-1a2b/exports/onnx_int8/certificate.json",
            "dnntrain verify copy/ data.root=/data --json",
        ),
        "FILE is a certificate or its folder. Compares files, data, metric and latency, and says what differs. "
        "The exit code is 5 if a file was altered, or if data or metric do not hold.",
        options=(Option("timing", "skip the measurement of latency", default=True), TRUST, JSON),
        settings=(*(f"data.{name}" for name in DATA_PLACES), "data.download"),
    ),
}
