"""The verbs: what each does, the words it takes besides overrides, and examples.

Help, completion and the parser read it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One verb.

    `words` describes its other words ("" where it takes overrides only).
    """

    doc: str
    operands: str = ""
    examples: tuple[str, ...] = ()
    details: str = ""
    takes_overrides: bool = True


COMMANDS: dict[str, Command] = {
    "train": Command(
        "train a network (also without the word)",
        examples=(
            "dnntrain",
            "dnntrain model=resnet20 data=cifar10 train.duration=30ep optim.lr=0.1",
            "dnntrain +reg=[ema,label_smoothing] reg.ema.decay=0.99 precision=bf16",
            "dnntrain experiment=fashion_fast run_dir=runs/first",
        ),
        details="The same line with the same run_dir goes on where it stopped. The last line is the report's path.",
    ),
    "resume": Command(
        "go on with a run, with changes shown",
        "RUN",
        ("dnntrain resume runs/small_cnn-digits/20260101-120000", "dnntrain resume runs/NAME/ID train.duration=60ep"),
        "Duration, evaluation, logging and devices may change; the network, the data and the optimizer may not.",
    ),
    "slurm": Command(
        "hand a run to Slurm as a batch job",
        examples=(
            "dnntrain slurm parallel=ddp launch.nodes=2 launch.gpus=8 launch.time=4:00:00",
            "dnntrain slurm parallel=ddp launch.nproc=4 launch.partition=short --print",
        ),
        details="--print shows the batch script and submits nothing. A preempted job is queued again and goes on.",
    ),
    "plan": Command(
        "print what would run, and train nothing",
        examples=("dnntrain plan model=resnet20 data=cifar10", "dnntrain plan parallel=ddp launch.nproc=2 --json"),
        details="Layout, batches, steps, parameters, memory, and what was chosen for you and why.",
    ),
    "eval": Command(
        "metrics of a run's or export's model on a data set",
        "RUN…",
        ("dnntrain eval runs/NAME/ID", "dnntrain eval runs/NAME/ID split=val --json"),
        "split is train, val or test. Other settings compose the run anew, as in data=fashion_mnist.",
    ),
    "predict": Command(
        "classes and probabilities for images",
        "RUN PATH…",
        ("dnntrain predict runs/NAME/ID photo.png folder/", "dnntrain predict runs/NAME/ID folder/ --json"),
        "RUN is a run directory or an export. Prints CSV, or with format=jsonl one object a line; workers=4 decoding processes.",
    ),
    "report": Command(
        "one self-contained HTML page for runs",
        "RUN…",
        ("dnntrain report runs/NAME/ID", "dnntrain report runs/a/1 runs/b/1", "dnntrain report runs/NAME/sweep-ID"),
        "One run: its curves, errors and settings. Several, or the folder of a sweep: side by side.",
    ),
    "export": Command(
        "portable formats, checked against the source",
        "RUN",
        (
            "dnntrain export runs/NAME/ID format=onnx",
            "dnntrain export runs/NAME/ID format=onnx_int8 quant.batches=16 path=small",
        ),
        "format is safetensors, pt2, onnx, onnx_int8, pt2_int8, aoti or auto; path a folder, by default exports/FORMAT of the run.",
    ),
    "bench": Command(
        "latency, throughput and size on this machine",
        "RUN…",
        (
            "dnntrain bench runs/NAME/ID batches=1,64 threads=2",
            "dnntrain bench runs/NAME/ID/exports/onnx runs/NAME/ID/exports/onnx_int8 picture=bench.png csv=bench.csv",
        ),
        "A run is measured eager and compiled, in float32 and bfloat16, with its exports; an export as it is.",
    ),
    "sweep": Command(
        "one run for each combination of values (-m)",
        examples=(
            "dnntrain -m sched=cosine,step optim.lr=0.1,0.01",
            "dnntrain sweep reg=[ema],[label_smoothing] seed=range(0,3) --at-once 2",
            "dnntrain -m optim.lr=0.1,0.01 parallel=ddp run_dir=runs/rates --dry-run",
        ),
        details="The same line again skips what is done and goes on with what was broken off. --dry-run lists the trials.",
    ),
    "tune": Command(
        "find the learning rate or the batch size for a run",
        "lr|batch",
        (
            "dnntrain tune lr model=resnet20 data=cifar10 optim=sgd",
            "dnntrain tune lr lowest=1e-5 highest=1 steps=200 --json",
            "dnntrain tune batch model=resnet18 largest=1024",
        ),
        "Takes the settings of the run, trains a network that is thrown away, and prints the line to use next. lr: lowest=, highest=, "
        "steps=. batch: smallest=, largest=, steps=.",
    ),
    "ls": Command(
        "groups, their choices and knobs",
        "[GROUP [CHOICE]]",
        ("dnntrain ls", "dnntrain ls optim", "dnntrain ls reg ema", "dnntrain ls optim sgd --json"),
        takes_overrides=False,
    ),
    "config": Command(
        "print the resolved configuration",
        examples=(
            "dnntrain config",
            "dnntrain config optim=sgd +reg=[ema] > mine.yaml",
            "dnntrain optim=sgd --cfg job",
        ),
        details="YAML on stdout, or JSON with --json. --config-dir DIR searches your own presets and experiments too.",
    ),
    "schema": Command(
        "JSON Schema of a configuration, for editors",
        examples=("dnntrain schema > schema.json",),
        details="Put `# yaml-language-server: $schema=schema.json` at the head of a saved config.yaml.",
        takes_overrides=False,
    ),
    "completion": Command(
        "shell completion",
        "bash|zsh|fish",
        ('eval "$(dnntrain completion bash)"', "dnntrain completion fish > ~/.config/fish/completions/dnntrain.fish"),
        takes_overrides=False,
    ),
    "doctor": Command(
        "versions, devices, processor features, ports, write access",
        examples=("dnntrain doctor", "dnntrain doctor --json"),
        takes_overrides=False,
    ),
}
