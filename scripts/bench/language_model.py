"""A GPT of nanoGPT's size for a CPU, beside a loop written by hand: tokens per second and validation loss, in one run.

    bible -f gen1:1-rev22:21 > bible.txt    # the King James Bible, from Debian's packages bible-kjv and bible-kjv-text
    .venv/bin/python scripts/bench/language_model.py [--steps 2000] [--text bible.txt] [--threads 1] [--recipe]
    .venv/bin/python scripts/bench/language_model.py --only 'muon, relu2' --steps 1000    # one row, without the loop by hand
    .venv/bin/python scripts/bench/language_model.py --memory [--vocabulary 50257]

4 layers, 4 heads, width 128, context 64, batch 12, as in nanoGPT's README for a CPU. The loop by hand is nanoGPT's: learned positions,
layer normalization, GELU, a tied head, AdamW with a warm-up and a cosine, and the cross-entropy of all logits. dnntrain trains the same
network (`as nanoGPT`) and its own defaults (`dnntrain`), with --recipe also Muon and squared ReLU. All read the same windows of the same
bytes, and are evaluated on the same validation windows. Each step is timed without evaluations. --memory compares the peak memory of the
loss and its gradients with all logits at once and in parts.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import dnntrain
from dnntrain.choices.data.python_library import PythonLibrary
from dnntrain.choices.data.text import TextFiles
from dnntrain.input.sampler import BatchSchedule
from dnntrain.input.split import limit_examples
from dnntrain.utils.rng import Key
from dnntrain.utils.world import World

CONTEXT, BATCH, WIDTH, LAYERS, HEADS = 64, 12, 128, 4, 4
LEARNING_RATE, WARMUP = 1e-3, 100


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, bias=False), nn.LayerNorm(WIDTH, bias=False)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        parts = self.qkv(self.norm1(x)).split(WIDTH, 2)
        query, key, value = (part.view(n, length, HEADS, -1).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(n, length, WIDTH))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class HandGpt(nn.Module):
    """nanoGPT's network without dropout and biases."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.LayerNorm(WIDTH, bias=False), nn.Linear(WIDTH, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scale = 0.02 / math.sqrt(2 * LAYERS) if name.endswith(("proj.weight", "down.weight")) else 0.02
                nn.init.normal_(parameter, std=scale)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def get_warmup(steps: int) -> int:
    """Return the steps of the warm-up: a short run has a shorter one."""
    return min(WARMUP, max(1, steps // 10))


def train_by_hand(dataset, steps: int, val_windows: int) -> tuple[float, float]:
    """Return (tokens per second, validation loss) of the loop by hand."""
    torch.manual_seed(0)
    source = dataset.train
    first_val = int(dataset.val_index[0])
    order = BatchSchedule(torch.arange(first_val).numpy(), 0, BATCH, BATCH, World(), 8).compute_order(0)
    model = HandGpt(dataset.inputs.vocabulary.size)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.99), fused=True)
    warmup = get_warmup(steps)
    start_s = time.perf_counter()
    for step in range(steps):
        index = order[(step * BATCH) % (len(order) - BATCH) :][:BATCH]
        tokens, targets = map(torch.from_numpy, source.gather(index))
        fraction = max(0.0, (step - warmup) / max(1, steps - warmup))
        rate = LEARNING_RATE * min((step + 1) / warmup, 0.1 + 0.45 * (1 + math.cos(math.pi * fraction)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = model(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    tokens_per_s = steps * BATCH * CONTEXT / (time.perf_counter() - start_s)
    losses, windows = [], limit_examples(dataset.val_index, val_windows, Key(0, "limit"))
    with torch.no_grad():
        for index in torch.from_numpy(windows).split(128):
            tokens, targets = map(torch.from_numpy, source.gather(index.numpy()))
            losses.append(float(model(tokens, targets)) * len(index))
    return tokens_per_s, sum(losses) / len(windows)


VARIANTS = {
    "as nanoGPT": (
        *("model.positions=learned", "model.norm=layer", "model.tied_head=true", f"optim.lr={LEARNING_RATE}"),
        *("optim.weight_decay=0.1", "optim.beta2=0.99", "+reg=[grad_clip]"),
        "optim.param_groups=['positions.weight weight_decay=0.1']",
    ),
    "dnntrain": ("optim.lr=2e-3",),
}
RECIPE = {
    "muon": ("optim=muon", "optim.lr=0.02"),
    "muon, relu2": ("optim=muon", "optim.lr=0.02", "model.mlp=relu2"),
    "muon, relu2, qk_norm": ("optim=muon", "optim.lr=0.02", "model.mlp=relu2", "model.qk_norm=true"),
    "adamw, relu2": ("optim.lr=2e-3", "model.mlp=relu2"),
}


def train_with_dnntrain(data: list[str], words: tuple[str, ...], arguments, folder: Path) -> tuple[float, float, float]:
    """Return (tokens per second, validation loss at the end, seconds)."""
    run = folder / "".join(letter if letter.isalnum() else "_" for letter in "".join(words))
    dnntrain.train(
        *("task=language_model", "model=gpt", f"data.context={CONTEXT}", *data),
        *(
            f"train.batch_size={BATCH}",
            f"train.duration={arguments.steps}step",
            f"sched.warmup={get_warmup(arguments.steps)}step",
        ),
        *("sched.end_factor=0.1", f"eval.every={arguments.steps}step", f"checkpoint.every={arguments.steps}step"),
        *(
            "eval.batch_size=128",
            f"eval.max_examples={arguments.val_windows}",
            "eval.run_test=false",
            "log.every=100step",
            "log.report=false",
        ),
        *(f"train.cpu_threads={arguments.threads}", "precision=fp32", *words),
        f"run_dir={run}",
        display="quiet",
    )
    result = json.loads((run / "result.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    loss = next(row["loss"] for row in reversed(rows) if row["split"] == "val")
    return result["examples_per_s"] * CONTEXT, loss, result["train_s"]


def measure_memory(vocabulary: int, parts: bool) -> tuple[float, float]:
    """Return (peak MB above the start, loss) of a loss and its gradients."""
    from dnntrain.nn.chunked_loss import compute_chunked_loss
    from dnntrain.protocols import DeferredLogits

    torch.manual_seed(0)
    features, weight = torch.randn(4, 256, 256, requires_grad=True), torch.randn(vocabulary, 256, requires_grad=True)
    targets, logits = torch.randint(vocabulary, (4, 256)), DeferredLogits(features, weight, 0.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if parts:
        loss = compute_chunked_loss(logits, targets)
    else:
        loss = functional.cross_entropy(logits.compute().flatten(0, 1), targets.flatten(), reduction="sum")
    loss.backward()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, float(loss.detach()) / targets.numel()


def compare_memory(vocabulary: int) -> None:
    """Measure both losses, each in a process of its own."""
    for parts in (False, True):
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import language_model as bench; "
        code += f"print('%.0f MB, loss %.6f' % bench.measure_memory({vocabulary}, {parts}))"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        print(f"{'in parts' if parts else 'all logits'}: {result.stdout.strip()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--val-windows", type=int, default=4000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipe", action="store_true")
    parser.add_argument("--only", choices=[*VARIANTS, *RECIPE], help="the name of one row")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--vocabulary", type=int, default=50257)
    arguments = parser.parse_args()
    if arguments.memory:
        compare_memory(arguments.vocabulary)
        return
    torch.set_num_threads(arguments.threads)
    choice = (
        PythonLibrary(context=CONTEXT)
        if arguments.text is None
        else TextFiles(context=CONTEXT, path=str(arguments.text))
    )
    data = ["data=python_library"] if arguments.text is None else ["data=text", f"data.path={arguments.text}"]
    dataset = choice.build()
    rows = {**VARIANTS, **(RECIPE if arguments.recipe else {})}
    speed, loss = math.nan, math.nan
    print("| loop | tokens/s | beside the loop by hand | validation loss |\n|---|---|---|---|")
    if arguments.only:
        rows = {arguments.only: {**VARIANTS, **RECIPE}[arguments.only]}
    else:
        speed, loss = train_by_hand(dataset, arguments.steps, arguments.val_windows)
        print(f"| by hand | {speed:.0f} | 1.00 | {loss:.4f} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, words in rows.items():
            own_speed, own_loss, _ = train_with_dnntrain(data, words, arguments, Path(folder))
            print(f"| {name} | {own_speed:.0f} | {own_speed / speed:.2f} | {own_loss:.4f} |", flush=True)


if __name__ == "__main__":
    main()
