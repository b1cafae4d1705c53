"""Measure `dnntrain tune speed` on five configurations, and beside an exhaustive search of the same space.

    python scripts/bench/tune_speed.py                              # 10 to 30 minutes
    python scripts/bench/tune_speed.py --exhaustive                 # about two hours
    python scripts/bench/tune_speed.py --only mlp --budget 10 --images 40
    python scripts/bench/tune_speed.py --words precision=fp32 --allow statistical    # if bf16 is fast
    python scripts/bench/tune_speed.py --allow statistical --margin 0.01 --only mlp  # with the accuracy, by pairs of runs

For each configuration: the settings that were found, the ratio of the time of a step without them to that with
them (from the last measurement, in a process of its own), its interval, and the seconds that the search took. With
--exhaustive every combination of the space is measured beside the default, and the best one beside the settings
that were found. The machine must be idle: the script says if it is not.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dnntrain.config.compose import compose
from dnntrain.config.decode import decode_config
from dnntrain.protocols.speed import SpeedGrade
from dnntrain.run.session import open_session
from dnntrain.tune.lines import Line
from dnntrain.tune.probe import ProbeRequest, describe_probe, run_probe
from dnntrain.tune.speed_settings import list_speed_settings
from dnntrain.utils.machine_load import describe_current_load
from dnntrain.utils.world import World


def main() -> None:
    """Print a row for each configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one configuration: mlp, small_cnn, folder, vit, table")
    parser.add_argument("--budget", type=float, help="seconds of each search; default: that of the command")
    parser.add_argument("--images", type=int, default=2000, help="JPEG files of the folder")
    parser.add_argument("--allow", default="rounding")
    parser.add_argument("--words", nargs="*", default=[], help="further overrides, as precision=fp32")
    parser.add_argument("--margin", help="the accuracy that settings may lose; pairs of runs judge it")
    parser.add_argument("--exhaustive", action="store_true")
    options = parser.parse_args()
    if (load := describe_current_load()) is not None:
        print(f"note: {load}")
    with tempfile.TemporaryDirectory() as folder:
        lines = make_lines(Path(folder), options.images, options.only)
        for name, line in lines.items():
            words = [*line, *options.words]
            answer = search(words, options, Path(folder))
            final = answer["final"]
            ratio = (
                "1.00 ×"
                if final is None or final["ratio"] is None
                else "{:.2f} × ({:.2f} to {:.2f})".format(*final["ratio"])
            )
            print(f"{name}: {ratio} in {answer['took_s']:.0f} s: {answer['line'] or 'the line as it is'}", flush=True)
            for judged in answer["details"].get("judged", []):
                difference, (low, high) = judged["difference"] or 0.0, judged["interval"]
                pairs, verdict = len(judged["values"]), "kept" if judged["is_kept"] else judged["reason"] or "not kept"
                bounds = f"{low:+.4f} to {high:+.4f}" if None not in (low, high) else "no bounds"
                text = " ".join(judged["words"])
                print(
                    f"  {judged['metric']} {difference:+.4f} ({bounds}), {pairs} pairs, {verdict}: {text}", flush=True
                )
            if options.exhaustive:
                compare_with_all(words, answer["words"], SpeedGrade(options.allow))


def make_lines(folder: Path, images: int, only: str | None) -> dict[str, list[str]]:
    """Return the configurations, and write the files that they read."""
    lines = {
        "mlp": ["model=mlp", "data=digits"],
        "small_cnn": ["model=small_cnn", "data=digits"],
        "folder": ["model=resnet18", "data=image_folder", f"data.root={folder / 'photos'}", "data.pipeline=streaming"],
        "vit": ["model=vit_tiny", "data=digits"],
        "table": ["model=mlp", "data=table", f"data.file={folder / 'table.csv'}", "data.target=[kind]"],
    }
    lines = {name: words for name, words in lines.items() if only in (None, name)}
    if "folder" in lines:
        write_photos(folder / "photos", images)
    if "table" in lines:
        write_table(folder / "table.csv")
    return lines


def write_photos(folder: Path, count: int) -> None:
    """Write JPEG files of 500 × 375 pixels in two classes."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def write_table(path: Path, rows: int = 20000, columns: int = 20) -> None:
    """Write a table whose class follows from two columns."""
    generator = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{number}" for number in range(columns)), "kind"])
        for _ in range(rows):
            values = [generator.gauss(0, 1) for _ in range(columns)]
            writer.writerow([*(f"{value:.4f}" for value in values), "yes" if values[0] > values[1] else "no"])


def search(words: list[str], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the command in `folder`, and return its evidence."""
    limits = {"--budget": options.budget, "--margin": options.margin, "--allow": options.allow}
    chosen = [part for name, value in limits.items() if value is not None for part in (name, str(value))]
    command = [sys.executable, "-m", "dnntrain", "tune", "speed", *words, *chosen, "--json", "--no-cache", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        sys.exit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def compare_with_all(words: list[str], kept: list[str], allow: SpeedGrade) -> None:
    """Measure every combination beside the default, and the best beside the settings that were found."""
    session = open_session(decode_config(compose(words, quiet=True)), World())
    choices = [
        ["", *(f"{setting.key}={value}" for value in setting.values)] for setting in list_speed_settings(session, allow)
    ]
    best, best_words = 1.0, []
    for combination in itertools.product(*choices):
        tried = [word for word in combination if word]
        if tried:
            probe = run_probe(ProbeRequest(Line(tuple(words)), (), tried, allow), 6.0, session.plan.total_steps)
            if probe.verdict == "faster" and probe.ratio is not None and probe.ratio[0] > best:
                best, best_words = probe.ratio[0], tried
    print(f"  best of all: {best:.2f} × {' '.join(best_words) or 'the line as it is'}")
    if best_words != kept:
        probe = run_probe(ProbeRequest(Line(tuple(words)), kept, best_words, allow, ends_early=False), 20.0, None)
        print(f"  the best beside the settings that were found: {describe_probe(probe)}", flush=True)


if __name__ == "__main__":
    main()
