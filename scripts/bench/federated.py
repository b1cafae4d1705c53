"""Compare federated algorithms on unequal clients of Fashion-MNIST: accuracy, its spread over clients, and bytes.

python scripts/bench/federated.py OUT                 100 clients, Dirichlet 0.1, 40 rounds, 5 seeds
python scripts/bench/federated.py OUT --poisoned      median and Krum beside FedAvg, a fifth of the clients poisoned
python scripts/bench/federated.py OUT --short         20 clients, 5 rounds, 1 seed, 2,000 examples: minutes

All runs are trained in this process by one thread, with one line of settings each; finished runs are
kept, so the same line resumes. The table goes to OUT/table.md; verdicts against FedAvg come from
`dnntrain prove --runs-a … --runs-b …`.

The full study takes 20,000 training images and a `small_cnn` of 8 and 16 channels, so that all runs
end within half an hour of one thread. A round is 10 clients of about 200 examples, each in one epoch
of batches of 32. `--rounds 200 --set train.max_examples=null model.channels=[32,64]` is the study of
the papers, on a machine that has hours.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
from pathlib import Path

from dnntrain.cli.main import main as run_dnntrain

ALGORITHMS = {
    "fedavg": (),
    "fedprox": ("federated.mu=0.01",),
    "scaffold": (),
    "fedadam": ("federated.server_lr=0.01",),
    "fedavg int8": ("federated.compress=int8",),
    "fedavg topk": ("federated.compress=topk", "federated.topk=0.05"),
}
#: Methods beside a fifth of poisoned clients, and FedAvg without them.
POISONED = {
    "fedavg": (),
    "fedavg poisoned": ("federated.poisoned=0.2",),
    "median poisoned": ("federated.poisoned=0.2",),
    "trimmed_mean poisoned": ("federated.poisoned=0.2", "federated.trim=0.3"),
    "krum poisoned": ("federated.poisoned=0.2", "federated.malicious=0.3", "federated.selected=5"),
}
COMMON = (
    *("data=fashion_mnist", "model=small_cnn", "optim=sgd", "optim.momentum=0", "optim.lr=0.05", "sched=constant"),
    *("augment=[]", "federated.partition=dirichlet", "log.every=1step", "log.report=false", "train.cpu_threads=1"),
)
SMALL = ("model.channels=[8,16]", "model.hidden=64", "train.max_examples=20000", "train.batch_size=32")
HUNDRED = (*SMALL, "federated.clients=100", "federated.local_epochs=1", "eval.every=5step", "checkpoint.every=20step")
FULL = (*HUNDRED, "federated.fraction=0.1", "federated.alpha=0.1")
#: Krum and the median choose among clients that agree, so these clients are less unequal, and more in a round.
FULL_POISONED = (*HUNDRED, "federated.fraction=0.2", "federated.alpha=1")
SHORT = (
    *("federated.clients=20", "federated.fraction=0.5", "federated.alpha=0.1"),
    *("train.max_examples=2000", "eval.max_examples=1000"),
)


def main() -> int:
    """Train what is missing, then write the table and the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--poisoned", action="store_true", help="compare robust methods beside false updates")
    parser.add_argument("--rounds", type=int, help="rounds of a run, 40, or 5 with --short")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--first-seed", type=int, default=0, help="to tune on other seeds than those of the table")
    parser.add_argument("--only", nargs="*", help="names of the table, as fedavg fedadam")
    parser.add_argument("--set", nargs="*", default=[], help="further settings of every run, as data.root=DIR")
    options = parser.parse_args()
    count = options.seeds or (1 if options.short else 5)
    rounds = options.rounds or (5 if options.short else 40)
    full = FULL_POISONED if options.poisoned else FULL
    words = (*COMMON, *(SHORT if options.short else full), f"federated.rounds={rounds}", *options.set)
    table = POISONED if options.poisoned else ALGORITHMS
    chosen = {name: extra for name, extra in table.items() if not options.only or name in options.only}
    seeds = range(options.first_seed, options.first_seed + count)
    folders = {name: [options.out / f"{name.replace(' ', '-')}-{seed}" for seed in seeds] for name in chosen}
    for row, seed in enumerate(seeds):
        for name, extra in chosen.items():
            train(folders[name][row], (*words, f"federated={name.split()[0]}", *extra, f"seed={seed}"))
    base = folders[next(iter(folders))]
    lines = [
        f"| algorithm | test accuracy | mean of clients | worst tenth | MB up | points per MB | against {next(iter(folders))} |",
        "|---|---|---|---|---|---|---|",
        *(make_row(name, folders[name], base) for name in folders),
    ]
    text = "\n".join(lines) + "\n"
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def train(folder: Path, words: tuple[str, ...]) -> None:
    """Train one run, or finish it; one that is done stays as it is."""
    if (folder / "federated.json").is_file() and (folder / "result.json").is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    if run_dnntrain([*words, f"run_dir={folder}", "--quiet"]):
        sys.exit(f"failed: {folder}")


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
    reply = io.StringIO()
    with contextlib.redirect_stdout(reply):
        if run_dnntrain(words):
            sys.exit("failed: dnntrain prove")
    found = json.loads(reply.getvalue())
    return str(found["verdict"])


if __name__ == "__main__":
    sys.exit(main())
