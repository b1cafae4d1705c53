"""Folders of data sets on this machine, and downloads into them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dnntrain.errors import DataError
from dnntrain.utils.downloads import get_refusal_reason


def find_data_root(root: str | None, name: str, environ: Mapping[str, str] | None = None) -> Path:
    """Return `root` if set, else $DNNTRAIN_DATA, else $XDG_DATA_HOME/dnntrain.

    $XDG_DATA_HOME is ~/.local/share by default.
    """
    environ = os.environ if environ is None else environ
    if root:
        return Path(root).expanduser()
    if environ.get("DNNTRAIN_DATA"):
        return Path(environ["DNNTRAIN_DATA"]).expanduser()
    if name.endswith("_folder"):
        noun = {"audio_folder": "sounds", "text_folder": "texts"}.get(name, "images")
        raise DataError(f"data={name} needs the folder of your {noun}", "set data.root=FOLDER, or $DNNTRAIN_DATA")
    home = environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path("~/.local/share").expanduser()) / "dnntrain"


def download_data_set(root: Path, torchvision_class: str) -> None:
    """Download the data set into `root` with torchvision, which checks the md5.

    Several processes may call this at once: one downloads, the others wait for it. Raises DataError
    if the download fails.
    """
    from torchvision import datasets

    if reason := get_refusal_reason():
        raise DataError(
            f"{torchvision_class} is not in {root}, and {reason}", "dnntrain train downloads it with data.download=true"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _exclusive_lock(root / ".download.lock"):
            getattr(datasets, torchvision_class)(str(root), train=False, download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise DataError(
            f"{torchvision_class} could not be downloaded into {root}: {reason}",
            "check the network and that the folder can be written, or put the files there and set data.root",
        ) from None


@contextmanager
def _exclusive_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` if the system supports such locks."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
