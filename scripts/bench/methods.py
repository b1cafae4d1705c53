"""Cost of each method per step, relative to the run without it, on resnet18 and the MLP.

    python scripts/bench/methods.py                          every method on both networks
    python scripts/bench/methods.py mixup sched= --rounds 9  the methods whose names hold one of the words
    python scripts/bench/methods.py ema --network resnet18 --threads 2 --steps 20

One process and a stated number of threads. All runs train on made-up images, 3×32×32, batch 32, cropped and mirrored, in float32 with
SGD and momentum; without evaluation, checkpoints or files, whose cost is not per step. A few methods at a time stand beside the run without
any; they take turns within each round, each a block of steps, and who begins changes from round to round. A block holds whole chunks of the
resident pipeline, so that its work is in every block alike. Printed are medians over rounds of the ratio to the run without, with an
interval (`dnntrain.bench.statistics`: at least 95 % coverage from 6 rounds on), by the clock on the wall and by the time that the processor
worked for this process, which another process's load distorts less. Methods that need a teacher are left out.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from dnntrain.bench.statistics import compute_ratio_interval  # noqa: E402
from dnntrain.checkpoint.checkpoint_format import Digests  # noqa: E402
from dnntrain.config.compose import compose  # noqa: E402
from dnntrain.config.decode import decode_config  # noqa: E402
from dnntrain.errors import ConfigError  # noqa: E402
from dnntrain.run.session import open_session  # noqa: E402
from dnntrain.training.loop import run_loop  # noqa: E402
from dnntrain.training.trainer import Trainer, build_trainer  # noqa: E402
from dnntrain.training.trainer_parts import TrainerOutputs  # noqa: E402
from dnntrain.utils.world import World  # noqa: E402

#: Overrides of each network, and the steps of a block: about as long on both.
NETWORKS = {"resnet18": (("model=resnet18",), 10), "mlp": (("model=mlp",), 500)}

#: Fifty steps an epoch, which five chunks of ten steps fill.
BASE = (
    "data=synthetic",
    "data.image_size=32",
    "data.channels=3",
    "augment.crop.padding=4",
    "augment.flip.probability=0.5",
    "data.pipeline=resident",
    "train.max_examples=1600",
    "train.batch_size=32",
    "optim=sgd",
    "optim.lr=0.01",
    "optim.weight_decay=0",
    "sched=constant",
    "reg=[]",
    "precision=fp32",
)

#: What a method needs besides its name to do its work in every step.
SPECIAL = {
    "average=[swa]": ("average.swa.start_fraction=0", "average.swa.every=10step"),
    "norm=ghost": ("norm.virtual_batch_size=8",),
    "sched=one_cycle": ("sched.cycle_momentum=true",),
}

#: Choices that are the run without methods, that stand for others, or that work after training or on several ranks only.
LEFT_OUT = {
    *(
        "+augment=[crop]",
        "+augment=[flip]",
        "optim=sgd",
        "sched=constant",
        "norm=none",
        "quant=none",
        "distill=none",
        "monitor=[straggler]",
    ),
    *("quant=int8_static", "quant=int8_dynamic", "quant=int8_weight_only", "quant=float8", "quant=float8_training"),
}

#: Settings of `train` that change how a step is computed.
SETTINGS = {
    "train.micro_batch_size=16": ("train.micro_batch_size=16",),
    "train.activation_checkpointing=full": ("train.activation_checkpointing=full",),
    "reg=[label_smoothing] +augment=[mixup] average=[ema]": (
        "reg=[label_smoothing]",
        "+augment=[mixup]",
        "average=[ema]",
    ),
}


def methods(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Overrides of each method by its name as it is typed; those whose names hold one of `words`, or all."""
    found: dict[str, tuple[str, ...]] = {}
    forms = {"augment": "+{}=[{}]", "reg": "{}=[{}]", "average": "{}=[{}]", "monitor": "{}=[{}]"}
    for group in ("augment", "reg", "average", "sched", "optim", "norm", "monitor", "distill", "quant"):
        for file in sorted((ROOT / "conf" / group).glob("*.yaml")):
            name = forms.get(group, "{}={}").format(group, file.stem)
            if name not in LEFT_OUT and "???" not in file.read_text(encoding="utf-8"):
                found[name] = (name, *SPECIAL.get(name, ()))
    found |= SETTINGS
    return {name: line for name, line in found.items() if not words or any(word in name for word in words)}


class Runner:
    """One trainer, driven block by block through the project's own loop."""

    def __init__(self, overrides: Sequence[str], steps: int) -> None:
        config = decode_config(compose([*overrides, f"train.duration={steps}step"]))
        session = open_session(config, World())
        data = replace(session.data, val=session.data.val[:0])
        setup = replace(session.setup, data=data)
        self.trainer: Trainer = build_trainer(setup, Digests("", ""), TrainerOutputs())
        self._loop = replace(self.trainer.loop, cadence=self)  # type: ignore[arg-type]
        self._until = 0

    def get_due(self, step: int):  # type: ignore[no-untyped-def]
        """The loop's events, and the end of the block."""
        if step == self._until:
            self.trainer.loop.progress.stop_reason = "the block is done"
        return self.trainer.loop.cadence.get_due(step)

    def block(self, steps: int) -> tuple[float, float]:
        """Seconds of the next `steps` steps by the clock, and of the processor."""
        progress = self.trainer.loop.progress
        self._until, progress.stop_reason = progress.step + steps, None
        wall, worked = time.perf_counter(), time.process_time()
        run_loop(self._loop)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        assert progress.step == self._until, progress.stop_reason
        return time.perf_counter() - wall, time.process_time() - worked

    def close(self) -> None:
        self.trainer.metrics.close()
        self.trainer.pipeline.close()


def measure(network: str, names: dict[str, tuple[str, ...]], rounds: int, block: int) -> list[str]:
    """Rows of the table: `names` beside the run without, `rounds` blocks each after one to warm up."""
    base = (*NETWORKS[network][0], *BASE)
    runners, rows = {"none": Runner(base, (rounds + 1) * block)}, []
    for name, overrides in names.items():
        given = {word.partition("=")[0] for word in overrides}
        try:
            kept = [word for word in base if word.partition("=")[0] not in given]
            runners[name] = Runner([*kept, *overrides], (rounds + 1) * block)
        except ConfigError as error:
            rows.append(f"| `{name}` | {network} | – | – | refused: {error.message.splitlines()[0]} |")
    order = list(runners)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in order}
    for number in range(rounds + 1):
        turn = number % len(order)
        for name in order[turn:] + order[:turn]:
            times[name].append(runners[name].block(block))
    for runner in runners.values():
        runner.close()
    for name in order:
        walls, worked = (
            compute_ratio_interval([pair[at] for pair in times[name][1:]], [pair[at] for pair in times["none"][1:]])
            for at in (0, 1)
        )
        step_ms = 1e3 * statistics.median(pair[0] for pair in times[name][1:]) / block
        by_clock, by_work = (f"{each.median:.3f} ({each.low:.3f} to {each.high:.3f})" for each in (walls, worked))
        rows.append(f"| `{name}` | {network} | {by_clock} | {by_work} | {step_ms:.3f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="methods whose names hold one of these; all without")
    parser.add_argument("--network", choices=sorted(NETWORKS), help="one of the networks only")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, help="of a block; whole tens, so that each holds whole chunks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--together", type=int, default=5, help="methods that stand beside the run without at once")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = methods(arguments.words)
    if not chosen:
        parser.error(f"no method's name holds one of {arguments.words}")
    for network in [arguments.network] if arguments.network else NETWORKS:
        block = arguments.steps or NETWORKS[network][1]
        print(f"\n{network}: {arguments.rounds} rounds of {block} steps, batch 32, {arguments.threads} threads\n")
        print("| method | network | by the clock | by the processor | ms a step |\n|---|---|---|---|---|", flush=True)
        names = list(chosen)
        for first in range(0, len(names), arguments.together):
            part = {name: chosen[name] for name in names[first : first + arguments.together]}
            print(*measure(network, part, arguments.rounds, block), sep="\n", flush=True)
            gc.collect()


if __name__ == "__main__":
    main()
