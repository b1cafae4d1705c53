"""What DDP costs: two ranks of one thread beside one process of two threads, and beside a hand-written DDP loop.

python scripts/bench/data_parallel.py [--rounds 3] [--steps 24] [--batch 64] [--model resnet18]

Rounds are interleaved; the figure is the median over rounds of the ratios. Images are synthetic, 32x32, float32. Needs two free cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Prints images/s of each and the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--model", default="resnet18")
    asked = parser.parse_args()
    words = [
        f"model={asked.model}",
        "data=synthetic",
        "data.image_size=32",
        "data.channels=3",
        f"data.train_size={asked.batch * asked.steps}",
        f"train.batch_size={asked.batch}",
        f"train.duration={asked.steps}step",
        "eval.every=1000ep",
        "eval.run_test=false",
        "data.val_fraction=0",
        f"checkpoint.every={asked.steps}step",
        "precision=fp32",
        "reg=[]",
        "optim=sgd",
        "log.every=1000step",
        "log.report=false",
    ]
    ways = {
        "one process, 2 threads": lambda: dnntrain([*words, "train.cpu_threads=2"], threads=2),
        "ddp, 2 ranks of 1 thread": lambda: dnntrain(
            [*words, "parallel=ddp", "launch.nproc=2", "train.cpu_threads=1"], threads=1
        ),
        "hand-written DDP loop": lambda: by_hand(asked.model, asked.batch, asked.steps),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(asked.rounds):
        for name, run in ways.items():
            speeds[name].append(run())
            print(f"{name}: {speeds[name][-1]:.1f} images/s", flush=True)
    one, ddp, hand = (speeds[name] for name in ways)
    for name, found in speeds.items():
        print(f"{name}: median {statistics.median(found):.1f} images/s")
    print(f"ddp / one process: {statistics.median(a / b for a, b in zip(ddp, one, strict=True)):.3f}")
    print(f"ddp / hand-written: {statistics.median(a / b for a, b in zip(ddp, hand, strict=True)):.3f}")


def environment(threads: int) -> dict[str, str]:
    """That of a child with `threads` threads that do not spin."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def dnntrain(words: list[str], threads: int) -> float:
    """Images per second of a run, its first steps included."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "dnntrain", *words, f"run_dir={folder}/run", "--quiet"]
        subprocess.run(command, env=environment(threads), check=True, stdout=subprocess.DEVNULL)
        result = json.loads(Path(folder, "run", "result.json").read_text(encoding="utf-8"))
    speed: float = result["examples_per_s"]
    return speed


def by_hand(model: str, batch: int, steps: int) -> float:
    """Images per second of the shortest loop that does the same work."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    found = subprocess.run(
        [*torchrun, "hand", model, str(batch), str(steps)],
        env=environment(1),
        check=True,
        capture_output=True,
        text=True,
    )
    return float(found.stdout.split()[-1])


def hand(model_name: str, batch: int, steps: int) -> None:
    """One rank of the hand-written loop; the first prints the speed."""
    import torch
    import torch.distributed as dist
    from torch.nn.functional import cross_entropy

    from dnntrain.config.compose import compose
    from dnntrain.config.decode import decode_config
    from dnntrain.nn.shape import ModelShape
    from dnntrain.utils.hardware import keep_freed_memory

    keep_freed_memory()
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    config = decode_config(compose([f"model={model_name}", "optim=sgd"], quiet=True))
    torch.manual_seed(0)
    model = config.model.build(ModelShape(10, 3, 32, 32)).to(memory_format=torch.channels_last)
    wrapped = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    images = torch.randn(steps, batch // 2, 3, 32, 32)
    targets = torch.randint(0, 10, (steps, batch // 2))
    started = time.perf_counter()
    for step in range(steps):
        loss = cross_entropy(wrapped(images[step].contiguous(memory_format=torch.channels_last)), targets[step])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - started
    if dist.get_rank() == 0:
        print(batch * steps / seconds)
    dist.destroy_process_group()


if __name__ == "__main__":
    if sys.argv[1:2] == ["hand"]:
        hand(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
