"""Write report.html: one file of at most 1 MB that loads nothing and runs nothing.

Every text is escaped.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from dnntrain.errors import ConfigError
from dnntrain.report import compare, facts, gallery, heading, sections
from dnntrain.report.best_runs import MAX_RUNS
from dnntrain.report.clients import render_clients
from dnntrain.report.explanation import render_explanation_summary
from dnntrain.report.exports import render_exports
from dnntrain.report.html import escape_text
from dnntrain.report.load_run import RunData, read_run
from dnntrain.report.pruning import render_sensitivity
from dnntrain.report.step_time import render_step_time
from dnntrain.report.style import build_style_sheet
from dnntrain.utils.explain_error import explain_lack_of_resources
from dnntrain.utils.files import open_file, write_bytes
from dnntrain.utils.messages import warn_user

_MAX_BYTES = 1_000_000
_MAX_NAME = 80

#: The end of the title of each page, and the bytes in which it is.
_TITLE_END = " · dnntrain</title>"
_MAX_HEAD_BYTES = 4096


def check_page_path(path: Path | None) -> Path | None:
    """Return the page to write. Raises ConfigError if it would replace a file that is not a page."""
    if path is None:
        return None
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--path {path} must end in .html", f"as in --path {path.with_suffix('.html')}")
    if path.is_dir():
        raise ConfigError(f"--path {path} must be a file, but is a folder", f"as in --path {path / 'comparison.html'}")
    if not path.parent.is_dir():
        raise ConfigError(f"--path {path}: there is no folder {path.parent}", f"run: mkdir -p '{path.parent}'")
    if path.is_file() and not is_page(path):
        raise ConfigError(f"--path {path} exists and is not a page of dnntrain", "name a new file")
    return path


def is_page(path: Path) -> bool:
    """Return whether `path` is a page that `render_page` has made."""
    try:
        with open_file(path, follow_links=True) as file:
            return _TITLE_END.encode() in file.read(_MAX_HEAD_BYTES)
    except OSError:
        return False


def write_report(run_dirs: Sequence[Path], output: Path | None = None, verdicts: str = "", note: str = "") -> Path:
    """Write the report of one run, or the comparison of several, and return its path.

    `output` is by default `report.html` in the run directory, or `comparison-NAMES.html` in the
    folder that holds all runs: each list of runs has a page of its own. `verdicts` is a section that
    says which differences of a comparison are beyond noise, and `note` a sentence below its title. Raises
    ConfigError if a folder is not a run directory or the file cannot be written.
    """
    if not 1 <= len(run_dirs) <= MAX_RUNS:
        raise ConfigError(
            f"{len(run_dirs)} run directories were given; a report needs 1 to {MAX_RUNS}", "name fewer runs"
        )
    runs = [read_run(Path(path)) for path in run_dirs]
    for run in runs:
        for warning in run.notes:
            warn_user(f"{run.path}: {warning}")
    page = render_run(runs[0]) if len(runs) == 1 else render_comparison(runs, verdicts, note)
    path = output if output is not None else _get_default_output(runs)
    try:
        write_bytes(path, page)
    except OSError as error:
        raise explain_lack_of_resources(error) or ConfigError(
            f"{path} cannot be written: {error.strerror or error}", "the run directory, or its parent, must be writable"
        ) from None
    return path


def render_run(run: RunData) -> bytes:
    """Return the report of one run."""
    parts = {
        "heading": heading.render_heading(run),
        "cards": sections.render_cards(run),
        "charts": sections.render_charts(run),
        "exports": render_exports(run),
        "errors": gallery.render_errors(run),
        "clients": render_clients(run),
        "sensitivity": render_sensitivity(run),
        "explanation": render_explanation_summary(run),
        "step_time": render_step_time(run),
        "gallery": gallery.render_gallery(run),
        "reproduce": facts.render_reproduction(run),
        "facts": facts.render_facts(run),
        "footer": sections.render_footer(run),
    }
    page = render_page(run.name, list(parts.values()))
    # Each part has its own bounds; if several of them are reached together, these parts are the
    # least important.
    for part_name in ("gallery", "facts", "errors"):
        if len(page) > _MAX_BYTES:
            del parts[part_name]
            page = render_page(run.name, list(parts.values()))
    return page


def render_comparison(runs: Sequence[RunData], verdicts: str = "", note: str = "") -> bytes:
    """Return the comparison of several runs."""
    names = compare.label_runs(runs)
    title = f"{len(runs)} runs"
    about = f'<p class="about">{escape_text(note, 200)}</p>' if note else ""
    parts = [
        f'<header><p class="kicker">dnntrain comparison</p><div class="title"><h1>{title}</h1></div>{about}</header>',
        compare.render_figures(runs, names),
        verdicts,
        compare.render_overlays(runs, names),
        compare.render_differences(runs, names),
        sections.render_footer(*runs),
    ]
    page = render_page(title, parts)
    return page if len(page) <= _MAX_BYTES else render_page(title, parts[:4])


def render_page(title: str, parts: Sequence[str]) -> bytes:
    """Return a whole page of HTML parts."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape_text(title, 100)}{_TITLE_END}<style>{build_style_sheet()}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )
    return text.encode("utf-8", errors="replace")


def _get_default_output(runs: Sequence[RunData]) -> Path:
    if len(runs) == 1:
        return runs[0].path / "report.html"
    common = Path(os.path.commonpath([run.path for run in runs]))
    # A run that is compared with itself, or with one inside it, still has a folder around it.
    folder = common.parent if any(run.path == common for run in runs) else common
    return folder / name_comparison([str(run.path.relative_to(folder)) for run in runs])


def name_comparison(names: Sequence[str]) -> str:
    """Return the file name of a comparison: the runs, and a digest that no other list of runs has."""
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:6]
    words = [re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run" for name in names]
    text = "-".join(words) if sum(map(len, words)) <= _MAX_NAME else f"{words[0][:_MAX_NAME]}-and-{len(words) - 1}-more"
    return f"comparison-{text}-{digest}.html"
