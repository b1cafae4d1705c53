"""Find the folder of dnntrain's own YAML files, without reading any."""

from __future__ import annotations

from pathlib import Path

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]


def find_conf_folder() -> Path | None:
    """Return `conf/` of a checkout, or `dnntrain/conf` of an installation; None if it is missing."""
    folders = (PACKAGE_FOLDER / "conf", PACKAGE_FOLDER.parent / "conf")
    return next((conf for conf in folders if (conf / "config.yaml").is_file()), None)


def has_choice(name: str) -> bool:
    """Return whether a group of dnntrain's own has a choice `name`."""
    conf = find_conf_folder()
    return conf is not None and name.isidentifier() and any(conf.glob(f"*/{name}.yaml"))
