"""Compare federated algorithms on unequal clients of Fashion-MNIST: accuracy, its spread over clients, and bytes.

python scripts/bench/federated.py OUT                 100 clients, Dirichlet 0.1, 200 rounds, 5 seeds
python scripts/bench/federated.py OUT --short         20 clients, 5 rounds, 1 seed, 2,000 examples: minutes

Each run is `dnntrain` with one line of settings; finished runs are kept, so the same line resumes. The
table goes to OUT/table.md; verdicts against FedAvg come from `dnntrain prove --runs-a … --runs-b …`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ALGORITHMS = {
    "fedavg": (),
    "fedprox": ("federated.mu=0.01",),
    "scaffold": (),
    "fedadam": ("federated.server_lr=0.01",),
    "fedavg int8": ("federated.compress=int8",),
    "fedavg topk": ("federated.compress=topk", "federated.topk=0.05"),
}
COMMON = (
    *("data=fashion_mnist", "model=small_cnn", "optim=sgd", "optim.momentum=0", "optim.lr=0.05", "sched=constant"),
    *("augment=[]", "federated.partition=dirichlet", "federated.alpha=0.1", "log.every=1step", "log.report=false"),
)
FULL = (
    "federated.clients=100",
    "federated.fraction=0.1",
    "federated.rounds=200",
    "federated.local_epochs=1",
    "eval.every=10step",
    "checkpoint.every=10step",
)
SHORT = (
    "federated.clients=20",
    "federated.fraction=0.5",
    "federated.rounds=5",
    "train.max_examples=2000",
    "eval.max_examples=1000",
)


def main() -> int:
    """Train what is missing, then write the table and the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--set", nargs="*", default=[], help="further settings of every run, as data.root=DIR")
    options = parser.parse_args()
    seeds = range(options.seeds or (1 if options.short else 5))
    words = (*COMMON, *(SHORT if options.short else FULL), *options.set)
    folders = {name: [options.out / f"{name.replace(' ', '-')}-{seed}" for seed in seeds] for name in ALGORITHMS}
    for seed in seeds:
        for name, extra in ALGORITHMS.items():
            train(folders[name][seed], (*words, f"federated={name.split()[0]}", *extra, f"seed={seed}"))
    lines = [
        "| algorithm | test accuracy | mean of clients | worst tenth | MB up | points per MB | against fedavg |",
        "|---|---|---|---|---|---|---|",
        *(make_row(name, folders[name], folders["fedavg"]) for name in ALGORITHMS),
    ]
    text = "\n".join(lines) + "\n"
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def train(folder: Path, words: tuple[str, ...]) -> None:
    """Train one run, or finish it; one that is done stays as it is."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "dnntrain", *words, f"run_dir={folder}", "--quiet"], check=True)


def make_row(name: str, folders: list[Path], base: list[Path]) -> str:
    """Return the row of an algorithm: means over seeds, the standard deviation of the accuracy, and the verdict."""
    results = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in folders]
    clients = [json.loads((folder / "federated.json").read_text(encoding="utf-8")) for folder in folders]
    accuracy = [100 * float(result["test_accuracy"]) for result in results]
    megabytes = statistics.mean(client["bytes_up"] / 1e6 for client in clients)
    spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
    mean = statistics.mean(accuracy)
    cells = [
        name,
        f"{mean:.2f} %{spread}",
        f"{100 * statistics.mean(client['mean'] for client in clients):.2f} %",
        f"{100 * statistics.mean(client['worst_tenth'] for client in clients):.2f} %",
        f"{megabytes:.1f}",
        f"{mean / megabytes:.3f}",
        judge(base, folders) if folders is not base else "",
    ]
    return f"| {' | '.join(cells)} |"


def judge(base: list[Path], folders: list[Path]) -> str:
    """Return the verdict of `prove` on the finished runs."""
    if len(folders) < 2:
        return "one seed"
    words = ["prove", "--runs-a", *map(str, base), "--runs-b", *map(str, folders), "--json"]
    reply = subprocess.run([sys.executable, "-m", "dnntrain", *words], capture_output=True, text=True, check=True)
    return str(json.loads(reply.stdout)["verdict"])


if __name__ == "__main__":
    sys.exit(main())
