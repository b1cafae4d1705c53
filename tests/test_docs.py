"""The documentation holds: its examples run, its links lead somewhere, what it names exists.

A fence that says `run` after its language is run, as in ```` ```bash run ````. The commands of a page run in one folder
in their order: with `debug=fast` in this process, and, among the slow tests, as they stand in a shell. A fence that
says `file=NAME` is written to that file first.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from short_runs import environment

import dnntrain
from dnntrain.checkpoint.checkpoint_format import SCHEMA_VERSION
from dnntrain.cli.command_table import COMMANDS
from dnntrain.cli.main import main
from dnntrain.cli.parser import parse_arguments
from dnntrain.config.groups import GROUPS
from dnntrain.config.key_table import get_root_fields, get_section_fields
from dnntrain.config.registry import Registry, get_builtin_source
from dnntrain.config.run_config import SECTIONS
from dnntrain.config.validate import validate_overrides
from dnntrain.errors import DnntrainError
from dnntrain.protocols import Batch, Hooks

ROOT = Path(__file__).resolve().parents[1]
DESIGN = ROOT / "docs" / "design.md"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md")))

#: Added to what trains, so that all examples together take seconds.
FAST = ("debug=fast", "log.report=false", "train.cpu_threads=1")

FILE_TYPES = ("pt2", "onnx", "py", "yaml", "md", "safetensors", "txt", "json", "jsonl", "xml", "bin")


@dataclass(frozen=True)
class Fence:
    """A fenced block: language, what else stands behind the fence, and its text."""

    language: str
    info: tuple[str, ...]
    text: str

    @property
    def runs(self) -> bool:
        return "run" in self.info

    @property
    def file(self) -> str | None:
        return next((word.removeprefix("file=") for word in self.info if word.startswith("file=")), None)

    @property
    def commands(self) -> list[list[str]]:
        """The words of each line that calls dnntrain, without the word itself."""
        text = self.text.replace("\\\n", " ")
        lines = [shlex.split(line.removeprefix("$ "), comments=True) for line in text.splitlines() if "$(" not in line]
        words = [line[: line.index(">")] if ">" in line else line for line in lines]
        return [line[1:] for line in words if line and line[0] == "dnntrain"]


def fences(page: Path) -> list[Fence]:
    """The fenced blocks of a page, in order."""
    found = re.findall(r"^```(\w*)([^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)
    return [Fence(language, tuple(info.split()), text) for language, info, text in found]


RUNNING = [page for page in PAGES if any(fence.runs for fence in fences(page))]
REFUSING = [page for page in PAGES if any(fence.language == "console" for fence in fences(page))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that the pages write, and two classes of small photos."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("docs")
    for page in PAGES:
        for fence in fences(page):
            if fence.file:
                (folder / fence.file).parent.mkdir(parents=True, exist_ok=True)
                (folder / fence.file).write_text(fence.text, encoding="utf-8")
    random = np.random.default_rng(0)
    for level, name in enumerate(("cats", "dogs")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(40):
            pixels = random.integers(0, 128, (12, 16, 3), dtype=np.uint8) + np.uint8(100 * level)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
    return folder


@pytest.fixture
def here(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Works in the folder of the examples, without runs; puts the number of threads back, which runs set."""
    shutil.rmtree(files / "runs", ignore_errors=True)
    monkeypatch.chdir(files)
    monkeypatch.syspath_prepend(str(files))
    monkeypatch.delenv("DNNTRAIN_DEBUG", raising=False)
    threads = torch.get_num_threads()
    yield files
    torch.set_num_threads(threads)


@pytest.fixture
def plug_in(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The plug-in package of the documentation, as if it were installed."""
    project = tomllib.loads((here / "plugin" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = here / "plugin" / "my_methods-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    lines = [
        line
        for group, entries in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(here / "plugin"))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_methods"]:
        del sys.modules[name]


def mark_slow(pages: Sequence[Path]) -> list[Any]:
    """The fast set runs the page that a new user pastes first."""
    return [pytest.param(page, marks=() if page.name == "README.md" else pytest.mark.slow) for page in pages]


@pytest.mark.parametrize("page", mark_slow(RUNNING), ids=name_of)
def test_the_examples_of_a_page_run(page: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fence in fences(page):
        if fence.runs and fence.language == "python":
            exec(compile(fence.text, name_of(page), "exec"), {"__name__": "example"})
        elif fence.runs:
            for words in fence.commands:
                code = main(quick(words))
                assert code == 0, f"dnntrain {shlex.join(words)}: exit code {code}\n{capsys.readouterr().err}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "page",
    # At full length, so the other pages take from one minute to twenty.
    [pytest.param(page, marks=() if page.name == "README.md" else pytest.mark.long) for page in RUNNING],
    ids=name_of,
)
def test_the_examples_of_a_page_run_in_a_shell_as_they_stand(page: Path, here: Path, tmp_path: Path) -> None:
    command = tmp_path / "dnntrain"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dnntrain "$@"\n')
    command.chmod(0o755)
    shells = {"bash": ["bash", "-eu"], "python": [sys.executable, "-"]}
    environ = {**environment(), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for fence in fences(page):
        if fence.runs:
            text = re.sub(r"\bruns/", f"{tmp_path}/runs/", fence.text)
            done = subprocess.run(
                shells[fence.language], input=text, env=environ, cwd=here, capture_output=True, text=True
            )
            assert done.returncode == 0, fence.text + done.stderr


@pytest.mark.sampled
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_that_is_accepted(page: Path, here: Path, plug_in: None) -> None:
    for fence in fences(page):
        for words in fence.commands if fence.language == "bash" else []:
            arguments = parse_arguments(words)
            if arguments.command in ("train", "plan", "config", "resume"):
                overrides = [word for word in arguments.overrides if not word.startswith("tuned=")]
                validate_overrides(overrides, arguments.config_dir)


@pytest.mark.parametrize("page", REFUSING, ids=name_of)
def test_refusals_are_shown_as_they_are(page: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for fence in fences(page):
        if fence.language == "console":
            [words] = fence.commands
            assert main(words) == 2
            assert capsys.readouterr().err == fence.text.partition("\n")[2]


@pytest.mark.slow
def test_the_plug_in_of_the_documentation_trains(here: Path, plug_in: None) -> None:
    assert main([*FAST, "+reg=[confidence_penalty]", "run_dir=runs/plug-in", "-q"]) == 0
    assert "confidence_penalty" in (here / "runs" / "plug-in" / "config.yaml").read_text()


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CODE_OF_CONDUCT.md"], ids=name_of)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(page)):
        path, _, anchor = target.partition("#")
        if target.startswith("https://"):
            continue
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    for path in re.findall(
        r"(?<![\w./-])((?:dnntrain|conf|docs|scripts|tests|\.ci)/[\w./-]*)", page.read_text(encoding="utf-8")
    ):
        if not re.search(r"NAME|GROUP|CHOICE", path):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_keys_that_are_named_exist(page: Path) -> None:
    known = keys()
    for code in re.findall(r"`([^`\n]+)`", without_fences(page)):
        command = re.match(r"dnntrain ([a-z]+)(?![\w=])", code)
        assert command is None or command[1] in COMMANDS, code
        key = re.match(r"\+?((?:[a-z_]+\.)+[a-z_0-9]+)(?==|$)", code)
        if key and key[1].partition(".")[0] in {*SECTIONS, *GROUPS} and key[1].rpartition(".")[2] not in FILE_TYPES:
            # `data.args.size`: the arguments of a user's own code have names of their own.
            assert re.sub(r"\.args\..*", ".args", key[1]) in known, code


def test_the_tree_of_the_tour_is_the_tree_of_the_package() -> None:
    [tree] = [fence.text for fence in fences(DESIGN) if fence.text.startswith("dnntrain/\n")]
    named = set(re.findall(r"^[├└]── (\S+)", tree, re.M))
    package = ROOT / "dnntrain"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    assert named == folders | modules


@pytest.mark.parametrize(("heading", "values"), [("Hooks", Hooks), ("Batch", Batch)])
def test_the_tables_of_the_plug_in_guide_name_every_field(heading: str, values: type) -> None:
    section = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    rows = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.M)
    assert sorted(rows) == sorted(field.name for field in dataclasses.fields(values))


def test_the_table_of_groups_names_every_group() -> None:
    section = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").partition("\n## Groups\n")[2]
    rows = re.findall(r"^\| (`.*`) \|", section.partition("\n## ")[0], re.M)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(GROUPS)


def test_the_loop_of_the_tour_names_every_hook() -> None:
    [loop] = [fence.text for fence in fences(DESIGN) if "for step in progress.steps():" in fence.text]
    fields = {field.name for field in dataclasses.fields(Hooks)} - {"memory_use"}  # it acts in the plan
    assert {name for name in fields if name not in loop} == set()


def test_the_tour_names_eight_files_to_read_first() -> None:
    section = (
        DESIGN.read_text(encoding="utf-8").partition("\n## Read these eight files first\n")[2].partition("\n## ")[0]
    )
    assert len(re.findall(r"^\| `dnntrain/", section, re.M)) == 8


def test_the_manifest_of_a_checkpoint_is_described_as_it_is() -> None:
    text = (ROOT / "docs" / "run-directory.md").read_text(encoding="utf-8")
    assert f"\n| `schema` | {SCHEMA_VERSION} |\n" in text


def test_the_exit_codes_are_those_of_the_exceptions() -> None:
    section = (ROOT / "docs" / "run-directory.md").read_text(encoding="utf-8").partition("\n## Exit codes\n")[2]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section.partition("\n## ")[0], re.M)}
    assert codes == {0, 1, *(error.exit_code for error in error_classes(DnntrainError))}


@pytest.mark.slow
def test_the_reference_is_current() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "make_reference.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {dnntrain.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def error_classes(base: type[DnntrainError]) -> Iterator[type[DnntrainError]]:
    """Every class below `base`."""
    for error in base.__subclasses__():
        yield error
        yield from error_classes(error)


def quick(words: list[str]) -> list[str]:
    """The words with FAST added to what trains, as far as they do not say otherwise."""
    if parse_arguments(words).command != "train":
        return words
    given = {word.partition("=")[0] for word in words}
    return [*words, *(word for word in FAST if word.partition("=")[0] not in given)]


def without_fences(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_fences(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def keys() -> set[str]:
    """Every key of every choice."""
    registry = Registry((get_builtin_source(),))
    choices = [choice for group in GROUPS for choice in registry.get_choices(group).values() if choice.module_path]
    return {
        *get_root_fields(),
        *(f"{section}.{name}" for section in SECTIONS for name in get_section_fields(section)),
        *(f"{choice.key}.{name}" for choice in choices for name in choice.schema.fields),
    }
