"""report.html: whole, safe, small, legible, whatever the run directory holds."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dnntrain.errors import CheckpointError, ConfigError
from dnntrain.report import write_report
from dnntrain.utils import files

MakeRun = Callable[..., Path]
VOID = {"meta", "br", "img", "path", "rect"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'\u202e\x1b[2J\ud800"


class Page(HTMLParser):
    """A parsed page: its tags in order, their attributes, its text, and whether they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def report(*runs: Path) -> Page:
    data = write_report(list(runs)).read_bytes()
    assert len(data) <= 1_000_000
    page = Page(data.decode("utf-8"))
    assert_safe(page)
    assert_accessible(page)
    return page


def assert_safe(page: Page) -> None:
    """Nothing runs, nothing is loaded."""
    assert not {"script", "iframe", "object", "embed", "link", "base", "form", "foreignobject", "a", "use"} & set(
        page.tags
    )
    assert (
        "meta",
        "content",
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'",
    ) in (page.attributes)
    for _, name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("href", "action", "srcset", "xlink:href")
        assert name != "src" or value.startswith("data:image/png;base64,")
        assert name != "style" or re.fullmatch(r"[a-z:.%0-9 ]+", value)


def assert_accessible(page: Page) -> None:
    """One title, headings without gaps, a text for every picture."""
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for tag in ("img", "svg"):
        named = [value for owner, name, value in page.attributes if owner == tag and name in ("alt", "aria-label")]
        assert len(named) == page.tags.count(tag)
        assert all(named)
    assert ("html", "lang", "en") in page.attributes


def test_a_finished_run_shows_its_figures_curves_mistakes_and_settings(make_run: MakeRun) -> None:
    page = report(make_run(events=((96, "stop", "early stopping: enough"),)))
    for expected in (
        "small_cnn-digits",
        "done",
        "Test accuracy",
        "512.4 MiB",
        "421.64 k",
        "Loss",
        "Accuracy",
        "Learning rate",
        "Examples per second",
        "grad_norm",
        "early stopping: enough",
        "Confusion matrix",
        "Accuracy by class",
        "Most wrong",
        "digits test 7",
        "git checkout 0123456789abcdef0123456789abcdef01234567",
        "dnntrain train optim.lr=0.001 seed=0 'name=small_cnn-digits'",
        "train.batch_size",
        "amx_bf16",
        "the last batch of an epoch has 13 examples",
    ):
        assert expected in page.text
    assert page.tags.count("img") == 16
    assert page.tags.count("svg") == 5


def test_the_command_to_reproduce_makes_a_new_run(make_run: MakeRun) -> None:
    run = make_run()
    (run / "overrides.txt").write_text("run_dir=elsewhere\n'run_dir=with space'\nresume=never\nseed=3\n")
    assert "dnntrain train seed=3" in report(run).text


def test_values_show_without_a_script(make_run: MakeRun) -> None:
    titles = re.findall(r"<title>(step[^<]*)</title>", write_report([make_run()]).read_text())
    assert re.fullmatch(r"step 120\ntrain \S+\nval \S+", titles[59])


def test_the_chart_is_told_in_words(make_run: MakeRun) -> None:
    told = [value for tag, name, value in report(make_run()).attributes if (tag, name) == ("svg", "aria-label")]
    assert re.match(r"Accuracy by step: val from \S+% to \S+%, lowest \S+%, highest \S+%", told[1])


@pytest.mark.parametrize("status", ["unfinished", "failed", "preempted", "diverged", "refused"])
def test_a_run_that_did_not_finish_has_a_report(make_run: MakeRun, status: str) -> None:
    page = report(make_run(status=status))
    assert status in page.text
    assert "Test accuracy" not in page.text


def test_a_run_whose_losses_are_not_finite_says_so(make_run: MakeRun) -> None:
    page = report(make_run(nan_from=0, status="diverged"))
    assert "70 values are not finite, the first at step 2 (red)." in page.text


def test_a_run_without_a_row_has_a_report(make_run: MakeRun) -> None:
    run = make_run(status="unfinished")
    (run / "metrics.jsonl").write_text("")
    assert "No metrics were written." in report(run).text


def test_a_run_with_nothing_but_a_config_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: x\n")
    assert "unfinished" in report(tmp_path).text


def test_hostile_text_is_shown_and_does_nothing(make_run: MakeRun) -> None:
    names = tuple(f"{HOSTILE}{number}" for number in range(10))
    run = make_run(name="safe", class_names=names, events=((3, HOSTILE, HOSTILE),))
    rows = [
        json.dumps({"step": 4, "split": "train", HOSTILE: 1.0, "loss": HOSTILE}),
        json.dumps({"step": 5, "split": HOSTILE, "x": 1}),
    ]
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n".join(rows) + "\n")
    for name in ("plan.json", "env.json", "result.json"):
        value = json.loads((run / name).read_text())
        (run / name).write_text(
            json.dumps({**value, HOSTILE: HOSTILE, "reason": HOSTILE, "status": HOSTILE, "name": HOSTILE})
        )
    (run / "config.yaml").write_text(f"key: {json.dumps(HOSTILE)}\n")
    (run / "overrides.txt").write_bytes(HOSTILE.encode("utf-8", "surrogatepass"))
    page = report(run)
    assert "<script>alert(1)</script>" in page.text
    assert not set("\x1b\ud800") & set(page.text)


@pytest.mark.sampled
@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "null",
        "{",
        "[" * 100_000,
        "- " * 100_000,
        '{"a":' * 100_000,
        "1" * 10_000,
        '{"status": 1, "best": "x", "train_s": -1, "steps": 1e999, "peak_memory_mb": [], "reason": {}}',
        '{"confusion": [[1, 2], [3]], "wrong": [1, {}, {"image": "x"}], "class_names": {}, "accuracy": NaN}',
        '{"confusion": [[1, -2], [3, 1.5]], "wrong": {}, "class_names": [1, null]}',
        '{"packages": null, "git": [], "cpu": 7, "model": 3, "data": [], "precision": "bf16", "notes": 5, "name": 1}',
    ],
)
@pytest.mark.parametrize(
    "name", ["result.json", "plan.json", "env.json", "evaluation.json", "config.yaml", "metrics.jsonl"]
)
def test_a_damaged_file_is_left_out(make_run: MakeRun, name: str, text: str) -> None:
    run = make_run()
    (run / name).write_text(text)
    report(run)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "evaluation.json", "config.yaml"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(make_run: MakeRun, name: str) -> None:
    run = make_run()
    (run / name).unlink()
    os.mkfifo(run / name)
    report(run)


def test_an_alias_bomb_is_not_expanded(make_run: MakeRun) -> None:
    run = make_run()
    layers = "".join(f"k{n}: &a{n} {{x: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30))
    (run / "config.yaml").write_text(f"k0: &a0 {{y: 1}}\n{layers}")
    assert "config.yaml cannot be shown" in report(run).text


@pytest.mark.slow
def test_a_thousand_classes_stay_small_and_show_the_worst_pairs(make_run: MakeRun) -> None:
    run = make_run(class_names=tuple(f"class {number}" for number in range(1000)))
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["confusion"][7][9] = 31
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    page = report(run)
    assert re.search(r"class 7\s+→\s+class 9\s+31", page.text)
    assert "980 more classes" in page.text


@pytest.mark.slow
def test_a_million_rows_are_thinned(make_run: MakeRun) -> None:
    """With a hundredth of the rows, to save time; their number does not change what is drawn."""
    run = make_run(steps=10_000, log_every=1, steps_per_epoch=100)
    assert report(run).tags.count("path") < 3000
    assert (run / "report.html").stat().st_size < 300_000


@pytest.mark.slow
def test_a_million_rows_are_read(make_run: MakeRun) -> None:
    report(make_run(steps=1_000_000, log_every=1, steps_per_epoch=10_000))


@pytest.mark.slow
def test_every_bound_at_once_still_makes_a_small_page(make_run: MakeRun) -> None:
    names = tuple(f"{'<' * 80}{number}" for number in range(1000))
    run = make_run(class_names=names, wrong=60, events=tuple((n, "&" * 100, "<" * 500) for n in range(300)))
    evaluation = json.loads((run / "evaluation.json").read_text())
    for sample in evaluation["wrong"]:
        sample["name"] = "<" * 1000
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (run / "config.yaml").write_text("".join(f"key{n}: '{'<' * 200}'\n" for n in range(1000)))
    assert "Reproduce" in report(run).text


@pytest.mark.sampled
@pytest.mark.parametrize(
    "image", ["", "bm90IGEgcG5n", "x" * 100_000, "data:image/svg+xml,<svg onload=alert(1)>", 5, None]
)
def test_what_is_no_small_png_is_not_shown(make_run: MakeRun, image: Any) -> None:
    run = make_run()
    evaluation = json.loads((run / "evaluation.json").read_text())
    for sample in evaluation["wrong"]:
        sample["image"] = image
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    assert "img" not in report(run).tags


def test_several_runs_are_compared(make_run: MakeRun) -> None:
    runs = [
        make_run("a", name="slow", speed=9000.0),
        make_run("b", name="fast", lr=0.003, seed=1),
        make_run("c", nan_from=60),
    ]
    page = report(*runs)
    for expected in ("3 runs", "slow", "fast", "Validation accuracy by time", "What differs", "optim.lr", "0.003"):
        assert expected in page.text
    assert "run_dir" not in page.text.split("What differs")[1].split("rows of metrics")[0]
    assert len(list(runs[0].parent.glob("comparison-*.html"))) == 1


def test_runs_of_one_name_are_told_apart_by_their_folders(make_run: MakeRun) -> None:
    page = report(make_run("one"), make_run("two"))
    assert "small_cnn-digits one" in page.text
    assert "small_cnn-digits two" in page.text


@pytest.mark.slow
def test_forty_runs_fit_on_a_page(make_run: MakeRun) -> None:
    runs = [make_run(f"run{number}", seed=number, steps=1000, log_every=4, steps_per_epoch=40) for number in range(40)]
    report(*runs)


def test_the_same_run_twice_is_a_comparison(make_run: MakeRun) -> None:
    run = make_run()
    assert write_report([run, run]).parent == run.parent


def test_the_report_is_a_function_of_the_files(make_run: MakeRun) -> None:
    run = make_run()
    first = write_report([run]).read_bytes()
    assert write_report([run]).read_bytes() == first


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        write_report([tmp_path])


def test_a_report_that_cannot_be_written_is_refused(make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report([run], run / "missing" / "report.html")


def test_a_failed_write_leaves_the_old_report(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    (run / "report.html").write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ConfigError, match="disk full"):
        write_report([run])
    assert (run / "report.html").read_text() == "old"
    assert not list(run.glob(".*tmp*"))


def test_a_full_disk_is_named_with_the_page_and_ends_with_its_exit_code(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()

    def fail(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_durably", fail)
    with pytest.raises(CheckpointError, match=r"No space left on device: .*report\.html") as caught:
        write_report([run], run / "report.html")
    assert caught.value.exit_code == 5
