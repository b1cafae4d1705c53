"""The text of the project keeps docs/style.md: no banned phrase, no British spelling, prose within 100 columns."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STYLE = ROOT / "docs" / "style.md"
PAGES = (
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")),
    *sorted((ROOT / "docs").glob("*.md")),
)
CONFIG_FILES = sorted((ROOT / "conf").rglob("*.yaml"))

#: Pages and folders of conf/ that are not rewritten yet. Remove an entry with its last offence; add none.
PENDING = {
    "docs/benchmarks.md",
    "docs/composition.md",
    "docs/data.md",
    "docs/distillation.md",
    "docs/export.md",
    "docs/models.md",
    "docs/monitoring.md",
    "docs/normalization.md",
    "docs/optimizers.md",
    "docs/quantization.md",
    "docs/reference.md",
    "docs/regularization.md",
    "docs/schedules.md",
    "conf",
}


def read_banned() -> list[tuple[re.Pattern[str], str]]:
    """Return the patterns of the tables under "Banned phrases" and "British spellings", and what to write instead."""
    text = STYLE.read_text(encoding="utf-8")
    banned = []
    for heading, prefix in (("## Banned phrases", ""), ("## British spellings", r"\b")):
        table = text.partition(heading)[2].partition("\n## ")[0]
        for row in re.findall(r"^\| (`.*`) \| (.*) \|$", table, re.M):
            for pattern in re.findall(r"`([^`]+)`", row[0]):
                spaced = pattern.replace(r"\|", "|").replace(" ", r"\s+")
                banned.append((re.compile(prefix + spaced, re.I), row[1]))
    return banned


BANNED = read_banned()
ANY_BANNED = re.compile("|".join(pattern.pattern for pattern, _ in BANNED), re.I)


def find_offences(text: str, first_line: int = 1) -> Iterator[str]:
    """Yield "line: phrase (write …)" for each banned phrase of `text`."""
    for pattern, instead in BANNED:
        for match in pattern.finditer(text):
            line = first_line + text.count("\n", 0, match.start())
            yield f"line {line}: {' '.join(match[0].split())!r}: write {instead}"


def check(offences: Iterable[str]) -> None:
    report = "\n".join(offences)
    assert not report, report


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def is_pending(path: Path) -> bool:
    return any(name_of(path) == entry or name_of(path).startswith(f"{entry}/") for entry in PENDING)


CLEAN_PAGES = [page for page in PAGES if not is_pending(page)]


@pytest.mark.parametrize("page", CLEAN_PAGES, ids=name_of)
def test_a_page_has_no_banned_phrase(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page == STYLE:  # its tables, quotations and code spans show what must not be written
        text = re.sub(r"^\|.*$", "", text, flags=re.M)
        text = re.sub(r'"[^"]*"|`[^`]*`', lambda shown: "\n" * shown[0].count("\n"), text)
    check(find_offences(text))


@pytest.mark.parametrize("page", CLEAN_PAGES, ids=name_of)
def test_prose_keeps_to_100_columns(page: Path) -> None:
    text = re.sub(
        r"^```.*?^```$", lambda fence: "\n" * fence[0].count("\n"), page.read_text(encoding="utf-8"), flags=re.S | re.M
    )
    too_long = [
        number for number, line in enumerate(text.splitlines(), 1) if len(line) > 100 and not line.startswith("|")
    ]
    assert too_long == []


@pytest.mark.parametrize("path", [path for path in CONFIG_FILES if not is_pending(path)], ids=name_of)
def test_the_comments_of_a_configuration_file_have_no_banned_phrase(path: Path) -> None:
    lines = [line.partition("# ")[2] for line in path.read_text(encoding="utf-8").splitlines()]
    check(find_offences("\n".join(lines)))


def read_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (first line, text) of each string and comment of a module."""
    source = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    if "#" in source:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


@pytest.mark.slow
def test_no_module_has_a_banned_phrase() -> None:
    modules = sorted((ROOT / "dnntrain").rglob("*.py"))
    assert len(modules) > 500
    check(
        f"{name_of(path)} {offence}"
        for path in modules
        for line, text in read_texts(path)
        if " " in text and ANY_BANNED.search(text)
        for offence in find_offences(text, line)
    )


@pytest.mark.parametrize(
    "text",
    [
        "The run is gone on with.",
        "It starts anew.",
        "A setting is refused\nhere.",
        "Weights lie in parts.",
        "normalisation",
        "also where it runs",
    ],
)
def test_the_search_finds_a_banned_phrase(text: str) -> None:
    assert list(find_offences(text)) != []


@pytest.mark.parametrize(
    "text",
    ["It understands you.", "The folder where the run is.", "Precise noise, otherwise raised.", "has not been read"],
)
def test_the_search_accepts_plain_words(text: str) -> None:
    assert list(find_offences(text)) == []


def test_the_first_screen_of_the_readme_says_what_matters() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:45]
    screen = "\n".join(lines)
    assert max(map(len, lines)) <= 100
    for phrase in ("classifiers and regressors", "images and tables", "pip install", "2.76 ×", "Do not use it"):
        assert phrase in screen
