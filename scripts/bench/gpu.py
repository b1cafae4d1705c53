"""Measure training and inference on a GPU in one call: about eight minutes, no network, torch 2.11.

    python scripts/bench/gpu.py                       # all parts; prints a table and writes gpu.json
    python scripts/bench/gpu.py --parts loop,formats --seconds 2
    python scripts/bench/gpu.py --tiny                # seconds on a CPU: shows that every part runs

Parts:
  loop      the loop's own cost: a step of the trainer beside a loop written by hand, same network and batch
  formats   resnet18: bf16, channels-last and torch.compile, each beside the line before it
  fsdp      fsdp on one rank beside one process
  airbench  airbench's network and recipe on Fashion-MNIST (or digits): time and accuracy
  images    resnet18 and resnet50 at 224 pixels, synthetic: training beside a hand-written timm-style loop, inference
  float8    quant=float8_training beside bf16
  exports   the export formats of a small network, by dnntrain bench

Every figure is a ratio of blocks that took turns in one process, with its interval, unless it says otherwise. A part
that cannot run here says why, and the others go on. Needs dnntrain and torch only; timm is used if it is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from dnntrain.bench.statistics import Interval, compute_ratio_interval
from dnntrain.errors import DnntrainError

PARTS = ("loop", "formats", "fsdp", "airbench", "images", "float8", "exports")
#: Pairs of blocks of a comparison.
PAIRS = 8


def main() -> None:
    """Run the parts, print their rows and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a block")
    parser.add_argument("--budget", type=float, default=460.0, help="seconds after which no part begins")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    bench = Bench(0.02 if options.tiny else options.seconds, options.tiny)
    started = time.monotonic()
    bench.say("machine", **describe_machine())
    for name in options.parts.split(","):
        if time.monotonic() - started > options.budget:
            bench.say(name, skipped="no time left; --parts runs it alone")
            continue
        begun = time.monotonic()
        try:
            getattr(bench, f"run_{name}")()
        except (DnntrainError, RuntimeError, ImportError, OSError, subprocess.SubprocessError) as error:
            bench.say(name, failed=f"{type(error).__name__}: {error}"[:300])
        bench.say(name, took_s=round(time.monotonic() - begun, 1))
    bench.say("machine", after=read_clocks())
    options.out.write_text(json.dumps(bench.rows, indent=1))


def describe_machine() -> dict[str, Any]:
    """Return card, clocks and versions."""
    facts: dict[str, Any] = {"torch": torch.__version__, "cores": os.cpu_count(), "clocks": read_clocks()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        facts |= {"card": card.name, "memory_gb": round(card.total_memory / 1e9), "cuda": torch.version.cuda}
    return facts


def read_clocks() -> str:
    """Return clocks, temperature and power as nvidia-smi states them; empty without it."""
    query = "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem,temperature.gpu,power.draw"
    try:
        done = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Steps:
    """Steps of a training that are made when asked."""

    def __init__(self, make_step: Callable[[], object], examples: int) -> None:
        self.make_step = make_step
        self.examples = examples

    def time(self, count: int) -> float:
        """Return the seconds of `count` steps."""
        synchronize()
        started = time.perf_counter()
        for _ in range(count):
            self.make_step()
        synchronize()
        return time.perf_counter() - started


def open_line(*words: str) -> Steps:
    """Build the trainer of a line, without rows, evaluation and checkpoints."""
    from dataclasses import replace

    from dnntrain.config.compose import compose
    from dnntrain.config.decode import decode_config
    from dnntrain.run.scratch import build_scratch_trainer
    from dnntrain.run.session import open_session
    from dnntrain.training.loop import iterate_steps
    from dnntrain.utils.world import World

    session = open_session(decode_config(compose([*words, "log.every=1000000step"], quiet=True)), World())
    trainer = build_scratch_trainer(session, lambda row: None, keeps_callbacks=True)
    trainer.start_session()
    steps: Iterator[int] = iterate_steps(replace(trainer.loop))
    return Steps(lambda: next(steps), session.plan.batch_size)


class Bench:
    """Runs the parts and keeps their rows."""

    def __init__(self, seconds: float, tiny: bool) -> None:
        self.seconds = seconds
        self.tiny = tiny
        self.rows: list[dict[str, Any]] = []
        self.precision = "precision=fp32" if tiny else "precision=bf16"
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def say(self, part: str, **values: Any) -> None:
        """Keep and print a row."""
        self.rows.append({"part": part, **values})
        print(f"{part:<9} " + "  ".join(f"{name}={value}" for name, value in values.items()), flush=True)

    def compare(self, part: str, name: str, old: Steps, new: Steps) -> None:
        """Time two lines in turns, and say how much faster the new one is for an example."""
        interval, rates = self.measure(old, new)
        low, median, high = (round(value, 3) for value in (interval.low, interval.median, interval.high))
        self.say(part, line=name, ratio=median, low=low, high=high, old_per_s=rates[0], new_per_s=rates[1])

    def measure(self, old: Steps, new: Steps) -> tuple[Interval, tuple[float, float]]:
        """Return the ratio of the times of an example, old over new, and the examples per second of both."""
        sides = (old, new)
        for side in sides:
            side.time(2 if self.tiny else 10)
        counts = [max(1, round(self.seconds / max(side.time(2) / 2, 1e-6))) for side in sides]
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(6 if self.tiny else PAIRS):
            for index in (0, 1) if number % 2 == 0 else (1, 0):
                times[index].append(sides[index].time(counts[index]) / counts[index] / sides[index].examples)
        best = [sorted(values)[len(values) // 2] for values in times]
        return compute_ratio_interval(times[0], times[1]), (round(1 / best[0]), round(1 / best[1]))

    def run_loop(self) -> None:
        """The trainer beside a loop by hand: the same network, optimizer and batch, data on the device."""
        batch = 64
        line = ["model=mlp", "data=digits", f"train.batch_size={batch}", "precision=fp32", "train.compile=off"]
        self.compare("loop", "dnntrain beside a hand-written loop", self.write_loop(batch), open_line(*line))

    def write_loop(self, batch: int) -> Steps:
        from dnntrain.config.compose import compose
        from dnntrain.config.decode import decode_config
        from dnntrain.nn.shape import ModelShape
        from dnntrain.run.session import open_session
        from dnntrain.utils.world import World

        session = open_session(decode_config(compose(["model=mlp", "data=digits"], quiet=True)), World())
        model = session.config.model.build(ModelShape.from_spec(session.data.spec)).to(self.device)
        inputs = torch.randn(1437, *session.data.spec.inputs.shape, device=self.device)
        targets = torch.randint(10, (1437,), device=self.device)
        return make_steps(model, inputs, targets, batch, autocast=False)

    def run_formats(self) -> None:
        """bf16, channels-last and compile on resnet18, each beside the line before it."""
        base = [*self.pick_images("resnet18", 64), "precision=fp32", "train.compile=off", "train.channels_last=off"]
        changes = (
            ("bf16", "precision=bf16"),
            ("channels-last", "train.channels_last=on"),
            ("compile", "train.compile=on"),
        )
        old_words = base
        for name, word in changes if not self.tiny else changes[1:2]:
            new_words = [*(old for old in old_words if old.partition("=")[0] != word.partition("=")[0]), word]
            self.compare("formats", name, open_line(*old_words), open_line(*new_words))
            old_words = new_words

    def pick_images(self, model: str, batch: int, size: int = 224) -> list[str]:
        """Return the words of a network on synthetic images."""
        # A CPU may emulate bf16 a hundred times more slowly, so that --tiny leaves it out.
        model, size, batch = ("resnet20", 16, 4) if self.tiny else (model, size, batch)
        words = [f"model={model}", "data=synthetic", "data.channels=3", f"data.image_size={size}"]
        examples = [f"data.train_size={batch * 8}", "data.test_size=20", "data.val_fraction=0", "eval.run_test=false"]
        return [*words, *examples, f"train.batch_size={batch}"]

    def run_fsdp(self) -> None:
        """fsdp on one rank beside one process: whole short runs, by their own clock."""
        steps = 10 if self.tiny else 60
        line = [
            *self.pick_images("resnet18", 64),
            f"train.duration={steps}step",
            "train.compile=off",
            "log.report=false",
        ]
        values = {}
        for name, words in (("single", ["parallel=single"]), ("fsdp", ["parallel=fsdp", "launch.nproc=1"])):
            values[name] = self.train([*line, *words])["step_ms"]
        self.say("fsdp", ratio=round(values["fsdp"] / values["single"], 3), **values)

    def run_airbench(self) -> None:
        """airbench's network and recipe; on Fashion-MNIST if its files are here, else on digits."""
        fashion = [path for path in (Path("/usr/share/datasets/fashion-mnist"),) if path.is_dir()]
        data = ["data=fashion_mnist", f"data.root={fashion[0]}"] if fashion and not self.tiny else ["data=digits"]
        words = [
            "model=airbench",
            *data,
            "train.duration=1ep" if self.tiny else "train.duration=8ep",
            "log.report=false",
        ]
        result = self.train(words)
        keys = ("value", "train_s", "examples_per_s", "step_ms")
        self.say("airbench", data=data[0], **{key: result.get(key) for key in keys})

    def train(self, words: Sequence[str]) -> dict[str, Any]:
        """Train in a process of its own, and return result.json."""
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "dnntrain", *words, f"run_dir={folder}/run", "--json", "-q"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
            if done.returncode:
                raise RuntimeError(done.stderr.strip()[-300:])
            result: dict[str, Any] = json.loads((Path(folder) / "run" / "result.json").read_text())
            return result

    def run_images(self) -> None:
        """resnet18 and resnet50 at 224 pixels beside a loop as timm's scripts have it: autocast, channels-last."""
        for model in ("resnet18",) if self.tiny else ("resnet18", "torchvision model.name=resnet50"):
            name, *options = model.split()
            batch = 4 if self.tiny else 128
            words = [*self.pick_images(name, batch), *options, self.precision, "train.channels_last=on"]
            network = self.build_network(words)
            size = 16 if self.tiny else 224
            images = torch.randn(batch, 3, size, size, device=self.device).to(memory_format=torch.channels_last)
            targets = torch.randint(10, (batch,), device=self.device)
            network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            by_hand = make_steps(network, images, targets, batch, autocast=True)
            self.compare(
                "images", f"{model}, training beside a loop by hand", by_hand, open_line(*words, "train.compile=off")
            )
            self.time_inference(model, network, images)

    def build_network(self, words: Sequence[str]) -> torch.nn.Module:
        from dnntrain.config.compose import compose
        from dnntrain.config.decode import decode_config
        from dnntrain.nn.shape import ModelShape
        from dnntrain.run.session import open_session
        from dnntrain.utils.world import World

        session = open_session(decode_config(compose(list(words), quiet=True)), World())
        network: torch.nn.Module = session.config.model.build(ModelShape.from_spec(session.data.spec))
        return network

    @torch.no_grad()
    def time_inference(self, name: str, network: torch.nn.Module, images: torch.Tensor) -> None:
        """Say the images per second of a forward pass in bf16."""
        network.eval()

        def compute() -> None:
            with torch.no_grad(), torch.autocast(self.device, torch.bfloat16, enabled=not self.tiny):
                network(images)

        steps = Steps(compute, len(images))
        steps.time(2)
        count = max(2, round(self.seconds / max(steps.time(1), 1e-6)))
        rates = sorted(len(images) * count / steps.time(count) for _ in range(5))
        self.say(
            "images",
            line=f"{name}, inference in bf16",
            per_s=round(rates[2]),
            low=round(rates[0]),
            high=round(rates[-1]),
        )

    def run_float8(self) -> None:
        """float8 training of a transformer beside bf16."""
        size = ["model.embed_dim=64", "model.depth=2"] if self.tiny else ["model.embed_dim=1024", "model.depth=12"]
        line = [
            "model=vit_tiny",
            "model.num_heads=4",
            "data=digits",
            *size,
            self.precision,
            "train.batch_size=32",
            "train.compile=off",
        ]
        self.compare(
            "float8", "quant=float8_training beside bf16", open_line(*line), open_line(*line, "quant=float8_training")
        )

    def run_exports(self) -> None:
        """The export formats beside each other, by `dnntrain bench`."""
        model, formats = ("mlp", ("pt2",)) if self.tiny else ("resnet20", ("onnx", "pt2", "aoti"))
        with tempfile.TemporaryDirectory() as folder:
            run = f"{folder}/run"
            self.call(
                "train",
                f"model={model}",
                "data=digits",
                "train.duration=1ep",
                f"run_dir={run}",
                "log.report=false",
                "-q",
            )
            for name in formats:
                try:
                    self.call("export", run, "--format", name, "-q")
                except RuntimeError as error:
                    self.say("exports", format=name, failed=str(error))
            fast = ["--rounds", "3", "--seconds", "0.02"] if self.tiny else []
            table = self.call("bench", run, "--trust", "--no-accuracy", *fast, "-q")
        for line in table.splitlines():
            self.say("exports", row=line)

    def call(self, *words: str) -> str:
        """Run a command and return its output."""
        command = [sys.executable, "-m", "dnntrain", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-300:])
        return done.stdout


def make_steps(
    model: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor, batch: int, *, autocast: bool
) -> Steps:
    """Return steps of a loop that is written by hand: AdamW, cross-entropy, a shuffled epoch on the device."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    order = torch.randperm(len(inputs), device=inputs.device)
    position = 0
    device = inputs.device.type
    model.train()

    def make_step() -> None:
        nonlocal position, order
        if position + batch > len(inputs):
            position, order = 0, torch.randperm(len(inputs), device=inputs.device)
        rows = order[position : position + batch]
        position += batch
        examples = inputs if len(inputs) == batch else inputs[rows]
        labels = targets if len(inputs) == batch else targets[rows]
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            outputs = model(examples)
        torch.nn.functional.cross_entropy(outputs.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Steps(make_step, batch)


if __name__ == "__main__":
    main()
