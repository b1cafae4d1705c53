"""Measure the training throughput from a folder of JPEGs beside torchvision's and timm's loaders.

    python scripts/bench/image_folder.py --sizes 64,224 --images 5000 --rounds 3   # about 20 minutes on two cores

Every loader has the same files (500 x 375), worker processes, batch size, flips and normalization, and feeds the same
resnet18 and optimizer. `--loader-only` leaves out the network, which then does not hide the loading. `--epochs 3`
measures three passes over all images, from the moment that a loader is made, also with dnntrain's default pipeline.

    dnntrain auto    data=image_folder, with --epochs: images that fit in memory are kept
    dnntrain         data=image_folder data.pipeline=streaming
    dnntrain fast    the same with data.decode=fast
    dnntrain scaled  the same with data.decode=scaled
    PIL              torchvision ImageFolder, v1 transforms of PIL images
    decode_image     torchvision ImageFolder with torchvision.io.decode_image and v2 transforms of bytes
    timm             timm.data.create_loader, if timm is installed
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from itertools import islice
from pathlib import Path
from typing import Any

from dnntrain.utils.threads import shorten_wait

shorten_wait()  # as the command does; else a waiting thread of this process takes a core from the readers of all loaders

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

WIDTH, HEIGHT, CLASSES, BATCH = 500, 375, 10, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Batches = Generator[tuple[Tensor, Tensor], None, None]


def main() -> None:
    """Print the throughput of each loader, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="64,224")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=60, help="measured batches of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="passes over all images, counted from the start of the loader")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--loader-only", action="store_true")
    parser.add_argument("--only", help="the loaders whose names have one of these words, as auto,decode_image")
    options = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.2f}, {options.workers} workers")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "train", options.images)
        write_photos(folder / "test", CLASSES, seed=1)  # else dnntrain would hold out a part of the others
        for size in map(int, options.sizes.split(",")):
            compare(folder, size, options)


def compare(folder: Path, size: int, options: argparse.Namespace) -> None:
    """Measure all loaders in turns, and print the medians."""
    makers: dict[str, Callable[[], Batches]] = {}
    if options.epochs:
        makers["dnntrain auto"] = lambda: iterate_dnntrain(folder, size, options.workers, "full", "auto")
        makers["dnntrain auto fast"] = lambda: iterate_dnntrain(folder, size, options.workers, "fast", "auto")
        makers["dnntrain auto scaled"] = lambda: iterate_dnntrain(folder, size, options.workers, "scaled", "auto")
    makers |= {
        "dnntrain": lambda: iterate_dnntrain(folder, size, options.workers, "full"),
        "dnntrain fast": lambda: iterate_dnntrain(folder, size, options.workers, "fast"),
        "dnntrain scaled": lambda: iterate_dnntrain(folder, size, options.workers, "scaled"),
        "PIL": lambda: iterate_torchvision(folder / "train", size, options.workers, decodes_bytes=False),
        "decode_image": lambda: iterate_torchvision(folder / "train", size, options.workers, decodes_bytes=True),
    }
    try:
        import timm.data  # noqa: F401
    except ImportError:
        print("timm is not installed")
    else:
        makers["timm"] = lambda: iterate_timm(folder / "train", size, options.workers)
    if options.only:
        makers = {name: make for name, make in makers.items() if any(word in name for word in options.only.split(","))}
        if not makers:
            raise SystemExit(f"--only {options.only} names no loader")
    train = (lambda images, labels: None) if options.loader_only else make_training()
    rates: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(options.rounds):
        for name, make in makers.items():
            if options.epochs:
                rates[name].append(measure_epochs(make, train, options.epochs * options.images))
            else:
                rates[name].append(measure(make(), train, options.steps))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    others = [rate for name, rate in medians.items() if not name.startswith("dnntrain")]
    best = max(others or medians.values())
    for name, rate in medians.items():
        print(f"{size} px  {name:<20} {rate:7.0f} images/s  {rate / best:5.2f} x the best of the others")


def measure(batches: Batches, train: Callable[[Tensor, Tensor], None], steps: int) -> float:
    """Return the images per second, after the batches that are loaded ahead."""
    for images, labels in islice(batches, 10):
        train(images, labels)
    count, start = 0, time.perf_counter()
    for images, labels in islice(batches, steps):
        train(images, labels)
        count += len(images)
    return count / (time.perf_counter() - start)


def measure_epochs(make: Callable[[], Batches], train: Callable[[Tensor, Tensor], None], images: int) -> float:
    """Return the images per second up to `images`, with the time in which the loader is made."""
    count, start = 0, time.perf_counter()
    batches = make()
    for inputs, targets in batches:
        train(inputs, targets)
        count += len(inputs)
        if count >= images:
            break
    seconds = time.perf_counter() - start
    batches.close()  # ends its workers
    return count / seconds


def make_training() -> Callable[[Tensor, Tensor], None]:
    """Return a training step of torchvision's resnet18."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=CLASSES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def train(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return train


def iterate_dnntrain(folder: Path, size: int, workers: int, decode: str, pipeline: str = "streaming") -> Batches:
    """Yield the batches of a run's own input pipeline."""
    from dnntrain.config.compose import compose
    from dnntrain.config.decode import decode_config
    from dnntrain.run.scratch import build_scratch_trainer
    from dnntrain.run.session import open_session
    from dnntrain.utils.world import World

    words = (
        *("data=image_folder", f"data.root={folder}", f"data.image_size={size}", f"data.pipeline={pipeline}"),
        *(f"data.num_workers={workers}", f"data.decode={decode}", f"train.batch_size={BATCH}", "augment=[flip]"),
        *("model=mlp", "reg=[]", "precision=fp32", "train.compile=off", "data.val_fraction=0"),
    )
    session = open_session(decode_config(compose(words, quiet=True)), World())
    trainer = build_scratch_trainer(session, lambda row: None)
    try:
        for step in range(1_000_000):
            for batch in trainer.loop.batches.take(step).micro_batches:
                yield batch.inputs, batch.targets
    finally:
        trainer.close()


def iterate_torchvision(folder: Path, size: int, workers: int, decodes_bytes: bool) -> Batches:
    """Yield the batches of torchvision's ImageFolder and torch's DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image, read_file
    from torchvision.transforms import InterpolationMode, v2

    tail = [v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    resize = [v2.Resize(size, InterpolationMode.BILINEAR, antialias=True), v2.CenterCrop(size)]
    if decodes_bytes:
        data: Any = ImageFolder(
            folder,
            v2.Compose([*resize, *tail]),
            loader=lambda path: decode_image(read_file(path), ImageReadMode.RGB),
        )
    else:
        data = ImageFolder(folder, v2.Compose([*resize, v2.PILToTensor(), *tail]))
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True)
    while True:
        yield from loader


def iterate_timm(folder: Path, size: int, workers: int) -> Batches:
    """Yield the batches of timm's loader without its prefetcher, which needs a GPU."""
    from timm.data import create_dataset, create_loader

    data = create_dataset("", root=str(folder))
    loader = create_loader(
        data,
        (3, size, size),
        BATCH,
        is_training=True,
        use_prefetcher=False,
        no_aug=True,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        num_workers=workers,
        persistent_workers=True,
    )
    while True:
        yield from loader


def write_photos(folder: Path, count: int, seed: int = 0) -> None:
    """Write pictures with structure at several scales, as JPEG of quality 90."""
    random = np.random.default_rng(seed)
    for number in range(count):
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        noise = random.integers(-12, 13, (HEIGHT, WIDTH, 1))
        pixels = (np.asarray(picture).astype(np.int64) + noise).clip(0, 255).astype(np.uint8)
        path = folder / f"class{number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=90)


if __name__ == "__main__":
    main()
