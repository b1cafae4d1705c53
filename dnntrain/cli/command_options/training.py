"""The commands that train networks: purpose, operands, options and examples of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from dnntrain.cli.command import CONFIG_DIR, DRY_RUN, JSON, TRUST, Command
from dnntrain.cli.options import Option
from dnntrain.config.fields import Duration, Fraction, Positive, PositiveInt, Range, Seconds
from dnntrain.sweep.option_values import RuleName, SamplerName

_VocabularySize: Any = Annotated[int, Range(at_least=257, at_most=2**18)]

#: Options of the commands that compare pairs of runs.
_VERDICT_OPTIONS = (
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
)

TRAINING_COMMANDS: dict[str, Command] = {
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
        options=(TRUST, JSON, CONFIG_DIR),
    ),
    "submit": Command(
        "submit a run to Slurm as a batch job",
        examples=(
            "dnntrain submit parallel=ddp launch.nodes=2 launch.gpus_per_node=8 launch.time=4:00:00",
            "dnntrain submit parallel=ddp launch.nproc=4 launch.partition=short --dry-run",
        ),
        details="--dry-run prints the batch script. A preempted job is queued again and resumed.",
        options=(JSON, CONFIG_DIR, DRY_RUN),
        composes=True,
    ),
    "plan": Command(
        "print the plan of a run, and train nothing",
        examples=("dnntrain plan model=resnet20 data=cifar10", "dnntrain plan parallel=ddp launch.nproc=2 --json"),
        details="Layout, batches, steps, parameters, memory, and the values chosen for you, with reasons.",
        options=(JSON, CONFIG_DIR),
        composes=True,
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
            DRY_RUN,
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
            "dnntrain tune speed --goal time_to=accuracy:0.9 --allow statistical",
        ),
        "Takes the settings of the run, trains a network that is then discarded, and prints the line to use next.",
        options=(
            Option("lowest", "the first learning rate", Positive, 1e-6, "RATE", operand="lr"),
            Option("highest", "the last learning rate", Positive, 10.0, "RATE", operand="lr"),
            Option("steps", "steps of the test", Annotated[int, Range(at_least=10)], 100, "N", operand="lr"),
            Option("smallest", "the first micro-batch", PositiveInt, 8, "N", operand="batch"),
            Option("largest", "the last micro-batch", PositiveInt, 4096, "N", operand="batch"),
            Option("steps", "steps of each size", PositiveInt, 10, "N", operand="batch"),
            Option(
                "goal",
                "throughput, time_to=METRIC:VALUE, memory or latency (of the exported model)",
                str,
                "throughput",
                operand="speed",
            ),
            Option(
                "budget",
                "time to measure; default: 120s, or a tenth of a longer run for throughput and time_to, at most 600s",
                Seconds,
                None,
                "T",
                operand="speed",
                example="120s",
            ),
            Option(
                "max-slowdown",
                "the share of its speed that the run may lose for less memory",
                Fraction,
                0.2,
                "P",
                operand="speed",
                needs=("goal", ("memory",)),
            ),
            Option(
                "batches",
                "batch sizes of the latency",
                tuple[PositiveInt, ...],
                (1,),
                "N,N",
                operand="speed",
                needs=("goal", ("latency",)),
            ),
            Option(
                "allow",
                "how far the numbers may change; rounding: losses agree to 1e-5",
                Literal["bitwise", "rounding", "statistical"],
                "rounding",
                operand="speed",
            ),
            Option(
                "margin",
                "judge settings that change the numbers by pairs of runs; the metric may lose so much",
                Positive,
                None,
                "M",
                operand="speed",
                needs=("allow", ("statistical",)),
                example="0.01",
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
        options=(Option("budget", "time to measure", Seconds, Duration(120, "s"), "T"), TRUST, JSON, CONFIG_DIR),
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
            *_VERDICT_OPTIONS,
            Option("max-pairs", "pairs after which a comparison ends", PositiveInt, 12, "N"),
            TRUST,
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
            *_VERDICT_OPTIONS,
            Option("max-pairs", "pairs after which the search ends", PositiveInt, 30, "N"),
            Option("assume", "the e-process that decides", Literal["symmetric", "normal"], "symmetric"),
            Option("exit-code", "exit with 0 better, 10 worse, 11 equivalent, 12 undecided", default=False),
            TRUST,
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
}
