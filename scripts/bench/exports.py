"""Every way to run a network, side by side, and what auto chooses among them: the tables of docs/benchmarks.md.

    python scripts/bench/exports.py --models resnet18 mobilenet_v3_small vit_tiny small_cnn [--folder FOLDER] [--only prepare|measure]

For each model: a short run on synthetic images, its exports, `dnntrain export --format auto
--batches 1,64`, the export that quant.backend=auto makes, and `dnntrain bench` of all of them with
the run eager and compiled. If integers are less than 1.5 times as fast as the best that needs no
quantization (fp32 or bf16 compiled, ONNX Runtime, OpenVINO), export_limits.py measures which limit
stops them.

With --folder runs and exports are kept; `--only prepare` makes them, so that `--only measure` can have the machine to itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args

import dnntrain
from dnntrain.bench.candidates import make_candidates
from dnntrain.bench.measure import BenchResult, measure_candidates
from dnntrain.bench.statistics import Interval
from dnntrain.cli.main import main as command
from dnntrain.export.manifest import read_manifest
from dnntrain.inference.option_values import BenchRuntime
from dnntrain.utils.hardware import probe_hardware
from dnntrain.utils.units import format_bytes

#: Model → side of its images.
MODELS = {"resnet18": 32, "mobilenet_v3_small": 64, "vit_tiny": 32, "small_cnn": 32}
#: Name of the export → its format and how it computes.
EXPORTS = {
    **{name: (name, "eager") for name in ("aoti", "onnx", "onnx_int8", "openvino", "openvino_int8", "pt2_int8")},
    "openvino_bf16": ("openvino", "eager_bf16"),
}
BATCHES = (1, 64)
#: Rows that are anyone's, and rows of integers.
WITHOUT_US = ("compiled fp32", "compiled bf16", "onnx", "openvino", "openvino_bf16")
INTEGERS = ("onnx_int8", "pt2_int8", "openvino_int8")
WANTED = 1.5
QUANT = ("quant=int8_static", "quant.calibration_batches=4")
_LIMITS = Path(__file__).with_name("export_limits.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--folder", type=Path, help="where runs are kept; without it they are not")
    parser.add_argument("--only", choices=("prepare", "measure", "limits"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.2)
    arguments = parser.parse_args()
    hardware = probe_hardware("cpu")
    print(f"{hardware.cpu_model}, {arguments.threads} threads; features: {' '.join(hardware.cpu_features)}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder.absolute() if arguments.folder else Path(temporary)
        for model in arguments.models:
            if arguments.only in (None, "prepare"):
                prepare(folder / model, model, arguments.threads)
            if arguments.only in (None, "measure"):
                show(model, folder / model, arguments)
            if arguments.only == "limits":
                for batch in BATCHES:
                    limits(folder / model, batch, arguments.threads)


def prepare(run: Path, model: str, threads: int) -> None:
    """The run, and each of its exports, unless they are there."""
    if not (run / "result.json").exists():
        words = ("data=synthetic", "data.channels=3", f"data.image_size={MODELS[model]}", "data.train_size=1280")
        shorter = ("train.duration=2ep", "train.batch_size=32", "log.report=false", f"train.cpu_threads={threads}")
        optimizer = ("optim=adamw", "optim.lr=1e-3")
        result = dnntrain.train(f"model={model}", *words, *shorter, *optimizer, f"run_dir={run}", display="quiet")
        print(f"{model}: trained to {result['value']} ", flush=True)
    for name, (export_format, runtime) in EXPORTS.items():
        path = run / "exports" / name
        if not path.exists():
            options = QUANT if name in INTEGERS else () if runtime == "eager" else (f"--runtime={runtime}",)
            command(
                ["export", str(run), f"--format={export_format}", f"--path={path}", f"--threads={threads}", *options]
            )


def show(model: str, run: Path, arguments: argparse.Namespace) -> None:
    """Measures and prints."""
    batches = ",".join(str(batch) for batch in BATCHES)
    threads = f"--threads={arguments.threads}"
    command(["export", str(run), "--format=auto", f"--batches={batches}", threads, *QUANT])
    best_integers(run, arguments.threads)
    timed = measure_candidates(
        make_candidates([run], runtimes=get_args(BenchRuntime), trust=True),
        BATCHES,
        threads=arguments.threads,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        should_evaluate=False,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    rows = {found.name: found for found in timed}
    print(f"\n### {model}, {MODELS[model]} px\n")
    print(table(list(rows.values()), run))
    print("\n| batch | best row | auto chose | auto ÷ best row | auto ÷ best without us | integers ÷ best without us |")
    print("|---|---|---|---|---|---|")
    short = [batch for batch in BATCHES if verdict(rows, run, batch)]
    for batch in short:
        limits(run, batch, arguments.threads)


def best_integers(run: Path, threads: int) -> None:
    """What a run with quant.backend=auto writes at its end, to exports/int8."""
    from dnntrain.bench.fastest_export import export_fastest
    from dnntrain.inference.export_run import ExportSource, choose_quantization
    from dnntrain.inference.load import load_run

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    quant = choose_quantization("auto", QUANT)
    target = run / "exports" / "int8"
    subject = ExportSource.from_model(load_run(run))
    export_fastest(subject, target, quant, batches=BATCHES, threads=threads, quantized_only=True, say=say)


def table(rows: list[BenchResult], run: Path) -> str:
    """Images per second with intervals of 95 % coverage or more, ratios to eager float32, and the census of what ran."""
    head = ["model", "size", *(cell for batch in BATCHES for cell in (f"batch {batch}", "ratio")), "multiply-adds"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for found in rows:
        cells = [found.name, format_bytes(found.load_info["size_bytes"])]
        for batch in BATCHES:
            cells += [written(found.throughput(batch)), f"{found.ratio(rows[0], batch).median:.2f}"]
        lines.append(f"| {' | '.join([*cells, census(run, found.name)])} |")
    return "\n".join(lines)


def written(rate: Interval) -> str:
    return f"{rate.median:.0f} ({rate.low:.0f}-{rate.high:.0f})"


def census(run: Path, name: str) -> str:
    """The shares of the export called `name`, where its manifest has them."""
    if not (run / "exports" / name).is_dir():
        return ""
    shares = read_manifest(run / "exports" / name).details.get("census", {}).get("shares", {})
    return ", ".join(f"{100 * share:.0f} % {kind}" for kind, share in shares.items())


def verdict(rows: dict[str, BenchResult], run: Path, batch: int) -> bool:
    """Prints the line of one batch size; true where integers do not pay as they are wanted to."""

    def best(names: list[str]) -> BenchResult:
        return max((rows[name] for name in names if name in rows), key=lambda found: found.throughput(batch).median)

    auto, top = rows["auto"], best([name for name in rows if name not in ("auto", "int8")])
    floats, integers = best(list(WITHOUT_US)), best(list(INTEGERS))
    cells = [str(batch), top.name, choice(run / "exports" / "auto", batch), ratio(auto, top, batch)]
    cells += [f"{ratio(auto, floats, batch)} {floats.name}", f"{integers.name} {ratio(integers, floats, batch)}"]
    print(f"| {' | '.join(cells)} |", flush=True)
    return integers.ratio(floats, batch).median < WANTED


def ratio(found: BenchResult, base: BenchResult, batch: int) -> str:
    interval = found.ratio(base, batch)
    return f"{interval.median:.3f} ({interval.low:.3f}-{interval.high:.3f})"


def choice(path: Path, batch: int) -> str:
    """What auto ships for `batch`."""
    details = read_manifest(path).details
    return str(details.get("auto", details)["choices"][str(batch)])


def limits(run: Path, batch: int, threads: int) -> None:
    """Runs export_limits.py in a process of its own, with the threads' settings that bench gives its processes."""
    variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    words = [sys.executable, str(_LIMITS), str(run), f"--batch={batch}", f"--threads={threads}"]
    found = subprocess.run(words, env={**os.environ, **variables}, text=True, stdout=subprocess.PIPE, check=False)
    print(found.stdout if found.returncode == 0 else json.dumps({"failed": words}), flush=True)


if __name__ == "__main__":
    main()
