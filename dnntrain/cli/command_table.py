"""The commands: purpose, operands, options and examples of each.

The parser, --help, shell completion and docs/reference.md read this table. Imports neither hydra
nor torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from dnntrain.cli.options import Option
from dnntrain.config.fields import Fraction, NonNegative, NonNegativeInt, Positive, PositiveInt, Range, RefusedWords
from dnntrain.explain.option_values import MAX_COUNT, MapName
from dnntrain.export.format_names import FORMAT_NAMES
from dnntrain.inference.option_values import BenchRuntime, Criterion, ExportRuntime, PredictionFormat, Split
from dnntrain.sweep.option_values import RuleName, SamplerName

#: mypy cannot list the files of a folder.
_Format: Any = Annotated[
    Literal.__getitem__(FORMAT_NAMES),
    RefusedWords(
        ("torchscript", "jit", "pt"),
        "is deprecated in torch, and its files are code; use --format pt2, which torch.export writes and reads",
    ),
]

_VocabularySize: Any = Annotated[int, Range(at_least=257, at_most=2**18)]

JSON = Option("json", "machine-readable output", default=False)
CONFIG_DIR = Option(
    "config-dir", "search DIR for your own presets and experiments", Path, placeholder="DIR", short=("-cd",)
)
_TRUST = Option("trust", "run the code that the run or the export names: a .pt2 program, model.file", default=False)
_DRY_RUN = Option("dry-run", "show the run or job, and start nothing", default=False)

#: Options of every command.
COMMON_OPTIONS = (
    Option("help", "show this text; dnntrain COMMAND --help describes a command", default=False, short=("-h",)),
    Option("version", "print the versions of dnntrain, torch and python", default=False),
    Option("quiet", "show no progress on stderr", default=False, short=("-q",)),
    Option("verbose", "show where an error was raised", default=False, short=("-v",)),
)
#: Spellings of a command as an option, as Hydra has them.
COMMAND_SPELLINGS = (
    Option("multirun", "start a sweep: one run for each combination of values", default=False, short=("-m",)),
    Option("cfg", "print the resolved configuration and train nothing", str, placeholder="job"),
    Option("resolve", "with --cfg job, which always resolves", default=False),
)


class Command(NamedTuple):
    """One command.

    operands  its words besides settings and options: `RUN PATH…`, `[GROUP [CHOICE]]`, or `lr|batch` for
              one of these
    settings  the keys of KEY=VALUE that it takes; None: all
    composes  whether its settings alone make the configuration, so that they can be checked by themselves
    """

    doc: str
    operands: str = ""
    examples: tuple[str, ...] = ()
    details: str = ""
    options: tuple[Option, ...] = ()
    settings: tuple[str, ...] | None = None
    composes: bool = False

    @property
    def operand_choices(self) -> tuple[str, ...]:
        """The words of which one must be given."""
        return tuple(self.operands.split("|")) if "|" in self.operands else ()

    @property
    def operand_counts(self) -> tuple[int, float]:
        """The fewest and the most operands."""
        words = self.operands.split()
        fewest = sum(not word.startswith("[") for word in words)
        return fewest, float("inf") if "…" in self.operands else len(words)

    def select_options(self, operands: tuple[str, ...] = ()) -> dict[str, Option]:
        """Return the options by name that go with `operands`; without operands, the first of each name."""
        options: dict[str, Option] = {}
        for option in self.options:
            if not option.operand or not operands or option.operand == operands[0]:
                options.setdefault(option.name, option)
        return options


COMMANDS: dict[str, Command] = {
    "train": Command(
        "train a network (also without the word)",
        examples=(
            "dnntrain",
            "dnntrain model=resnet20 data=cifar10 train.duration=30ep optim.lr=0.1",
            "dnntrain +average=[ema] average.ema.decay=0.99 precision=bf16",
            "dnntrain experiment=fashion_fast run_dir=runs/first",
        ),
        details="The same line with the same run_dir resumes the run. The last line is the path of the report.",
        options=(JSON, CONFIG_DIR),
        composes=True,
    ),
    "resume": Command(
        "resume a run, and show what changes",
        "RUN",
        ("dnntrain resume runs/small_cnn-digits/20260101-120000", "dnntrain resume runs/NAME/ID train.duration=60ep"),
        "Duration, batch size, evaluation, logging and devices may change; network, data and optimizer may not.",
        options=(_TRUST, JSON, CONFIG_DIR),
    ),
    "submit": Command(
        "submit a run to Slurm as a batch job",
        examples=(
            "dnntrain submit parallel=ddp launch.nodes=2 launch.gpus_per_node=8 launch.time=4:00:00",
            "dnntrain submit parallel=ddp launch.nproc=4 launch.partition=short --dry-run",
        ),
        details="--dry-run prints the batch script. A preempted job is queued again and resumed.",
        options=(JSON, CONFIG_DIR, _DRY_RUN),
        composes=True,
    ),
    "plan": Command(
        "print the plan of a run, and train nothing",
        examples=("dnntrain plan model=resnet20 data=cifar10", "dnntrain plan parallel=ddp launch.nproc=2 --json"),
        details="Layout, batches, steps, parameters, memory, and the values chosen for you, with reasons.",
        options=(JSON, CONFIG_DIR),
        composes=True,
    ),
    "eval": Command(
        "evaluate the model of a run or an export",
        "RUN…",
        ("dnntrain eval runs/NAME/ID", "dnntrain eval runs/NAME/ID --split val --json"),
        "RUN is a run directory or an export. Settings such as data=fashion_mnist choose other data.",
        options=(
            Option("split", "the split of the data; otherwise test, or all of data without a test split", Split),
            Option("map", "names of the data's classes that the model has by other names", str, placeholder="A=B,…"),
            _TRUST,
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
            _TRUST,
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
            _TRUST,
            JSON,
        ),
        settings=("device",),
    ),
    "tokenize": Command(
        "write text files as tokens, for data=tokens",
        "PATH…",
        (
            "dnntrain tokenize books --tokenizer bpe --path tokens",
            "dnntrain tokenize corpus.txt --separator '<|endoftext|>' --path tokens",
        ),
        "PATH is a text file in UTF-8, or a folder of them. They are read one at a time, so the corpus may be larger "
        "than memory.",
        options=(
            Option("path", "the folder to write", Path, placeholder="DIR"),
            Option("tokenizer", "the tokens: see data.tokenizer", Literal["byte", "char", "bpe"], "byte"),
            Option("vocabulary-size", "largest number of tokens of bpe; by default 4096", _VocabularySize, None, "N"),
            Option("suffixes", "suffixes of the files of a folder", tuple[str, ...], (".txt", ".md"), "S,S"),
            Option("separator", "text between the documents of a file; by default each file is one", str, None, "TEXT"),
            Option("val-fraction", "fraction of the documents held out for validation", Fraction, 0.02, "F"),
            Option("test-fraction", "fraction of the documents held out for the test", Fraction, 0.02, "F"),
            JSON,
        ),
        settings=(),
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
                "the examples with maps: worst, uncertain, random, or image files",
                tuple[Path, ...],
                placeholder="SET|FILE…",
            ),
            Option("count", "examples of each set", Annotated[int, Range(at_least=1, at_most=MAX_COUNT)], 8, "N"),
            Option("method", "how maps are made; auto: the method that fits the network", MapName, "auto"),
            Option("layer", "the layer of an activation map; otherwise the last one of 4x4 places", str),
            Option("split", "the split of the data", Split, "test"),
            Option("against", "another run, or an export, to compare with", Path, placeholder="RUN"),
            Option("path", "the page to write; otherwise explain.html beside the model", Path, placeholder="FILE.html"),
            _TRUST,
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
            _TRUST,
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
            Option("runtime", "how the program computes", ExportRuntime, "eager", needs=("format", ("pt2",))),
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
                needs=("format", ("onnx", "onnx_int8", "pt2", "aoti")),
            ),
            _TRUST,
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
            Option("picture", "draw accuracy and latency to a PNG file", Path, placeholder="FILE"),
            _TRUST,
            JSON,
        ),
    ),
    "sweep": Command(
        "start one run for each combination of values (-m), or search for the best values",
        examples=(
            "dnntrain -m sched=cosine,step optim.lr=0.1,0.01",
            "dnntrain sweep average=[ema],[label_smoothing] seed=range(0,3) --jobs 2",
            "dnntrain -m optim.lr=0.1,0.01 parallel=ddp run_dir=runs/rates --dry-run",
            "dnntrain -m 'optim.lr=tag(log,interval(1e-4,1e-1))' sched=cosine,step --search tpe --trials 30",
        ),
        details="The same line again skips finished trials and resumes interrupted ones. --dry-run lists the trials.",
        options=(
            Option("search", "how trials are chosen; grid: every combination", SamplerName, "grid"),
            Option(
                "trials",
                "the number of trials; otherwise 20",
                PositiveInt,
                None,
                "N",
                needs=("search", ("random", "tpe", "cmaes", "nsga2")),
            ),
            Option("stop-early", "end trials that fall behind the others", RuleName),
            Option(
                "metrics",
                "the optimized metrics: those of the task, parameters, step_ms, train_s, peak_memory_mb or "
                "examples_per_s; otherwise eval.metric",
                tuple[str, ...],
                placeholder="NAME,…",
            ),
            Option("jobs", "trials that run at once; otherwise as many as fit", PositiveInt, None, "N"),
            _DRY_RUN,
            JSON,
            CONFIG_DIR,
        ),
    ),
    "tune": Command(
        "find the learning rate, the batch size or the fastest settings for a run",
        "lr|batch|speed",
        (
            "dnntrain tune lr model=resnet20 data=cifar10 optim=sgd",
            "dnntrain tune lr --lowest 1e-5 --highest 1 --steps 200 --json",
            "dnntrain tune batch --largest 1024 model=resnet18",
            "dnntrain tune speed model=resnet20 data=fashion_mnist",
        ),
        "Takes the settings of the run, trains a network that is then discarded, and prints the line to use next.",
        options=(
            Option("lowest", "the first learning rate", Positive, 1e-6, "RATE", operand="lr"),
            Option("highest", "the last learning rate", Positive, 10.0, "RATE", operand="lr"),
            Option("steps", "steps of the test", Annotated[int, Range(at_least=10)], 100, "N", operand="lr"),
            Option("smallest", "the first micro-batch", PositiveInt, 8, "N", operand="batch"),
            Option("largest", "the last micro-batch", PositiveInt, 4096, "N", operand="batch"),
            Option("steps", "steps of each size", PositiveInt, 10, "N", operand="batch"),
            Option("budget", "seconds to measure", Positive, 120.0, "S", operand="speed"),
            Option(
                "allow",
                "how far the numbers may change; rounding: losses agree to 1e-5",
                Literal["bitwise", "rounding", "statistical"],
                "rounding",
                operand="speed",
            ),
            Option(
                "path", "write settings and evidence to FILE, for tuned=FILE", Path, placeholder="FILE", operand="speed"
            ),
            Option("cache", "measure again, even if this line was measured before", default=True, operand="speed"),
            JSON,
            CONFIG_DIR,
        ),
        composes=True,
    ),
    "why": Command(
        "show where the time of a step goes, and which settings gain the most",
        "[RUN]",
        (
            "dnntrain why model=resnet20 data=fashion_mnist",
            "dnntrain why runs/NAME/ID --budget 60",
            "dnntrain why model=mlp train.batch_size=8 --json",
        ),
        "Takes the settings of a run, or a RUN and changes of it, and trains a network that is then discarded. Each "
        "setting that may help is measured in turns with the line as it is.",
        options=(Option("budget", "seconds to measure", Positive, 120.0, "S"), _TRUST, JSON, CONFIG_DIR),
    ),
    "bisect": Command(
        "find the setting that made one run worse than another",
        examples=(
            "dnntrain bisect --good runs/a/1 --bad runs/b/1",
            "dnntrain bisect --good runs/a/1 --bad runs/b/1 --metric loss --max-pairs 20 --json",
        ),
        details="Trains pairs of runs with some of the settings that differ, as dnntrain prove does, until one of "
        "them, or a few together, are known to lose the metric. The same line again continues.",
        options=(
            Option("good", "the better run", Path, placeholder="RUN"),
            Option("bad", "the worse run", Path, placeholder="RUN"),
            Option(
                "metric",
                "a metric of the task, latency_ms, examples_per_s or size_bytes; otherwise eval.metric",
                str,
                placeholder="NAME",
            ),
            Option("margin", "differences within it count as none; 0.002 for shares", Positive, None, "D"),
            Option(
                "alpha",
                "largest probability of a wrong verdict",
                Annotated[float, Range(above=0, below=0.5)],
                0.05,
                "P",
            ),
            Option("max-pairs", "pairs after which a comparison ends", PositiveInt, 12, "N"),
            _TRUST,
            JSON,
        ),
        settings=("run_dir",),
    ),
    "prove": Command(
        "decide whether B is better than A, with evidence",
        "[sweep [DIR]]",
        (
            'dnntrain prove model=resnet20 data=fashion_mnist --a "" --b "+average=[ema]"',
            'dnntrain prove train.duration=5ep --a optim=sgd --b "optim=muon" --metric loss --json',
            "dnntrain prove --runs-a runs/a/1 runs/a/2 --runs-b runs/b/1 runs/b/2",
            "dnntrain prove sweep runs/small_cnn-digits/sweep-1a2b3c4d",
        ),
        "Trains pairs of runs that share a seed until they decide: better, worse, equivalent or undecided. "
        "The same line again resumes. --a and --b take settings, in quotes.",
        options=(
            Option("a", "settings of A, in quotes; may be empty", str, placeholder="SETTINGS"),
            Option("b", "settings of B, in quotes", str, placeholder="SETTINGS"),
            Option("runs-a", "finished runs of A, paired by their seeds", tuple[Path, ...], placeholder="DIR…"),
            Option("runs-b", "finished runs of B", tuple[Path, ...], placeholder="DIR…"),
            Option(
                "metric",
                "a metric of the task, latency_ms, examples_per_s or size_bytes; otherwise eval.metric",
                str,
                placeholder="NAME",
            ),
            Option("margin", "differences within it count as none; 0.002 for shares", Positive, None, "D"),
            Option(
                "alpha",
                "largest probability of a wrong verdict",
                Annotated[float, Range(above=0, below=0.5)],
                0.05,
                "P",
            ),
            Option("max-pairs", "pairs after which the search ends", PositiveInt, 30, "N"),
            Option("assume", "the e-process that decides", Literal["symmetric", "normal"], "symmetric"),
            Option("exit-code", "exit with 0 better, 10 worse, 11 equivalent, 12 undecided", default=False),
            _TRUST,
            JSON,
            CONFIG_DIR,
        ),
        composes=True,
    ),
    "pipeline": Command(
        "make a chain of stages: teacher, student, pruned and quantized student",
        "NAME",
        (
            "dnntrain pipeline teach_distill_prune_quantize --plan",
            "dnntrain pipeline teach_distill_prune_quantize run_dir=runs/small student.train.duration=10ep",
            "dnntrain pipeline teach_distill_prune_quantize student.seeds=3 --status",
        ),
        "A setting applies to every stage, STAGE.KEY=VALUE to one. STAGE.seeds=N trains a stage N times. "
        "The same line again skips finished stages, and resumes an interrupted one.",
        options=(
            Option("plan", "print the stages and their settings, and start nothing", default=False),
            Option("status", "print which stages are done", default=False),
            JSON,
            CONFIG_DIR,
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
            _TRUST,
            JSON,
        ),
    ),
    "federated": Command(
        "write a Flower app that trains a configuration over real clients",
        "export-app DIR",
        (
            "dnntrain federated export-app app federated=fedavg federated.clients=2 federated.rounds=5",
            "dnntrain federated export-app app experiment=fashion_fast federated=fedprox federated.mu=0.1",
        ),
        "Writes a server and a client that need the packages flwr and dnntrain. README.md in DIR says how to start "
        "them.",
        options=(JSON, CONFIG_DIR),
        composes=True,
    ),
    "verify": Command(
        "check the certificate of a pipeline's final model again",
        "FILE",
        (
            "dnntrain verify runs/small/quantize-1a2b3c4d/exports/onnx_int8/certificate.json",
            "dnntrain verify copy/ data.root=/data --json",
        ),
        "FILE is a certificate or its folder. Compares files, data, metric and latency, and says what differs. "
        "The exit code is 5 if a file was altered, or if data or metric do not hold.",
        options=(Option("timing", "skip the measurement of latency", default=True), _TRUST, JSON),
        settings=("data.root", "data.download"),
    ),
    "ls": Command(
        "list groups, their choices and the options of a choice",
        "[GROUP [CHOICE]]",
        ("dnntrain ls", "dnntrain ls optim", "dnntrain ls average ema", "dnntrain ls optim sgd --json"),
        options=(JSON, CONFIG_DIR),
        settings=(),
    ),
    "config": Command(
        "print the resolved configuration",
        examples=(
            "dnntrain config",
            "dnntrain config optim=sgd +average=[ema] > mine.yaml",
            "dnntrain optim=sgd --cfg job",
        ),
        details="YAML on stdout, or JSON with --json.",
        options=(JSON, CONFIG_DIR),
        composes=True,
    ),
    "schema": Command(
        "print the JSON Schema of a configuration, for editors",
        examples=("dnntrain schema > schema.json",),
        details="Put `# yaml-language-server: $schema=schema.json` at the head of a saved config.yaml.",
        options=(JSON, CONFIG_DIR),
        settings=(),
    ),
    "completion": Command(
        "shell completion",
        "bash|zsh|fish",
        ('eval "$(dnntrain completion bash)"', "dnntrain completion fish > ~/.config/fish/completions/dnntrain.fish"),
        options=(CONFIG_DIR,),
        settings=(),
    ),
    "doctor": Command(
        "check versions, devices, processor features, ports, write access",
        examples=("dnntrain doctor", "dnntrain doctor --json"),
        options=(JSON,),
        settings=(),
    ),
}


def iterate_options() -> Iterator[Option]:
    """Yield every option of every command; options of all commands come first."""
    yield from (*COMMON_OPTIONS, *COMMAND_SPELLINGS)
    for command in COMMANDS.values():
        yield from command.options


def find_owners(flag: str) -> list[str]:
    """Return the commands that have an option of this spelling, as they are typed: `dnntrain tune lr`."""
    return list(
        dict.fromkeys(
            " ".join(filter(None, ("dnntrain", name, option.operand)))
            for name, command in COMMANDS.items()
            for option in command.options
            if flag in option.flags
        )
    )
