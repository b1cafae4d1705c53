"""Find the models of a package by the source of its modules. Imports neither torch nor the package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from dnntrain.errors import ConfigError
from dnntrain.utils.suggest import did_you_mean
from dnntrain.utils.versions import read_version

#: timm and torchvision register each model in this form.
_REGISTERED = re.compile(r"^@register_model\b.*?^def (\w+)\(", re.MULTILINE | re.DOTALL)


def check_model_name(package: str, name: str, setting: str) -> None:
    """Raise ConfigError if `package` is not installed, or has no model called `name`.

    A tag of weights behind a point does not count. A name in quotes counts as known: timm lists its
    deprecated names in this form.
    """
    arch = name.partition(".")[0]
    sources = list(_read_sources(package))
    if not sources:
        raise ConfigError(f"{setting} needs the package {package}", f"install it: pip install {package}")
    quoted = re.compile(rf"""def {re.escape(arch)}\(|["']{re.escape(arch)}["']""")
    if not any(quoted.search(text) for text in sources):
        names = list_model_names(package)
        raise ConfigError(
            f"{setting}: {package} {read_version(package) or ''} has no such model; {did_you_mean(arch, names)}"
        )


def list_model_names(package: str) -> list[str]:
    """Return the names of the models that the modules of `package`.models register."""
    return sorted({name for text in _read_sources(package) for name in _REGISTERED.findall(text)})


def _read_sources(package: str) -> Iterator[str]:
    """Yield the source of each module of `package`.models and `package`.models.segmentation."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        models = Path(folder, "models")
        for path in (*sorted(models.glob("*.py")), *sorted(models.glob("segmentation/*.py"))):
            yield path.read_text(encoding="utf-8", errors="replace")
